// SPDX-License-Identifier: Apache-2.0
//! One monitor for everything that is requested over one transport connection, in place of one a connection.
//!
//! Among components of this project alone, who say so to each other: a server tells with its answers that it serves
//! such monitors ([`ServesLinks`]), a client marks the call ([`OfLink`]; on the wire both are `nsm-link-monitor`). The
//! reference knows neither, and is asked about each connection.
//!
//! **Guarantees**: what is told of a connection between the answer to its request and the moment that somebody listens
//! is kept for that listener. A listener who is slow delays nobody, and misses no more than all but the last
//! [`MAX_TOLD`] changes. Nobody is told what another one has requested, whoever asks.
//! **On failure**: when the stream ends, so does what every listener hears.
//! **On close**: the stream ends with its last listener.
//! **Cost**: one task and one stream a link; a listener costs one entry in a map.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use nsm_api::connection::{Connection, ConnectionEvent, ConnectionEventType as Kind};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::upstream::AFTER;
use super::watch::{Selected, open};
use crate::core::{Component, Ctx, Error, Found, LinkId, NetworkService, Result, Task, Way};

/// In [`Ctx::call`] of a find: tell of what was requested over the transport connection of this very call, first of
/// what is there, then of what becomes of it but by calls over that same connection, which are answered. A transfer
/// without any connection ends the first part. The selector is not looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfLink;

impl OfLink {
    /// Whether a call asks for that, by a transport connection that can be known again.
    pub(crate) fn is_asked(ctx: &Ctx) -> bool {
        ctx.call().has::<Self>() && ctx.peer().link != LinkId::default()
    }
}

/// In the store of a [`Way`]: who is at its end serves monitors of the link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServesLinks;

/// How much is kept for one listener that does not come to listen.
const MAX_TOLD: usize = 64;

/// How many changes are kept that nobody listens to yet.
const MAX_EARLY: usize = 256;

/// For how long they are.
const EARLY: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(super) struct LinkMonitor {
    state: Mutex<State>,
    _task: Task,
}

#[derive(Default)]
struct State {
    /// The listeners by the id that their connection has here, and by their number.
    ears: BTreeMap<(Arc<str>, u64), Arc<Mailbox>>,
    early: VecDeque<Early>,
    /// Those who listened before the stream was opened, until they are told of.
    awaited: BTreeSet<(Arc<str>, u64)>,
    /// The number of the last listener.
    last: u64,
    ended: Option<Error>,
}

/// What was told of a connection to which nobody listens.
struct Early {
    since: Instant,
    id: Arc<str>,
    event: ConnectionEvent,
}

/// What is told of one connection until the listener comes for it.
#[derive(Default)]
struct Mailbox {
    told: Mutex<VecDeque<Result<ConnectionEvent>>>,
    wake: Notify,
}

/// Somebody who listens to what is told of one connection.
pub(super) struct Ear {
    monitor: Arc<LinkMonitor>,
    key: (Arc<str>, u64),
    mailbox: Arc<Mailbox>,
}

impl Ear {
    /// Listens from now on to what the hop at the end of `way` tells of the connection that has this id here; nothing
    /// where that hop has to be asked about each connection.
    pub(super) fn of(component: &Component, way: &Way<NetworkService>, id: &str) -> Option<Self> {
        let store = way.0.store().filter(|store| store.has::<ServesLinks>())?;
        let monitor = store.update(|known: &mut Weak<LinkMonitor>| {
            let open = known.upgrade().filter(|open| open.state.lock().ended.is_none());
            open.unwrap_or_else(|| {
                let new = LinkMonitor::new(component, way.clone());
                *known = Arc::downgrade(&new);
                new
            })
        });
        Some(monitor.listen(id))
    }

    /// What it hears.
    pub(super) fn hear(self) -> Found<NetworkService> {
        let heard = futures::stream::unfold(Some(self), async |ear| {
            let ear = ear?;
            let event = ear.mailbox.next().await;
            let more = event.is_ok().then_some(ear);
            Some((event, more))
        });
        heard.boxed()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.monitor.state.lock().ears.remove(&self.key);
    }
}

impl Mailbox {
    fn put(&self, event: Result<ConnectionEvent>) {
        let mut told = self.told.lock();
        if told.len() >= MAX_TOLD {
            told.pop_front();
        }
        told.push_back(event);
        drop(told);
        self.wake.notify_one();
    }

    async fn next(&self) -> Result<ConnectionEvent> {
        loop {
            if let Some(event) = self.told.lock().pop_front() {
                return event;
            }
            self.wake.notified().await;
        }
    }
}

