// SPDX-License-Identifier: Apache-2.0
//! The life of one connection behind `begin`.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;
use tracing::{Instrument, debug, debug_span, info};

use super::{Call, Reply, Table};
use crate::core::events::Queued;
use crate::core::{Api, Chain, Component, Ctx, Error, Event, Events, Message, Result, Store};

/// What a call may overrun its deadline by, for undoing, before it is cut.
const GRACE: Duration = Duration::from_secs(2);

/// How many events of one connection wait for their turn.
const MAX_EVENTS: usize = 4;

pub(super) struct Actor<A: Api> {
    id: String,
    client: bool,
    rest: Chain<A>,
    calls: mpsc::Receiver<Box<Call<A>>>,
    events: Events,
    queued: mpsc::Receiver<Queued>,
    store: Store,
    committed: Option<Box<Committed<A>>>,
}

/// What the last successful request left.
struct Committed<A: Api> {
    /// As it is now.
    message: A::Message,
    /// As the application was told.
    returned: Option<A::Message>,
    /// The circumstances of the last successful request.
    ctx: Ctx,
    /// The time that the first request had.
    budget: Duration,
}

impl<A: Api> Actor<A> {
    pub(super) fn new(id: &str, client: bool, rest: Chain<A>, calls: mpsc::Receiver<Box<Call<A>>>) -> Self {
        let (sender, queued) = mpsc::channel(MAX_EVENTS);
        let (events, store) = (Events::new(sender), Store::default());
        Self {
            id: id.to_string(),
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
    pub(super) async fn run(mut self, component: &Component, table: &Table<A>) {
        let span = debug_span!("connection", id = %self.id);
        async {
            loop {
                tokio::select! {
                    biased;
                    () = component.shutdown().cancelled() => break,
                    Some(queued) = self.queued.recv() => self.event(queued).await,
                    Some(call) = self.calls.recv() => {
                        if let Some((reply, done)) = self.call(*call).await {
                            self.answer(table, reply, done);
                            if self.committed.is_none() { return }
                            continue;
                        }
                    }
                }
                if self.committed.is_none() {
                    break;
                }
            }
            self.leave(table);
        }
        .instrument(span)
        .await;
    }

    /// Answers a call. When the connection has ended, its place is free before the caller knows.
    fn answer(&mut self, table: &Table<A>, reply: oneshot::Sender<Reply<A>>, done: Result<A::Message>) {
        if self.committed.is_none() {
            self.leave(table);
        }
        let _caller_may_be_gone = reply.send(Reply::Done(done));
    }

    /// Frees the place in the table, and sends those who wait for their turn to whoever takes it next.
    fn leave(&mut self, table: &Table<A>) {
        self.store.clear();
        table.lock().remove(&self.id);
        self.calls.close();
        while let Ok(call) = self.calls.try_recv() {
            let _caller_may_be_gone = call.reply.send(Reply::Again(call.message));
        }
    }

    async fn call(&mut self, call: Call<A>) -> Option<(oneshot::Sender<Reply<A>>, Result<A::Message>)> {
        let Call {
            ctx,
            message,
            is_close,
            reply,
        } = call;
        if is_close {
            return Some((reply, self.close(&ctx, message).await));
        }
        if reply.is_closed() {
            return None;
        }
        let first = self.committed.is_none();
        let done = self.request(ctx, message).await;
        if first && done.is_ok() && reply.is_closed() {
            info!(id = %self.id, "nobody waited for the connection; closing it");
            self.close_stored().await;
            return None;
        }
        Some((reply, done))
    }

    async fn request(&mut self, ctx: Ctx, message: A::Message) -> Result<A::Message> {
        if message.wants_reselect() {
            self.close_stored().await;
        }
        let message = match self.committed.as_deref() {
            Some(Committed {
                message: current,
                returned: Some(returned),
                ..
            }) if self.client => message.merge(returned, current),
            _ => message,
        };
        let answer = self.pass(ctx, message).await?;
        if let Some(committed) = self.committed.as_deref_mut().filter(|_| self.client) {
            committed.returned = Some(answer.clone());
        }
        Ok(answer)
    }

    /// Runs the rest of the chain and keeps what it answers.
    async fn pass(&mut self, ctx: Ctx, mut message: A::Message) -> Result<A::Message> {
        let first = self.committed.is_none();
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
                self.store.clear()
            }
        })?;
        message.establish();
        let mut stored = message.clone();
        stored.remember();
        let (budget, returned) = match self.committed.take() {
            Some(before) => (before.budget, before.returned),
            None => (ctx.budget(), None),
        };
        self.committed = Some(Box::new(Committed {
            message: stored,
            returned,
            ctx,
            budget,
        }));
        Ok(message)
    }

    async fn close(&mut self, ctx: &Ctx, message: A::Message) -> Result<A::Message> {
        let mut message = match self.committed.take() {
            Some(committed) => message.closing(committed.message),
            None if A::CLOSE_UNKNOWN => message,
            None => return Ok(message),
        };
        let ctx = ctx.uncancelled().of_connection(&self.store, &self.events, true);
        let closed = timeout_at(ctx.deadline() + GRACE, self.rest.close(&ctx, &mut message)).await;
        self.store.clear();
        closed.unwrap_or_else(|_| Err(Error::deadline("the close overran its deadline and was cut")))?;
        Ok(message)
    }

    /// Closes what is stored, as an event. Errors are told to the log: nobody else can do better.
    async fn close_stored(&mut self) {
        let Some(committed) = self.committed.take() else {
            return;
        };
        let ctx = committed.ctx.event(committed.budget);
        let message = committed.message.clone();
        self.committed = Some(committed);
        if let Err(error) = self.close(&ctx, message).await {
            debug!(%error, "closing the connection by ourselves");
        }
    }

    async fn event(&mut self, (event, revoked, outcome): Queued) {
        let done = match (event, self.committed.as_deref()) {
            _ if revoked.is_cancelled() => Err(Error::new(
                tonic::Code::Aborted,
                "revoked",
                "the event was revoked before its turn came",
            )),
            (_, None) => Err(Error::not_found("closed", "the connection is closed")),
            (Event::Close, Some(_)) => {
                self.close_stored().await;
                Ok(())
            }
            (Event::Refresh, Some(committed)) => {
                let (ctx, message) = (committed.ctx.event(committed.budget), committed.message.clone());
                self.pass(ctx, message).await.map(drop)
            }
            (Event::Reselect, Some(committed)) => {
                let (ctx, mut message) = (committed.ctx.event(committed.budget), committed.message.clone());
                self.close_stored().await;
                message.reselect();
                self.pass(ctx, message).await.map(drop)
            }
        };
        let _element_may_be_gone = outcome.send(done);
    }
}
