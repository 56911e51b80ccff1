// SPDX-License-Identifier: Apache-2.0
//! Elements and the list that runs them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use tracing::debug;

use super::{Api, Ctx, Error, Result};

/// What `find` answers: items until the stream ends.
pub type Found<A> = BoxStream<'static, Result<<A as Api>::Found>>;

/// One responsibility of a chain.
///
/// An element does its part and calls `next`, or answers by itself. Each method passes by default.
///
/// # Contract
/// - `request` turns `message` into the answer. Doing it twice equals doing it once.
/// - Undo belongs to the runner: when an element fails after its `next` had succeeded and the connection is not
///   established, the runner closes everything behind it. What an element made before calling `next` it keeps
///   as a guard in [`Ctx::store`], which is dropped with the connection, or when its first request fails.
/// - A failed refresh leaves what was there.
/// - `close` always calls `next`, also when its own part fails.
/// - Every wait is bounded by [`Ctx::deadline`]. Nobody drops the future of a call before that.
#[async_trait]
pub trait Element<A: Api>: Send + Sync + 'static {
    /// The one word by which logs, errors, documents and files know it.
    fn name(&self) -> &'static str;

    /// Asks for a connection, or registers an entry.
    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        next.request(ctx, message).await
    }

    /// Closes a connection, or unregisters an entry.
    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        next.close(ctx, message).await
    }

    /// Finds entries, or monitors connections.
    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        next.find(ctx, query).await
    }
}

type Elements<A> = Vec<Arc<dyn Element<A>>>;

/// Elements in the order in which a call passes them.
pub struct Chain<A: Api>(Arc<[Arc<dyn Element<A>>]>);

impl<A: Api> Clone for Chain<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Makes a [`Chain`] from elements, in the order in which a call passes them.
#[macro_export]
macro_rules! chain {
    ($($element:expr),* $(,)?) => {
        $crate::core::Chain::new(vec![$(::std::sync::Arc::new($element)),*])
    };
}

impl<A: Api> Chain<A> {
    /// A chain of these elements.
    pub fn new(elements: Elements<A>) -> Self {
        Self(elements.into())
    }

    /// These elements behind ours.
    #[must_use]
    pub fn then(&self, more: &Chain<A>) -> Self {
        Self(self.0.iter().chain(more.0.iter()).cloned().collect())
    }

    /// The names of its elements.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|element| element.name()).collect()
    }

    /// Asks for a connection, or registers an entry; `message` becomes the answer.
    pub async fn request(&self, ctx: &Ctx, message: &mut A::Message) -> Result<()> {
        self.start().request(ctx, message).await
    }

    /// Closes a connection, or unregisters an entry.
    pub async fn close(&self, ctx: &Ctx, message: &mut A::Message) -> Result<()> {
        self.start().close(ctx, message).await
    }

    /// Finds entries, or monitors connections.
    pub async fn find(&self, ctx: &Ctx, query: A::Query) -> Result<Found<A>> {
        self.start().find(ctx, query).await
    }

    fn start(&self) -> Next<'_, A> {
        Next {
            here: &self.0,
            then: None,
            reached: None,
        }
    }
}

/// The rest of the chain behind an element.
///
/// Calling it more than once is allowed: that is how an element tries several ways.
pub struct Next<'a, A: Api> {
    here: &'a [Arc<dyn Element<A>>],
    then: Option<&'a Next<'a, A>>,
    reached: Option<&'a AtomicBool>,
}

impl<A: Api> Clone for Next<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Api> Copy for Next<'_, A> {}

