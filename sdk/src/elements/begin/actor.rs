// SPDX-License-Identifier: Apache-2.0
//! The life of one connection behind `begin`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{timeout, timeout_at};
use tracing::{Instrument, debug, debug_span, info};

use super::{Call, NOT_THE_OWNER, Place, Reply};
use crate::core::events::Queued;
use crate::core::{
    Api, Chain, Component, Ctx, Error, Event, Events, Kept, Message, Result, Store, Unfinished,
};
use crate::policy::DENIED;

/// What a call may overrun its deadline by, for undoing, before it is cut.
const GRACE: Duration = Duration::from_secs(2);

/// What a caller may wait beyond its deadline for a call that has begun: until it is cut, and for undoing it then.
pub(super) const OVERRUN: Duration = GRACE.saturating_mul(2);

/// What the close in a reselection may take: who left us without a word does not answer, and closes by itself when
/// tokens expire.
const TO_LEAVE: Duration = Duration::from_secs(1);

/// How many events of one connection wait for their turn.
const MAX_EVENTS: usize = 4;

pub(super) struct Actor<A: Api> {
    /// Its place in the table; absent once it has left.
    place: Option<Place<A>>,
    client: bool,
    rest: Chain<A>,
    calls: mpsc::Receiver<Box<Call<A>>>,
    events: Events,
    queued: mpsc::Receiver<Box<Queued>>,
    store: Store,
    committed: Option<Box<Committed<A>>>,
}

/// What the last successful request left.
struct Committed<A: Api> {
    /// As it is now.
    message: Kept<A::Message>,
    /// Our place on its path.
    index: u32,
    /// As the application was told, where it has become something else since.
    told: Option<Kept<A::Message>>,
    /// The circumstances of the last successful request.
    ctx: Ctx,
    /// The time that the first request had.
    budget: Duration,
    life: Life,
}

impl<A: Api> Committed<A> {
    /// What is requested again and closed.
    fn stored(&self) -> A::Message {
        let mut message = self.message.open();
        message.remember();
        message
    }
}

/// What a connection that was established is now.
#[derive(Clone, Copy, PartialEq)]
enum Life {
    /// Established.
    Up,
    /// Closed by a reselection that found nothing yet: it may be requested again.
    Lost,
    /// Closed without success by somebody who closes it again later, with everything it kept.
    Closing,
}

/// Whether the caller has its answer. One who neither takes nor drops it for long is taken to have it.
async fn is_heard(hears: Option<oneshot::Receiver<()>>) -> bool {
    match hears {
        None => false,
        Some(hears) => timeout(GRACE, hears).await.map_or(true, |heard| heard.is_ok()),
    }
}

impl<A: Api> Actor<A> {
    pub(super) fn new(
        place: Place<A>,
        client: bool,
        rest: Chain<A>,
        calls: mpsc::Receiver<Box<Call<A>>>,
    ) -> Self {
        let (sender, queued) = mpsc::channel(MAX_EVENTS);
        let (events, store) = (Events::new(sender), Store::default());
        Self {
            place: Some(place),
            client,
            rest,
            calls,
            events,
            queued,
            store,
            committed: None,
        }
    }

    /// Serves the connection until it is closed, its first request fails, or the component ends.
    pub(super) async fn run(mut self, component: &Component) {
        let id = self.place.as_ref().map_or("", |place| &place.id);
        let span = debug_span!("connection", id);
        async {
            loop {
                tokio::select! {
                    biased;
                    () = component.shutdown().cancelled() => break,
                    // What runs has its memory only while it runs: most connections are idle most of the time.
                    Some(queued) = self.queued.recv() => Box::pin(self.event(*queued)).await,
                    Some(call) = self.calls.recv() => Box::pin(self.call(*call)).await,
                }
                if self.committed.is_none() {
                    break;
                }
                self.settle().await;
            }
            self.leave().await;
        }
        .instrument(span)
        .await;
    }

