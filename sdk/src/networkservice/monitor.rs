// SPDX-License-Identifier: Apache-2.0
//! Tells those who ask what becomes of the connections of this hop.
//!
//! **Guarantees**: a subscriber gets one initial transfer, also an empty one, then every change of what its selector
//! chooses, in order. One that is slow delays nobody: when too much waits for it, it gets what was deleted and a new
//! initial transfer instead. A connection is never told after its deletion. Where the connection goes on to another
//! hop, what that hop tells is told as ours; when that hop cannot be heard any more, the connection is down.
//! Each is counted once, in the state that was told last ([`CONNECTIONS`]).
//! A refresh that changes nothing but metrics is not told. What is [announced](Announcer) while a request is under way is
//! told after its answer: it is not lost in it.
//! **Placement**: behind `begin` and `timeout`, before `trimpath`; `find` ends here.
//! **Reads / writes**: the whole connection; the [`Way`](crate::core::Way) in [`Ctx::store`]; leaves an [`Announcer`] there.
//! **On failure**: of a refresh that goes through to another hop, the connection is told to be down.
//! **On close**: the connection is told to be deleted, whatever the outcome.
//! A caller may ask for one stream about everything that it requests over its transport connection ([`link`]).
//! **Cost**: one copy of the connection an event and subscriber; one task a connection that goes on, and one stream where
//! the next hop does not serve one for all. Of a refresh that is not told, 2 µs.

mod counted;
mod fingerprint;
mod hub;
pub(crate) mod link;
mod list;
mod requester;
mod subscriber;
pub(crate) mod upstream;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connection::{ConnectionEventType as Kind, MonitorScopeSelector, State};
use parking_lot::Mutex;
use tracing::info;

use crate::core::{Component, Ctx, Element, Found, Message, NetworkService, Next, Request, Result};
pub use counted::{CONNECTIONS, word};
use fingerprint::Fingerprint;
use hub::Hub;
use link::OfLink;
use upstream::{Answered, Told, Upstream};

/// See the [module](self).
pub struct Monitor {
    hub: Arc<Hub>,
}

/// What an element of a connection announces by itself, found in [`Ctx::store`] and good for as long as the
/// connection is: an endpoint asks its client to refresh, for example, with [`State::RefreshRequested`].
#[derive(Clone, Debug)]
pub struct Announcer {
    hub: Arc<Hub>,
    id: Arc<str>,
    turn: Arc<Mutex<Turn>>,
}

/// What requests and those who announce tell each other.
#[derive(Debug, Default)]
struct Turn {
    is_under_way: bool,
    /// What was announced last while a request was under way.
    announced: Option<State>,
}

impl Announcer {
    /// Tells others that the connection is in this state now; while a request is under way, when that has its answer,
    /// which would be told in place of it. False before the first request and after the close.
    pub fn announce(&self, state: State) -> bool {
        let mut turn = self.turn.lock();
        if turn.is_under_way {
            turn.announced = Some(state);
            return true;
        }
        self.tell(state)
    }

    fn tell(&self, state: State) -> bool {
        self.hub
            .change(&self.id, |connection| connection.set_state(state))
    }

    /// Holds back what is announced until what is returned is dropped.
    fn hold(&self) -> UnderWay {
        self.turn.lock().is_under_way = true;
        UnderWay(self.clone())
    }
}

/// A request that is under way.
struct UnderWay(Announcer);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut turn = self.0.turn.lock();
        turn.is_under_way = false;
        if let Some(state) = turn.announced.take() {
            self.0.tell(state);
        }
    }
}

/// The connection's place in the list, which it leaves when this is dropped.
struct Listing {
    hub: Arc<Hub>,
    id: Arc<str>,
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.hub.delete(&self.id, None);
    }
}

impl Monitor {
    /// Serves the connections of `component`.
    pub fn new(component: &Component) -> Self {
        Self {
            hub: Hub::new(component),
        }
    }

    /// What announces for the connection, the same for all of its requests.
    fn announcer(&self, ctx: &Ctx, id: &str) -> Announcer {
        let known = ctx.store().get::<Announcer>();
        let known = known.filter(|known| &*known.id == id && Arc::ptr_eq(&known.hub, &self.hub));
        known.unwrap_or_else(|| {
            let announcer = Announcer {
                hub: Arc::clone(&self.hub),
                id: id.into(),
                turn: Arc::default(),
            };
            ctx.store().insert(announcer.clone());
            announcer
        })
    }

    /// Tells from now on what the next hop tells.
    fn relay(&self, ctx: &Ctx, answered: &Answered<'_>) {
        let hub = Arc::clone(&self.hub);
        let tell = move |epoch, told| match told {
            Told::Change(change) => {
                if change.kind != Kind::InitialStateTransfer || change.connection.state() != change.was {
                    hub.relay(epoch, &change.connection);
                }
            }
            Told::End(mut down) => {
                info!(id = down.id, "the hop behind cannot be heard any more");
                down.set_state(State::Down);
                hub.relay(epoch, &Arc::from(down));
            }
        };
        if let Some(upstream) = Upstream::listen(ctx, answered, tell) {
            ctx.store().insert(upstream);
        }
    }
}

#[async_trait]
impl Element<NetworkService> for Monitor {
    fn name(&self) -> &'static str {
        "monitor"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let upstream = ctx.store().take::<Upstream>();
        let _held = upstream.as_ref().map(Upstream::hold);
        let announcer = self.announcer(ctx, message.id());
        let _under_way = announcer.hold();
        if let Err(error) = next.request(ctx, message).await {
            if let Some(upstream) = upstream {
                drop(upstream);
                announcer.tell(State::Down);
            }
            return Err(error);
        }
        message.connection.set_state(State::Up);
        let connection = &message.connection;
        let print = Fingerprint::of(connection);
        let answered = self.hub.update(connection, print, ctx.peer().link);
        if !ctx.store().has::<Listing>() {
            let (hub, id) = (Arc::clone(&self.hub), Arc::clone(&announcer.id));
            ctx.store().insert(Listing { hub, id });
        }
        match upstream.filter(|upstream| upstream.go_on(ctx, &answered)) {
            Some(upstream) => drop(ctx.store().insert(upstream)),
            None => self.relay(ctx, &answered),
        }
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        drop(ctx.store().take::<Upstream>());
        let done = next.close(ctx, message).await;
        if let Some(listing) = ctx.store().take::<Listing>() {
            let closed_by = (!ctx.is_event()).then_some(ctx.peer().link);
            self.hub.delete(&listing.id, closed_by);
        }
        done
    }

    async fn find(
        &self,
        ctx: &Ctx,
        selector: MonitorScopeSelector,
        _: Next<'_, NetworkService>,
    ) -> Result<Found<NetworkService>> {
        if OfLink::is_asked(ctx) {
            return self.hub.subscribe_link(ctx.peer().link);
        }
        self.hub.subscribe(selector)
    }
}

#[cfg(test)]
mod tests;
