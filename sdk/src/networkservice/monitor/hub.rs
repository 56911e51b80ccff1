// SPDX-License-Identifier: Apache-2.0
//! The connections of a program and those who want to be told about them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use nsm_api::connection::{Connection, ConnectionEvent, ConnectionEventType as Kind, MonitorScopeSelector};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fingerprint::Fingerprint;
use super::list::List;
use super::subscriber::{Subscriber, asked_id, check};
use crate::core::{Component, Error, Found, NetworkService, Result};

/// How many subscribers one program serves.
const MAX_SUBSCRIBERS: usize = 131_072;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Hub {
    component: Component,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    connections: List,
    subscribers: HashMap<u64, Subscriber>,
    /// The subscribers by the id that their selector asks for, those who ask for none by the empty one.
    by_id: HashMap<String, BTreeSet<u64>>,
    /// The last number that a subscriber or an epoch got.
    last: u64,
}

impl Hub {
    pub(super) fn new(component: &Component) -> Arc<Self> {
        Arc::new(Self {
            component: component.clone(),
            table: Mutex::default(),
        })
    }

    /// Lists the connection as its own hop says it is. That begins an epoch, unless it is listed so already. Returns the
    /// epoch.
    pub(super) fn update(&self, connection: &Connection, print: Fingerprint) -> u64 {
        let mut table = self.table.lock();
        let listed = table.connections.get(&connection.id);
        if let Some(listed) = listed.filter(|listed| listed.print == print) {
            return listed.epoch;
        }
        table.last += 1;
        let epoch = table.last;
        table.connections.insert(connection, print, epoch);
        table.publish(Kind::Update, &Arc::new(connection.clone()));
        epoch
    }

    /// Lists the connection as another hop says it is, if it is listed and its epoch is still that one.
    pub(super) fn relay(&self, epoch: u64, connection: &Arc<Connection>) {
        let mut table = self.table.lock();
        let current = table.connections.get(&connection.id);
        if current.is_some_and(|listed| listed.epoch == epoch) {
            table
                .connections
                .insert(connection, Fingerprint::of(connection), epoch);
            table.publish(Kind::Update, connection);
        }
    }

    /// Changes a listed connection; false when it is not listed.
    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut Connection)) -> bool {
        let mut table = self.table.lock();
        let Some(listed) = table.connections.get(id) else {
            return false;
        };
        let (mut connection, epoch) = (listed.connection.open(), listed.epoch);
        change(&mut connection);
        table
            .connections
            .insert(&connection, Fingerprint::of(&connection), epoch);
        table.publish(Kind::Update, &Arc::new(connection));
        true
    }

    /// Removes a connection. While the program ends nobody is told: the wire may outlive it.
    pub(super) fn delete(&self, id: &str) {
        let mut table = self.table.lock();
        let Some(connection) = table.connections.remove(id) else {
            return;
        };
        if !self.component.shutdown().is_cancelled() {
            table.publish(Kind::Delete, &Arc::new(connection));
        }
    }

    /// Events for whoever asks with `selector`, from an initial transfer on.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        mut selector: MonitorScopeSelector,
    ) -> Result<Found<NetworkService>> {
        check(&selector)?;
        selector.path_segments.shrink_to_fit();
        let mut table = self.table.lock();
        if table.subscribers.len() >= MAX_SUBSCRIBERS {
            let text =
                format!("{MAX_SUBSCRIBERS} monitors are open, which is the most that one program serves");
            return Err(Error::exhausted("too-many-monitors", text));
        }
        table.last += 1;
        let (number, wake) = (table.last, Arc::new(Notify::new()));
        let initial = table.connections.matching(&selector);
        let subscriber = Subscriber::new(selector, initial, &wake);
        let id = asked_id(subscriber.selector()).to_string();
        table.by_id.entry(id).or_default().insert(number);
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
        let table = &mut *self.table.lock();
        let subscriber = table.subscribers.get_mut(&number)?;
        subscriber.next(|selector| table.connections.matching(selector))
    }
}

impl Table {
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
        let id = asked_id(subscriber.selector());
        if let Some(numbers) = table.by_id.get_mut(id) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                table.by_id.remove(id);
            }
        }
    }
}
