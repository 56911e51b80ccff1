// SPDX-License-Identifier: Apache-2.0
//! The mock `next` of element tests, and the [cases] that every element must pass.

mod cases;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Api, Chain, Component, Ctx, Element, Error, Events, Found, Next, Request, Result, Store};
use crate::core::{NetworkService, Peer};

pub(crate) use cases::{Fails, standard_cases};
pub(crate) use wire::{Wire, end, end_at, end_of_links};

/// One call that reached the end of a chain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen<M> {
    /// A request.
    Request(M),
    /// A close.
    Close(M),
}

type Answer<A> = Box<dyn Fn(&mut <A as Api>::Message) -> Result<()> + Send + Sync>;

/// The end of a chain under test: records what arrives and answers as told.
pub(crate) struct Probe<A: Api> {
    seen: Mutex<Vec<Seen<A::Message>>>,
    answer: Mutex<Answer<A>>,
    /// While set, requests wait until it is cancelled.
    hold: Mutex<Option<CancellationToken>>,
    found: Mutex<Vec<A::Found>>,
    /// Tells of every arrival.
    arrived: tokio::sync::Notify,
    /// While set, closes fail with it.
    close_error: Mutex<Option<Error>>,
}

impl<A: Api> Probe<A> {
    /// Echoes.
    pub(crate) fn new() -> Arc<Self> {
        Self::answering(|_| Ok(()))
    }

    /// Answers requests by changing them, or fails them.
    pub(crate) fn answering(
        answer: impl Fn(&mut A::Message) -> Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            answer: Mutex::new(Box::new(answer)),
            hold: Mutex::default(),
            found: Mutex::default(),
            arrived: tokio::sync::Notify::new(),
            close_error: Mutex::default(),
        })
    }

    /// Answers otherwise from now on.
    pub(crate) fn answer(&self, answer: impl Fn(&mut A::Message) -> Result<()> + Send + Sync + 'static) {
        *self.answer.lock() = Box::new(answer);
    }

    /// Lets later requests wait until the returned token is cancelled.
    pub(crate) fn hold(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.hold.lock() = Some(token.clone());
        token
    }

    /// What closes fail with from now on, if anything.
    pub(crate) fn fail_closes(&self, error: Option<Error>) {
        *self.close_error.lock() = error;
    }

    /// What `find` answers from now on.
    pub(crate) fn find(&self, found: Vec<A::Found>) {
        *self.found.lock() = found;
    }

    /// Everything that arrived.
    pub(crate) fn seen(&self) -> Vec<Seen<A::Message>> {
        self.seen.lock().clone()
    }

    /// Waits until `count` calls have arrived.
    pub(crate) async fn arrived(&self, count: usize) {
        loop {
            let arrived = self.arrived.notified();
            if self.seen.lock().len() >= count {
                return;
            }
            arrived.await;
        }
    }

    /// The requests that arrived.
    pub(crate) fn requests(&self) -> Vec<A::Message> {
        self.seen()
            .into_iter()
            .filter_map(|seen| {
                if let Seen::Request(m) = seen {
                    Some(m)
                } else {
                    None
                }
            })
            .collect()
    }

    /// The closes that arrived.
    pub(crate) fn closes(&self) -> Vec<A::Message> {
        self.seen()
            .into_iter()
            .filter_map(|seen| if let Seen::Close(m) = seen { Some(m) } else { None })
            .collect()
    }
}

#[async_trait]
impl<A: Api> Element<A> for Arc<Probe<A>> {
    fn name(&self) -> &'static str {
        "probe"
    }

    async fn request(&self, _: &Ctx, message: &mut A::Message, _: Next<'_, A>) -> Result<()> {
        self.seen.lock().push(Seen::Request(message.clone()));
        self.arrived.notify_waiters();
        let hold = self.hold.lock().clone();
        if let Some(hold) = hold {
            hold.cancelled().await;
        }
        (self.answer.lock())(message)
    }

    async fn close(&self, _: &Ctx, message: &mut A::Message, _: Next<'_, A>) -> Result<()> {
        self.seen.lock().push(Seen::Close(message.clone()));
        self.arrived.notify_waiters();
        self.close_error.lock().clone().map_or(Ok(()), Err)
    }

    async fn find(&self, _: &Ctx, _: A::Query, _: Next<'_, A>) -> Result<Found<A>> {
        let found: Vec<_> = self.found.lock().clone().into_iter().map(Ok).collect();
        Ok(Box::pin(futures::stream::iter(found)))
    }
}

/// One connection, as an element behind `begin` meets it, and the events that elements ask for.
pub(crate) struct Connection {
    /// The connection's store.
    pub(crate) store: Store,
    events: Events,
    /// Where its events wait, for ever.
    _queued: tokio::sync::mpsc::Receiver<Box<super::events::Queued>>,
    component: Component,
}

impl Connection {
    /// A connection of a new component.
    pub(crate) fn new() -> Self {
        Self::of(&Component::new("test"))
    }

    /// A connection of this component.
    pub(crate) fn of(component: &Component) -> Self {
        let (sender, queued) = tokio::sync::mpsc::channel(4);
        let (store, events) = (Store::default(), Events::new(sender));
        Self {
            store,
            events,
            _queued: queued,
            component: component.clone(),
        }
    }

    /// A call of this connection by `peer` with 10 s to go.
    pub(crate) fn ctx_from(&self, peer: Peer, established: bool) -> Ctx {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        Ctx::new(&self.component, peer, Some(deadline)).of_connection(&self.store, &self.events, established)
    }

    /// The first call of this connection.
    pub(crate) fn first(&self) -> Ctx {
        self.ctx_from(Peer::default(), false)
    }

    /// A later call of this connection.
    pub(crate) fn again(&self) -> Ctx {
        self.ctx_from(Peer::default(), true)
    }
}

/// A request for the service `icmp-responder` by a client with one path segment, as it arrives at `index` 0.
pub(crate) fn request() -> Request {
    use nsm_api::connection::{Connection, Path, PathSegment};
    let segment = PathSegment {
        name: "nsc".into(),
        id: "nsc-0".into(),
        ..Default::default()
    };
    let connection = Connection {
        id: "nsc-0".into(),
        network_service: "icmp-responder".into(),
        path: Some(Path {
            index: 0,
            path_segments: vec![segment],
        }),
        ..Default::default()
    };
    Request {
        connection,
        mechanism_preferences: Vec::new(),
    }
}

/// A chain of one element and a probe.
pub(crate) fn before<E: Element<NetworkService>>(
    element: E,
    probe: &Arc<Probe<NetworkService>>,
) -> Chain<NetworkService> {
    Chain::new(vec![Arc::new(element), Arc::new(Arc::clone(probe))])
}