impl LinkMonitor {
    fn new(component: &Component, way: Way<NetworkService>) -> Arc<Self> {
        Arc::new_cyclic(|monitor| Self {
            state: Mutex::default(),
            _task: component.spawn("link-monitor", run(component.clone(), way, monitor.clone())),
        })
    }

    fn listen(self: Arc<Self>, id: &str) -> Ear {
        let mailbox = Arc::new(Mailbox::default());
        let mut state = self.state.lock();
        state.last += 1;
        let key = (Arc::from(id), state.last);
        let (early, others) = std::mem::take(&mut state.early)
            .into_iter()
            .partition::<VecDeque<_>, _>(|early| &*early.id == id);
        state.early = others;
        early.into_iter().for_each(|early| mailbox.put(Ok(early.event)));
        match &state.ended {
            Some(error) => mailbox.put(Err(error.clone())),
            None => drop(state.ears.insert(key.clone(), Arc::clone(&mailbox))),
        }
        drop(state);
        Ear {
            monitor: self,
            key,
            mailbox,
        }
    }

    /// What those wait for who listen before the stream is opened: a transfer tells of all that is there.
    fn expect(&self) {
        let mut state = self.state.lock();
        state.awaited = state.ears.keys().cloned().collect();
    }

    fn tell(&self, event: ConnectionEvent) {
        let kind = event.r#type();
        let mut state = self.state.lock();
        if kind == Kind::InitialStateTransfer && event.connections.is_empty() {
            state.end_transfer();
        }
        for connection in event.connections.into_values() {
            state.tell(kind, connection);
        }
    }

    fn end(&self, error: &Error) {
        let mut state = self.state.lock();
        state.early.clear();
        for mailbox in std::mem::take(&mut state.ears).into_values() {
            mailbox.put(Err(error.clone()));
        }
        state.ended = Some(error.clone());
    }
}

impl State {
    /// Passes on what is told of one connection.
    fn tell(&mut self, kind: Kind, connection: Connection) {
        let Some(id) = asked_as(&connection).map(Arc::<str>::from) else {
            return;
        };
        let event = ConnectionEvent {
            r#type: kind as i32,
            connections: [(connection.id.clone(), connection)].into(),
        };
        let mut is_heard = false;
        for (key, mailbox) in self
            .ears
            .range((Arc::clone(&id), 0)..=(Arc::clone(&id), u64::MAX))
        {
            self.awaited.remove(key);
            mailbox.put(Ok(event.clone()));
            is_heard = true;
        }
        if !is_heard {
            self.keep(id, event);
        }
    }

    /// Keeps what nobody listens to yet; of what was deleted no more than that.
    fn keep(&mut self, id: Arc<str>, event: ConnectionEvent) {
        let since = Instant::now();
        let is_kept = |early: &Early| early.since + EARLY > since;
        while self.early.len() >= MAX_EARLY || self.early.front().is_some_and(|early| !is_kept(early)) {
            self.early.pop_front();
        }
        let event = match event.r#type() {
            Kind::Delete => nothing_there(),
            _ => event,
        };
        self.early.push_back(Early { since, id, event });
    }

    /// Tells those of whose connection the transfer did not tell that it is not there.
    fn end_transfer(&mut self) {
        for key in std::mem::take(&mut self.awaited) {
            if let Some(mailbox) = self.ears.get(&key) {
                mailbox.put(Ok(nothing_there()));
            }
        }
    }
}

/// What a monitor of a single connection tells first of one that is not there.
fn nothing_there() -> ConnectionEvent {
    ConnectionEvent {
        r#type: Kind::InitialStateTransfer as i32,
        connections: Default::default(),
    }
}

/// The id under which the hop before the one that tells has requested the connection.
fn asked_as(connection: &Connection) -> Option<&str> {
    let path = connection.path.as_ref()?;
    let before = usize::try_from(path.index).ok()?.checked_sub(1)?;
    Some(path.path_segments.get(before)?.id.as_str())
}

/// Opens the stream and passes on what it tells, until it ends or nobody listens any more.
async fn run(component: Component, way: Way<NetworkService>, monitor: Weak<LinkMonitor>) {
    sleep(AFTER).await;
    if let Some(monitor) = monitor.upgrade() {
        monitor.expect();
    }
    let ended = match open(&component, &way, Selected::Link).await {
        Ok(mut events) => loop {
            let event = events.next().await;
            let Some(monitor) = monitor.upgrade() else { return };
            match event {
                Some(Ok(event)) => monitor.tell(event),
                Some(Err(error)) => break error,
                None => break Error::unavailable("monitor-ended", "the next hop tells no more"),
            }
        },
        Err(error) => error,
    };
    if let Some(monitor) = monitor.upgrade() {
        monitor.end(&ended);
    }
}

#[cfg(test)]
mod tests;
