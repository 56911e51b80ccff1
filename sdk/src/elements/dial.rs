// SPDX-License-Identifier: Apache-2.0
//! Opens the way to where the call goes next.
//!
//! **Guarantees**: elements behind find a [`Way`] to [`NextUrl`]. A connection that moves to another URL is closed at
//! the old one first, unless that was a socket of this machine which is gone. Each call asks the [`Dialer`] again, which
//! shares what is open and replaces what has aged. A close of a connection reaches nobody but who was requested: the
//! number in a URL of a descriptor may be another socket's by then.
//! **Placement**: behind whatever chooses the URL, before `sendfd`, `recvfd`, `trimpath` and `connect`. Elements behind
//! leave the message of a call that was not sent so that they can be asked with it again.
//! **Reads / writes**: reads [`NextUrl`]; without one, or with a way of somebody else in [`Ctx::store`], passes.
//! Writes the [`Way`] into [`Ctx::store`], for a find into [`Ctx::call`]; there also [`NobodyThere`].
//! **On failure**: a way that was new is forgotten, so that another candidate can be tried, unless an established
//! connection was refused: the one who did may have something of it from an earlier life, and is told when it closes or
//! goes on. When the answer was not heard, the next hop closes what it may have established, by the id that we have
//! suggested to it ([`SegmentId`]). When not even that can be said to it, a request that is repeated suggests the same
//! id, and finds it there; so does whoever is there in place of the one who knew it. A next hop that has somebody else's
//! connection under that id is asked again with a random one: ids can be guessed, and who guesses ours keeps nobody out.
//! A call that was not sent, since its connection had just ended, is sent once more over a new one.
//! **On close**: by the URL of the call, else by the one that was used last; then forgets the way. What is registered
//! may be unregistered by whoever is at the URL by then, another replica or one that was started anew, and also by a
//! caller that we do not know any more, since we were.
//! **Cost**: one look-up in the dialer's pool a call.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tonic::Code;
use tracing::debug;

use super::begin::NOT_THE_OWNER;
use super::clienturl::NextUrl;
use super::connect::LocalOnly;
use super::updatepath::SegmentId;
use crate::core::{Api, Ctx, Dialer, Element, Error, Found, Inode, Message, Next, Packed, Result, Way};

/// See the [module](self).
pub struct Dial<A: Api> {
    dialer: Arc<dyn Dialer<A>>,
    timeout: Duration,
}

/// Why a call was not sent.
pub(crate) const GONE: &str = "connection-gone";

/// Left in [`Ctx::call`] of a call that found nobody at a socket of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NobodyThere;

/// How long undoing a request may take whose answer was not heard: a next hop that hangs costs no more.
const TO_UNDO: Duration = Duration::from_secs(1);

/// Where the way of this connection leads.
#[derive(Clone)]
struct Dialed {
    url: String,
    /// The socket that was there, if it is one of this machine.
    socket: Option<Inode>,
}

impl Dialed {
    fn new(url: &str) -> Self {
        Self {
            url: url.to_string(),
            socket: socket(url),
        }
    }
}

/// The path of a socket of this machine.
fn local(url: &str) -> Option<&str> {
    url.strip_prefix("unix://")
}

/// The socket of this machine that is at `url` now.
fn socket(url: &str) -> Option<Inode> {
    Inode::at(local(url)?).ok()
}

impl<A: Api> Dial<A> {
    /// Dials for at most `timeout`, or as long as the call has when that is zero.
    pub fn new(dialer: Arc<dyn Dialer<A>>, timeout: Duration) -> Self {
        Self { dialer, timeout }
    }

    async fn open(&self, ctx: &Ctx, url: &str) -> Result<Way<A>> {
        let ctx = if self.timeout.is_zero() {
            ctx.clone()
        } else {
            ctx.within(self.timeout)
        };
        let dialed = ctx.bounded("reach it", self.dialer.dial(url, ctx.deadline()));
        dialed.await.map(Way).map_err(|error| {
            if local(url).is_some() {
                ctx.call().insert(NobodyThere);
            }
            error.context(format!("failed to dial {url}"))
        })
    }

    /// A way to `url` that leads to who is at the end of the one that is known: a socket's path may be another's by now.
    /// Replicas of a registry stand for each other.
    async fn reopen(&self, ctx: &Ctx, url: &str) -> Result<Way<A>> {
        let way = self.open(ctx, url).await?;
        if A::CLOSE_UNKNOWN {
            return Ok(way);
        }
        let known = ctx.store().get::<Way<A>>();
        let (known, now) = (
            known.as_ref().map(|known| known.0.peer().spiffe_id()),
            way.0.peer().spiffe_id(),
        );
        if known.is_some_and(|known| known != now) {
            let text = format!("{url} leads to {now:?} now, who has nothing to do with the connection");
            return Err(Error::unavailable("peer-unreachable", text));
        }
        Ok(way)
    }

    /// Passes a request on, again when it could not even be sent.
    async fn ask(&self, ctx: &Ctx, url: &str, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        match next.request(ctx, message).await {
            Err(error) if error.reason() == GONE => {
                ctx.store().insert(self.open(ctx, url).await?);
                next.request(ctx, message).await
            }
            done => done,
        }
    }