    /// Packs what a request has left, when its caller has the answer: meanwhile other hops are at work. An application
    /// has few connections, and what it repeats is compared with this.
    async fn settle(&mut self) {
        let committed = self.committed.as_deref_mut().filter(|_| !self.client);
        if let Some(committed) = committed.filter(|committed| !committed.message.is_packed()) {
            yield_now().await;
            committed.message.pack();
        }
    }

    /// Frees the place in the table, and sends those who wait for their turn to whoever takes it next.
    async fn leave(&mut self) {
        self.store.clear();
        self.place = None;
        self.calls.close();
        while let Some(call) = self.calls.recv().await {
            let _caller_may_be_gone = call.reply.send(Reply::Again(call.message));
        }
    }

    async fn call(&mut self, call: Call<A>) {
        let Call {
            ctx,
            message,
            is_close,
            begun,
            reply,
        } = call;
        begun.store(true, Ordering::Release);
        if let Err(refused) = self.admit(&ctx) {
            self.answer(reply, Err(refused)).await;
            return;
        }
        if is_close {
            let done = self.close(&ctx, message).await;
            self.answer(reply, done).await;
            return;
        }
        if reply.is_closed() {
            return;
        }
        let first = !self.is(Life::Up) || message.wants_reselect();
        let done = self.request(ctx, message).await;
        let hears = self.answer(reply, done).await;
        if first && self.is(Life::Up) && !is_heard(hears).await {
            info!("nobody waited for the connection; closing it");
            self.close_stored(Duration::MAX).await;
        }
    }

    /// Answers a call; what is returned tells whether somebody hears it. When the connection has ended, its place is
    /// free before the caller knows.
    async fn answer(
        &mut self,
        reply: oneshot::Sender<Reply<A>>,
        done: Result<A::Message>,
    ) -> Option<oneshot::Receiver<()>> {
        if self.committed.is_none() {
            self.leave().await;
        }
        let (heard, hears) = oneshot::channel();
        reply.send(Reply::Done(done, heard)).is_ok().then_some(hears)
    }

    /// Refuses a caller who may not act on what somebody else has requested.
    fn admit(&self, ctx: &Ctx) -> Result<()> {
        match self.committed.as_deref() {
            Some(committed) if !A::admits(committed.ctx.peer(), committed.index, ctx.peer()) => {
                let text = format!(
                    "{} was requested by somebody else than {}: {DENIED}",
                    committed.message.open().id(),
                    ctx.peer().spiffe_id().unwrap_or("the caller"),
                );
                Err(Error::denied(NOT_THE_OWNER, text))
            }
            _ => Ok(()),
        }
    }

    fn is(&self, life: Life) -> bool {
        self.committed
            .as_ref()
            .is_some_and(|committed| committed.life == life)
    }

    async fn request(&mut self, ctx: Ctx, message: A::Message) -> Result<A::Message> {
        if message.wants_reselect() || self.is(Life::Closing) {
            let within = if message.wants_reselect() {
                TO_LEAVE
            } else {
                Duration::MAX
            };
            self.close_stored(within).await;
            self.forget();
        }
        let message = match self.committed.as_deref() {
            Some(Committed {
                message: current,
                told,
                ..
            }) if self.client => message.merge(told.as_ref().map(Kept::open), current.open()),
            _ => message,
        };
        let answer = self.pass(ctx, message).await?;
        if let Some(committed) = self.committed.as_deref_mut() {
            committed.told = None;
        }
        Ok(answer)
    }

    /// Runs the rest of the chain and keeps what it answers.
    async fn pass(&mut self, ctx: Ctx, mut message: A::Message) -> Result<A::Message> {
        let first = !self.is(Life::Up);
        let ctx = ctx.of_connection(&self.store, &self.events, !first);
        let late = || Error::deadline("the call overran its deadline and was cut");
        let done = match timeout_at(ctx.deadline() + GRACE, self.rest.request(&ctx, &mut message)).await {
            Ok(done) => done,
            Err(_) if first => {
                let undone = self.rest.close(&ctx.postponed(), &mut message).await;
                Err(undone.err().map_or_else(late, |error| late().context(error)))
            }
            Err(_) => Err(late()),
        };
        done.inspect_err(|_| {
            if first {
                self.store.clear_passing()
            }
        })?;
        message.establish();
        let (budget, told) = match self.committed.take() {
            Some(before) => (before.budget, before.told.or(Some(before.message))),
            None => (ctx.budget(), None),
        };
        self.committed = Some(Box::new(Committed {
            message: Kept::new(&message),
            index: message.path().index,
            told: told.filter(|_| self.client),
            ctx: ctx.attempt(),
            budget,
            life: Life::Up,
        }));
        Ok(message)
    }