impl<'a, A: Api> Next<'a, A> {
    /// Passes the call on. At the end of the chain the message is the answer.
    pub async fn request(&self, ctx: &Ctx, message: &mut A::Message) -> Result<()> {
        let reached = AtomicBool::new(false);
        let done = match (self.here, self.then) {
            ([element, rest @ ..], then) => {
                let next = Next {
                    here: rest,
                    then,
                    reached: Some(&reached),
                };
                element.request(ctx, message, next).await
            }
            ([], Some(then)) => Box::pin(then.request(ctx, message)).await,
            ([], None) => Ok(()),
        };
        if let Err(error) = done {
            // Boxed, so that the future of a call that succeeds is small.
            return Err(Box::pin(self.undo(ctx, message, error, reached.into_inner())).await);
        }
        if let Some(reached) = self.reached {
            reached.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Closes what is behind the first element, which has failed by `error`, if that was reached. Returns the error.
    async fn undo(&self, ctx: &Ctx, message: &mut A::Message, error: Error, reached: bool) -> Error {
        let [element, rest @ ..] = self.here else {
            return error;
        };
        let error = error.at(element.name());
        debug!(element = element.name(), id = super::Message::id(message), %error, "request failed");
        if reached && !ctx.is_established() {
            let next = Next {
                here: rest,
                then: self.then,
                reached: None,
            };
            if let Err(undo) = next.close(&ctx.postponed(), message).await {
                return error.also(&undo);
            }
        }
        error
    }

    /// Passes the close on. What an element closes by itself after a request, the runner does not close again.
    pub async fn close(&self, ctx: &Ctx, message: &mut A::Message) -> Result<()> {
        if let Some(reached) = self.reached {
            reached.store(false, Ordering::Relaxed);
        }
        match (self.here.split_first(), self.then) {
            (Some((element, rest)), _) => {
                let next = Next {
                    here: rest,
                    then: self.then,
                    reached: None,
                };
                element
                    .close(ctx, message, next)
                    .await
                    .map_err(|error| error.at(element.name()))
            }
            (None, Some(then)) => Box::pin(then.close(ctx, message)).await,
            (None, None) => Ok(()),
        }
    }

    /// Passes the query on. At the end of the chain nothing is found.
    pub async fn find(&self, ctx: &Ctx, query: A::Query) -> Result<Found<A>> {
        match (self.here.split_first(), self.then) {
            (Some((element, rest)), _) => {
                let next = Next {
                    here: rest,
                    then: self.then,
                    reached: None,
                };
                element
                    .find(ctx, query, next)
                    .await
                    .map_err(|error| error.at(element.name()))
            }
            (None, Some(then)) => Box::pin(then.find(ctx, query)).await,
            (None, None) => Ok(Box::pin(futures::stream::empty())),
        }
    }

    /// The elements of `chain` before this rest.
    pub fn through<'b>(&'b self, chain: &'b Chain<A>) -> Next<'b, A>
    where
        'a: 'b,
    {
        Next {
            here: &chain.0,
            then: Some(self),
            reached: None,
        }
    }

    /// A chain of its own with the same elements, for a task that outlives the call.
    pub fn detach(&self) -> Chain<A> {
        let mut elements: Elements<A> = self.here.to_vec();
        let mut then = self.then;
        while let Some(next) = then {
            elements.extend_from_slice(next.here);
            then = next.then;
        }
        Chain::new(elements)
    }
}

impl Error {
    /// The same error, telling that undoing failed as well.
    fn also(self, undo: &Error) -> Self {
        let text = format!("{} (and undoing it: {undo})", self.text());
        self.with_text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::NetworkService;
    use crate::core::testing::{Connection, Fails, Probe, request};

    /// Runs a chain of its own before the rest.
    struct Inner(Chain<NetworkService>);

    #[async_trait]
    impl Element<NetworkService> for Inner {
        fn name(&self) -> &'static str {
            "inner"
        }
        async fn request(
            &self,
            ctx: &Ctx,
            message: &mut crate::core::Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            next.through(&self.0).request(ctx, message).await
        }
    }

    #[tokio::test]
    async fn what_is_behind_a_failure_is_closed_once_whoever_closes_it() {
        for closes in [false, true] {
            let probe = Probe::new();
            let inner: Chain<NetworkService> = crate::chain![Fails { closes }];
            for chain in [
                inner.then(&crate::chain![Arc::clone(&probe)]),
                crate::chain![Inner(inner.clone()), Arc::clone(&probe)],
            ] {
                let before = probe.closes().len();
                let error = chain
                    .request(&Connection::new().first(), &mut request())
                    .await
                    .expect_err("told to fail");
                assert_eq!((error.reason(), error.place()), ("told-so", Some("fails")));
                assert_eq!(probe.closes().len(), before + 1);
            }
        }
    }

    #[tokio::test]
    async fn a_failed_refresh_closes_nothing() {
        let probe = Probe::new();
        let chain: Chain<NetworkService> = crate::chain![Fails { closes: false }, Arc::clone(&probe)];
        let again = Connection::new().again();
        chain
            .request(&again, &mut request())
            .await
            .expect_err("told to fail");
        assert!(probe.closes().is_empty());
    }
}