    /// Passes the first request at this URL on, under another id if need be.
    async fn introduce(
        &self,
        ctx: &Ctx,
        url: &str,
        asked: &Packed<A::Message>,
        message: &mut A::Message,
        next: Next<'_, A>,
    ) -> Result<()> {
        match self.ask(ctx, url, message, next).await {
            Err(error) if error.reason() == NOT_THE_OWNER => {
                debug!(id = asked.open().id(), %error, "asking under another id");
                ctx.call().insert(SegmentId(ctx.component().uuid()));
                *message = asked.open();
                let again = self.ask(ctx, url, message, next).await;
                // Who refuses a random id means something else, which hops before us do not try to mend.
                again.map_err(|error| match error.reason() {
                    NOT_THE_OWNER => error.because("peer"),
                    _ => error,
                })
            }
            done => done,
        }
    }

    /// Passes the first request at this URL on, and undoes what may have come of it when its answer was not heard.
    async fn begin(&self, ctx: &Ctx, url: &str, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let asked = Packed::new(message);
        let done = self.introduce(ctx, url, &asked, message, next).await;
        if let Err(error) = &done {
            let unheard = is_unheard(error);
            if !A::CLOSE_UNKNOWN && unheard {
                undo(ctx, asked.open(), next).await;
            }
            if unheard || !ctx.is_established() {
                forget::<A>(ctx);
            }
        }
        done
    }

    /// Passes on what we know nothing of, where whoever is next may know more.
    async fn close_unknown(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let url = ctx.call().get().filter(|_| A::CLOSE_UNKNOWN);
        if let Some(NextUrl(url)) = url
            && !ctx.call().has::<LocalOnly>()
            && !ctx.store().has::<Way<A>>()
        {
            ctx.call().insert(self.open(ctx, &url).await?);
        }
        next.close(ctx, message).await
    }

    /// Closes the connection at the URL that it leaves. Whoever listened on a socket of this machine that is gone, or
    /// whose number another one has now, is gone with it.
    async fn leave(&self, ctx: &Ctx, old: &Dialed, message: &A::Message, next: Next<'_, A>) -> Result<()> {
        let Dialed {
            url: old,
            socket: was,
        } = old;
        let ctx = ctx.postponed();
        if socket(old) != *was {
            debug!(id = message.id(), old, "the socket is gone");
            forget::<A>(&ctx);
            return Ok(());
        }
        let way = self.reopen(&ctx, old).await.inspect_err(|_| forget::<A>(&ctx))?;
        ctx.store().insert(way);
        let new = ctx.call().insert(NextUrl(old.to_string()));
        if let Err(error) = next.close(&ctx, &mut message.clone()).await {
            debug!(id = message.id(), old, %error, "closing at the old URL");
        }
        new.map(|new| ctx.call().insert(new));
        forget::<A>(&ctx);
        Ok(())
    }
}

/// Whether a call that failed so may have succeeded at the next hop, of which we did not hear.
fn is_unheard(error: &Error) -> bool {
    matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled) || error.reason() == "peer-unreachable"
}

/// Closes what the next hop may have established for a request whose answer was not heard.
async fn undo<A: Api>(ctx: &Ctx, mut asked: A::Message, next: Next<'_, A>) {
    let ctx = ctx.postponed().within(TO_UNDO);
    if let Err(error) = next.close(&ctx, &mut asked).await {
        debug!(id = asked.id(), %error, "undoing what the next hop may have established");
    }
}

fn forget<A: Api>(ctx: &Ctx) {
    drop(ctx.store().take::<Dialed>());
    drop(ctx.store().take::<Way<A>>());
}

#[async_trait]
impl<A: Api> Element<A> for Dial<A> {
    fn name(&self) -> &'static str {
        "dial"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let Some(NextUrl(url)) = ctx.call().get() else {
            return next.request(ctx, message).await;
        };
        let known = ctx.store().get::<Dialed>();
        if known.is_none() && ctx.store().has::<Way<A>>() {
            return next.request(ctx, message).await;
        }
        let stays = known.as_ref().is_some_and(|known| known.url == url);
        if let Some(old) = known.filter(|_| !stays) {
            self.leave(ctx, &old, message, next).await?;
        }
        let way = self.open(ctx, &url).await?;
        let before = ctx.store().insert(way.clone());
        // The same way ends at the same socket.
        if !stays || !before.is_some_and(|before| Arc::ptr_eq(&before.0, &way.0)) {
            ctx.store().insert(Dialed::new(&url));
        }
        ctx.call()
            .insert(SegmentId(ctx.component().next_id(message.id())));
        let done = match stays {
            true => self.ask(ctx, &url, message, next).await,
            false => self.begin(ctx, &url, message, next).await,
        };
        ctx.call().take::<SegmentId>();
        done
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let Some(Dialed { url: known, .. }) = ctx.store().get() else {
            return self.close_unknown(ctx, message, next).await;
        };
        let known = ctx.call().get().map_or(known, |NextUrl(url)| url);
        if !ctx.call().has::<LocalOnly>() {
            match self.reopen(ctx, &known).await {
                Ok(way) => drop(ctx.store().insert(way)),
                Err(error) => debug!(id = message.id(), %error, "closing by the way that was open"),
            }
        }
        let mut done = next.close(ctx, message).await;
        if let Err(error) = &done
            && error.reason() == GONE
            && let Ok(way) = self.reopen(ctx, &known).await
        {
            ctx.store().insert(way);
            done = next.close(ctx, message).await;
        }
        if done.is_ok() || !ctx.is_established() {
            forget::<A>(ctx);
        }
        done
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        if let Some(NextUrl(url)) = ctx.call().get() {
            ctx.call().insert(self.open(ctx, &url).await?);
        }
        next.find(ctx, query).await
    }
}

#[cfg(test)]
mod tests;