    async fn close(&mut self, ctx: &Ctx, message: A::Message) -> Result<A::Message> {
        let committed = self.committed.take();
        let mut message = match committed.as_deref() {
            Some(committed) if committed.life != Life::Lost => message.closing(committed.stored()),
            _ if A::CLOSE_UNKNOWN => message,
            _ => return Ok(message),
        };
        let closed = self.shut(ctx, &mut message).await;
        if closed.is_err() && ctx.call().has::<Unfinished>() {
            self.committed = committed;
            if let Some(committed) = self.committed.as_deref_mut() {
                committed.life = Life::Closing;
            }
        } else {
            self.store.clear();
        }
        closed.map(|()| message)
    }

    /// Closes what is behind us, even when the caller has gone.
    async fn shut(&self, ctx: &Ctx, message: &mut A::Message) -> Result<()> {
        let ctx = ctx.uncancelled().of_connection(&self.store, &self.events, true);
        timeout_at(ctx.deadline() + GRACE, self.rest.close(&ctx, message))
            .await
            .unwrap_or_else(|_| Err(Error::deadline("the close overran its deadline and was cut")))
    }

    /// Closes what is stored, as an event that takes at most `within`. Errors are told to the log: nobody else can do better.
    async fn close_stored(&mut self, within: Duration) {
        let Some(committed) = self.committed.as_deref() else {
            return;
        };
        let ctx = committed.ctx.event(committed.budget).within(within);
        let message = committed.stored();
        if let Err(error) = self.close(&ctx, message).await {
            debug!(%error, "closing the connection by ourselves");
        }
    }

    /// Lets go of everything that is kept.
    fn forget(&mut self) {
        self.committed = None;
        self.store.clear();
    }

    async fn event(&mut self, queued: Queued) {
        if queued.is_withdrawn() {
            return;
        }
        let stored = self.committed.as_deref().map(|committed| {
            let ctx = committed.ctx.event(committed.budget).within(queued.within);
            (committed.life, ctx, committed.stored())
        });
        let done = match (queued.event, stored) {
            (Event::Close, Some((_, ctx, message))) => self.close(&ctx, message).await.map(drop),
            (_, None | Some((Life::Closing, ..))) => {
                Err(Error::not_found("closed", "the connection is closed"))
            }
            (Event::Refresh, Some((_, ctx, message))) => self.pass(ctx, message).await.map(drop),
            (Event::Reselect, Some((_, ctx, message))) => self.reselect(ctx, message, queued.within).await,
        };
        let _element_may_be_gone = queued.outcome.send(done);
    }

    /// Closes what is there and requests anew. When that fails the connection stays, for another try.
    async fn reselect(&mut self, ctx: Ctx, mut message: A::Message, within: Duration) -> Result<()> {
        if self.is(Life::Up) {
            if let Err(error) = self.shut(&ctx.within(TO_LEAVE), &mut message.clone()).await {
                debug!(%error, "closing the connection before reselection");
            }
            self.store.clear_passing();
        }
        message.reselect();
        if let Some(committed) = self.committed.as_deref_mut() {
            committed.life = Life::Lost;
            let before = std::mem::replace(&mut committed.message, Kept::new(&message));
            committed.told = committed.told.take().or(Some(before)).filter(|_| self.client);
        }
        let ctx = ctx.event(ctx.budget()).within(within);
        self.pass(ctx, message).await.map(drop)
    }
}
