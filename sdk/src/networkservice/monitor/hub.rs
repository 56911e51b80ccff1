// SPDX-License-Identifier: Apache-2.0
//! The connections of a program and those who want to be told about them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use nsm_api::connection::{Connection, ConnectionEvent, ConnectionEventType as Kind, MonitorScopeSelector};
use nsm_api::matching::connection_matches;
use nsm_api::path::MAX_SEGMENTS;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::{Component, Error, Found, NetworkService, Result};
use crate::elements::updatepath::{MAX_NAME, MAX_TOKEN};

/// How many events wait for one subscriber before it gets a new initial transfer in place of those that follow.
pub(super) const MAX_QUEUE: usize = 256;

/// How many subscribers one program serves.
pub(super) const MAX_SUBSCRIBERS: usize = 131_072;

/// How many services one selector may name.
const MAX_SERVICES: usize = 1024;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Hub {
    component: Component,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    connections: BTreeMap<String, Listed>,
    subscribers: HashMap<u64, Subscriber>,
    /// The subscribers by the id that their selector asks for, those who ask for none by the empty one.
    by_id: HashMap<String, BTreeSet<u64>>,
    /// The last number that a subscriber or an epoch got.
    last: u64,
}

#[derive(Debug)]
struct Listed {
    connection: Arc<Connection>,
    /// Since when it is as its own hop says; what was relayed of an earlier epoch comes too late.
    epoch: u64,
}

#[derive(Debug)]
struct Subscriber {
    selector: MonitorScopeSelector,
    queue: VecDeque<Change>,
    /// Once the queue was full: the connections that were deleted since.
    missed: Option<Vec<Arc<Connection>>>,
    wake: Arc<Notify>,
}

type Change = (Kind, Vec<Arc<Connection>>);

impl Hub {
    pub(super) fn new(component: &Component) -> Arc<Self> {
        Arc::new(Self {
            component: component.clone(),
            table: Mutex::default(),
        })
    }

    /// Lists the connection as its own hop says it is, and begins an epoch, which is returned.
    pub(super) fn update(&self, connection: Connection) -> u64 {
        let mut table = self.table.lock();
        table.last += 1;
        let (epoch, connection) = (table.last, Arc::new(connection));
        table.publish(Kind::Update, &connection);
        let id = connection.id.clone();
        table.connections.insert(id, Listed { connection, epoch });
        epoch
    }

    /// Lists the connection as another hop says it is, if it is listed and its epoch is still that one.
    pub(super) fn relay(&self, epoch: u64, connection: Connection) {
        let mut table = self.table.lock();
        let current = table.connections.get_mut(&connection.id);
        let Some(listed) = current.filter(|listed| listed.epoch == epoch) else {
            return;
        };
        listed.connection = Arc::new(connection);
        let connection = Arc::clone(&listed.connection);
        table.publish(Kind::Update, &connection);
    }

    /// Changes a listed connection; false when it is not listed.
    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut Connection)) -> bool {
        let mut table = self.table.lock();
        let Some(listed) = table.connections.get_mut(id) else {
            return false;
        };
        change(Arc::make_mut(&mut listed.connection));
        let connection = Arc::clone(&listed.connection);
        table.publish(Kind::Update, &connection);
        true
    }

    /// Removes a connection. While the program ends nobody is told: the wire may outlive it.
    pub(super) fn delete(&self, id: &str) {
        let mut table = self.table.lock();
        let Some(listed) = table.connections.remove(id) else {
            return;
        };
        if !self.component.shutdown().is_cancelled() {
            table.publish(Kind::Delete, &listed.connection);
        }
    }

    /// Events for whoever asks with `selector`, from an initial transfer on.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        selector: MonitorScopeSelector,
    ) -> Result<Found<NetworkService>> {
        check(&selector)?;
        let mut table = self.table.lock();
        if table.subscribers.len() >= MAX_SUBSCRIBERS {
            let text =
                format!("{MAX_SUBSCRIBERS} monitors are open, which is the most that one program serves");
            return Err(Error::exhausted("too-many-monitors", text));
        }
        table.last += 1;
        let (number, wake) = (table.last, Arc::new(Notify::new()));
        let initial = (Kind::InitialStateTransfer, table.matching(&selector));
        table
            .by_id
            .entry(asked_id(&selector).to_string())
            .or_default()
            .insert(number);
        let subscriber = Subscriber {
            selector,
            queue: [initial].into(),
            missed: None,
            wake: Arc::clone(&wake),
        };
        table.subscribers.insert(number, subscriber);
        let subscription = Subscription {
            hub: Arc::clone(self),
            number,
            wake,
        };
        let events = futures::stream::unfold(Some(subscription), async |subscription| {
            let subscription = subscription?;
            let event = subscription.next().await?;
            let more = event.is_ok().then_some(subscription);
            Some((event, more))
        });
        Ok(events.boxed())
    }

    /// What the subscriber is to be told next.
    fn take(&self, number: u64) -> Option<Result<ConnectionEvent>> {
        let mut table = self.table.lock();
        let subscriber = table.subscribers.get_mut(&number)?;
        if let Some(change) = subscriber.queue.pop_front() {
            return Some(Ok(event(change)));
        }
        let deleted = subscriber.missed.take()?;
        if deleted.len() > MAX_QUEUE {
            let text = "the monitor is so slow that deleted connections cannot be told any more";
            return Some(Err(Error::exhausted("monitor-lags", text)));
        }
        let selector = subscriber.selector.clone();
        let initial = (Kind::InitialStateTransfer, table.matching(&selector));
        if deleted.is_empty() {
            return Some(Ok(event(initial)));
        }
        let subscriber = table.subscribers.get_mut(&number)?;
        subscriber.queue.push_back(initial);
        Some(Ok(event((Kind::Delete, deleted))))
    }
}

