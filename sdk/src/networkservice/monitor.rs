// SPDX-License-Identifier: Apache-2.0
//! Tells those who ask what becomes of the connections of this hop.
//!
//! **Guarantees**: a subscriber gets one initial transfer, also an empty one, then every change of what its selector
//! chooses, in order. One that is slow delays nobody: when too much waits for it, it gets what was deleted and a new
//! initial transfer instead. A connection is never told after its deletion. Where the connection goes on to another
//! hop, what that hop tells is told as ours; when that hop cannot be heard any more, the connection is down.
//! **Placement**: behind `begin` and `timeout`, before `trimpath`; `find` ends here.
//! **Reads / writes**: the whole connection; the [`Way`] in [`Ctx::store`]; leaves an [`Announcer`] there.
//! **On failure**: of a refresh that goes through to another hop, the connection is told to be down.
//! **On close**: the connection is told to be deleted, whatever the outcome.
//! **Cost**: one copy of the connection an event and subscriber; one task and one stream a connection that goes on.

mod hub;
mod list;
mod subscriber;
pub(crate) mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connection::{Connection, ConnectionEventType as Kind, MonitorScopeSelector, State};
use tracing::info;

use crate::core::{
    Component, Ctx, Element, Found, Message, NetworkService, Next, Request, Result, Task, Way,
};
use hub::Hub;
use watch::{Watch, is_refusal};

/// See the [module](self).
pub struct Monitor {
    hub: Arc<Hub>,
}

/// What an element of a connection announces by itself, found in [`Ctx::store`] and good for as long as the
/// connection is: an endpoint asks its client to refresh, for example, with [`State::RefreshRequested`].
#[derive(Clone, Debug)]
pub struct Announcer {
    hub: Arc<Hub>,
    id: String,
}

impl Announcer {
    /// Changes the connection as it is told to others. False before its first request has succeeded and after its
    /// close.
    pub fn announce(&self, change: impl FnOnce(&mut Connection)) -> bool {
        self.hub.change(&self.id, change)
    }
}

/// The connection's place in the list, which it leaves when this is dropped.
struct Listing {
    hub: Arc<Hub>,
    id: String,
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.hub.delete(&self.id);
    }
}

/// The task that tells what the next hop tells.
struct Relay {
    _task: Task,
}

impl Monitor {
    /// Serves the connections of `component`.
    pub fn new(component: &Component) -> Self {
        Self {
            hub: Hub::new(component),
        }
    }

    fn relay(&self, ctx: &Ctx, epoch: u64, connection: Arc<Connection>) {
        let Some(way) = ctx.store().get::<Way<NetworkService>>() else {
            return;
        };
        let (hub, component) = (Arc::clone(&self.hub), ctx.component().clone());
        let task = ctx.component().spawn("monitor", async move {
            let Some(mut down) = relay(&hub, epoch, &component, &way, connection).await else {
                return;
            };
            info!(id = down.id, "the hop behind cannot be heard any more");
            Arc::make_mut(&mut down).set_state(State::Down);
            hub.relay(epoch, &down);
        });
        ctx.store().insert(Relay { _task: task });
    }
}

/// Tells what the next hop tells; returns the connection as it was last when that breaks.
async fn relay(
    hub: &Hub,
    epoch: u64,
    component: &Component,
    way: &Way<NetworkService>,
    mut connection: Arc<Connection>,
) -> Option<Arc<Connection>> {
    let mut watch = match Box::pin(Watch::persist(component, way, &connection)).await {
        Ok(watch) => watch,
        Err(error) if is_refusal(&error) => return None,
        Err(_) => return Some(connection),
    };
    loop {
        match watch.next().await {
            Some(Ok(change)) => {
                connection = change.connection;
                if change.kind != Kind::InitialStateTransfer || connection.state() != change.was {
                    hub.relay(epoch, &connection);
                }
            }
            Some(Err(error)) if is_refusal(&error) => return None,
            Some(Err(_)) | None => return Some(connection),
        }
    }
}

#[async_trait]
impl Element<NetworkService> for Monitor {
    fn name(&self) -> &'static str {
        "monitor"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let relayed = ctx.store().take::<Relay>();
        let asked = relayed.map(|_| message.connection.clone());
        let (hub, id) = (Arc::clone(&self.hub), message.id().to_string());
        ctx.store().insert(Announcer { hub, id });
        if let Err(error) = next.request(ctx, message).await {
            if let Some(mut down) = asked {
                down.set_state(State::Down);
                self.hub.update(Arc::new(down));
            }
            return Err(error);
        }
        let mut connection = message.connection.clone();
        connection.set_state(State::Up);
        let connection = Arc::new(connection);
        let epoch = self.hub.update(Arc::clone(&connection));
        if !ctx.store().has::<Listing>() {
            let (hub, id) = (Arc::clone(&self.hub), message.id().to_string());
            ctx.store().insert(Listing { hub, id });
        }
        self.relay(ctx, epoch, connection);
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        drop(ctx.store().take::<Relay>());
        let done = next.close(ctx, message).await;
        drop(ctx.store().take::<Listing>());
        done
    }

    async fn find(
        &self,
        _: &Ctx,
        selector: MonitorScopeSelector,
        _: Next<'_, NetworkService>,
    ) -> Result<Found<NetworkService>> {
        self.hub.subscribe(selector)
    }
}

#[cfg(test)]
mod tests;
