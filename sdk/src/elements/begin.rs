// SPDX-License-Identifier: Apache-2.0
//! Runs everything that happens to one connection (or registration) one at a time, in the order of arrival.
//!
//! **Guarantees**: calls and events of one id never overlap; those of different ids never wait for each other.
//! A call runs to its end whether or not its caller waits, so nothing is left half done; a first request whose
//! caller has gone is closed again. A caller whose turn has not come by its deadline is told so. Only the one who requested a connection may request it again or close it, as
//! far as the API says so ([`Api::admits`]). What the elements behind keep in [`Ctx::store`] ends with the connection.
//! **Placement**: behind `updatepath`; everything with per-connection state stands behind it.
//! **Reads / writes**: the id; the stored message, which events repeat and closes use.
//! **On failure**: of a first request everything kept for the connection is dropped; of a refresh nothing is. A
//! connection whose reselection fails stays, so that it can be tried again.
//! **On close**: the stored message is closed, and forgotten whatever the outcome, unless an element behind says
//! that it closes it again ([`Unfinished`](crate::core::Unfinished)). Closing an unknown id succeeds (network
//! services) or is passed on (registries, whose entries may have come through another way).
//! **Cost**: one task and one queue a connection.

mod actor;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::core::{Api, Component, Ctx, Element, Error, Message, Next, Result};
use actor::Actor;

/// The reason of a refusal: somebody else has requested the connection of this id.
pub const NOT_THE_OWNER: &str = "not-the-owner";

/// How many connections one chain serves.
pub const MAX_CONNECTIONS: usize = 65_536;

/// How many calls of one connection wait for their turn.
const MAX_WAITING: usize = 16;

/// See the [module](self).
pub struct Begin<A: Api> {
    component: Component,
    client: bool,
    /// How many connections it serves: [`MAX_CONNECTIONS`].
    most: usize,
    table: Arc<Table<A>>,
}

type Table<A> = Mutex<HashMap<String, mpsc::Sender<Box<Call<A>>>>>;

/// A connection's place in the table, free when this is dropped.
struct Place<A: Api> {
    id: String,
    table: Arc<Table<A>>,
}

impl<A: Api> Drop for Place<A> {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

/// A call on its way to the task of its connection.
struct Call<A: Api> {
    ctx: Ctx,
    message: A::Message,
    is_close: bool,
    /// Set when its turn comes.
    begun: Arc<AtomicBool>,
    reply: oneshot::Sender<Reply<A>>,
}

enum Reply<A: Api> {
    /// The outcome, and where the caller says that it has it.
    Done(Result<A::Message>, oneshot::Sender<()>),
    /// The connection ended before the call's turn came: start over.
    Again(A::Message),
}

impl<A: Api> Begin<A> {
    /// For the receiving side of a hop: a caller's word replaces what is stored.
    pub fn server(component: &Component) -> Self {
        Self {
            component: component.clone(),
            client: false,
            most: MAX_CONNECTIONS,
            table: Arc::default(),
        }
    }

    /// For an application that repeats its own requests: they are merged into what has become of the connection.
    pub fn client(component: &Component) -> Self {
        Self {
            client: true,
            ..Self::server(component)
        }
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.table.lock().len()
    }

    async fn call(
        &self,
        ctx: &Ctx,
        message: A::Message,
        is_close: bool,
        next: Next<'_, A>,
    ) -> Result<A::Message> {
        let guard = ctx.cancelled().clone().drop_guard();
        let mut message = message;
        let done = loop {
            let (reply, wait) = oneshot::channel();
            let (id, begun) = (message.id().to_string(), Arc::<AtomicBool>::default());
            let call = Box::new(Call {
                ctx: ctx.clone(),
                message,
                is_close,
                begun: Arc::clone(&begun),
                reply,
            });
            let Some(queue) = self.queue(&id, is_close, next)? else {
                break Ok(call.message);
            };
            let answered = async {
                match queue.send(call).await {
                    Err(gone) => Ok(Reply::Again(gone.0.message)),
                    Ok(()) => wait.await,
                }
            };
            message = match patiently(ctx, &begun, answered).await? {
                Ok(Reply::Done(done, heard)) => {
                    let _only_a_first_request_waits_for_it = heard.send(());
                    break done;
                }
                Ok(Reply::Again(message)) => message,
                Err(_) => break Err(self.gone()),
            };
        };
        drop(guard.disarm());
        done
    }

    /// The queue of the connection, made when the call may begin one.
    fn queue(
        &self,
        id: &str,
        is_close: bool,
        next: Next<'_, A>,
    ) -> Result<Option<mpsc::Sender<Box<Call<A>>>>> {
        let mut table = self.table.lock();
        if let Some(queue) = table.get(id) {
            return Ok(Some(queue.clone()));
        }
        if is_close && !A::CLOSE_UNKNOWN {
            return Ok(None);
        }
        if self.component.shutdown().is_cancelled() {
            return Err(self.gone());
        }
        if table.len() >= self.most {
            let text = format!(
                "{} connections are open, which is the most that one program serves",
                self.most
            );
            return Err(Error::exhausted("too-many-connections", text));
        }
        let (queue, calls) = mpsc::channel(MAX_WAITING);
        table.insert(id.to_string(), queue.clone());
        drop(table);
        let place = Place {
            id: id.to_string(),
            table: Arc::clone(&self.table),
        };
        let actor = Actor::new(place, self.client, next.detach(), calls);
        let component = self.component.clone();
        self.component
            .spawn_detached("connection", async move { actor.run(&component).await });
        Ok(Some(queue))
    }

    fn gone(&self) -> Error {
        if self.component.shutdown().is_cancelled() {
            return Error::unavailable("shutdown", "the program is shutting down");
        }
        Error::internal(
            "crashed",
            "the task of the connection has crashed, and its state is lost",
        )
    }
}

/// Waits until the deadline for a call's turn, and for its end as long as that may take.
async fn patiently<T>(ctx: &Ctx, begun: &AtomicBool, answered: impl Future<Output = T>) -> Result<T> {
    let mut answered = std::pin::pin!(answered);
    if let Ok(done) = timeout_at(ctx.deadline(), &mut answered).await {
        return Ok(done);
    }
    let late = |what: &str| {
        Error::deadline(format!(
            "earlier calls of the connection {what} until the deadline"
        ))
    };
    if !begun.load(Ordering::Acquire) {
        return Err(late("had their turn"));
    }
    let end = timeout_at(ctx.deadline() + actor::OVERRUN, answered).await;
    end.map_err(|_| Error::deadline("the call overran its deadline, and so does undoing it"))
}

#[async_trait]
impl<A: Api> Element<A> for Begin<A> {
    fn name(&self) -> &'static str {
        "begin"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        if ctx.events().is_some() {
            return next.request(ctx, message).await;
        }
        if message.id().is_empty() {
            let text = format!(
                "request.EventFactory.Id must not be zero valued: a {} request needs an id or a name",
                A::NAME
            );
            return Err(Error::invalid("empty-id", text));
        }
        // Who calls a server has nothing to do with the message of a call that fails; an application may.
        let asked = match self.client {
            true => message.clone(),
            false => std::mem::take(message),
        };
        *message = self.call(ctx, asked, false, next).await?;
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        if ctx.events().is_some() {
            return next.close(ctx, message).await;
        }
        if message.id().is_empty() {
            return Ok(());
        }
        *message = self.call(ctx, message.clone(), true, next).await?;
        Ok(())
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod owner;
#[cfg(test)]
mod tests;