impl Table {
    fn matching(&self, selector: &MonitorScopeSelector) -> Vec<Arc<Connection>> {
        let connections = self.connections.values().map(|listed| &listed.connection);
        connections
            .filter(|connection| connection_matches(selector, connection))
            .cloned()
            .collect()
    }

    fn publish(&mut self, kind: Kind, connection: &Arc<Connection>) {
        let segments = connection.path.iter().flat_map(|path| &path.path_segments);
        let ids: BTreeSet<_> = segments.map(|segment| segment.id.as_str()).chain([""]).collect();
        for number in ids.into_iter().filter_map(|id| self.by_id.get(id)).flatten() {
            if let Some(subscriber) = self.subscribers.get_mut(number) {
                subscriber.tell(kind, connection);
            }
        }
    }
}

impl Subscriber {
    fn tell(&mut self, kind: Kind, connection: &Arc<Connection>) {
        if !connection_matches(&self.selector, connection) {
            return;
        }
        if self.missed.is_none() && self.queue.len() >= MAX_QUEUE {
            self.missed = Some(Vec::new());
        }
        match &mut self.missed {
            None => self.queue.push_back((kind, vec![Arc::clone(connection)])),
            Some(deleted) if kind == Kind::Delete && deleted.len() <= MAX_QUEUE => {
                deleted.push(Arc::clone(connection));
            }
            Some(_) => {}
        }
        self.wake.notify_one();
    }
}

/// A subscriber's place in the hub, free when this is dropped.
struct Subscription {
    hub: Arc<Hub>,
    number: u64,
    wake: Arc<Notify>,
}

impl Subscription {
    /// The next event; nothing more when the program ends.
    async fn next(&self) -> Option<Result<ConnectionEvent>> {
        let shutdown = self.hub.component.shutdown();
        loop {
            if shutdown.is_cancelled() {
                return None;
            }
            if let Some(event) = self.hub.take(self.number) {
                return Some(event);
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = self.wake.notified() => {}
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut table = self.hub.table.lock();
        let Some(subscriber) = table.subscribers.remove(&self.number) else {
            return;
        };
        let id = asked_id(&subscriber.selector);
        if let Some(numbers) = table.by_id.get_mut(id) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                table.by_id.remove(id);
            }
        }
    }
}

/// An id that every connection has which the selector chooses; empty when there is none.
fn asked_id(selector: &MonitorScopeSelector) -> &str {
    let ids = selector.path_segments.iter().map(|segment| segment.id.as_str());
    ids.into_iter().find(|id| !id.is_empty()).unwrap_or("")
}

fn event((kind, connections): Change) -> ConnectionEvent {
    let entry = |connection: Arc<Connection>| (connection.id.clone(), Arc::unwrap_or_clone(connection));
    ConnectionEvent {
        r#type: kind as i32,
        connections: connections.into_iter().map(entry).collect(),
    }
}

/// Refuses selectors that are larger than any honest one.
fn check(selector: &MonitorScopeSelector) -> Result<()> {
    let segments = selector.path_segments.iter();
    let fits = selector.path_segments.len() <= MAX_SEGMENTS
        && selector.network_services.len() <= MAX_SERVICES
        && selector
            .network_services
            .iter()
            .all(|name| name.len() <= MAX_NAME)
        && segments.into_iter().all(|segment| {
            segment.name.len().max(segment.id.len()) <= MAX_NAME && segment.token.len() <= MAX_TOKEN
        });
    if fits {
        return Ok(());
    }
    let text = format!(
        "a monitor may select by {MAX_SEGMENTS} path segments and {MAX_SERVICES} services, names up to {MAX_NAME} bytes"
    );
    Err(Error::invalid("selector-too-large", text))
}
