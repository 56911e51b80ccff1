// SPDX-License-Identifier: Apache-2.0
//! The connections of a program and those who want to be told about them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use nsm_api::connection::{Connection, ConnectionEvent, ConnectionEventType as Kind, MonitorScopeSelector};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fingerprint::Fingerprint;
use super::list::{List, Standing};
use super::requester::Requester;
use super::subscriber::{Subscriber, asked_id, check};
use super::upstream::Answered;
use crate::core::{Component, Error, Found, LinkId, NetworkService, Result};

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
    requesters: BTreeMap<(LinkId, u64), Requester>,
    /// The last number that a subscriber or an epoch got.
    last: u64,
}

impl Hub {
    pub(super) fn new(component: &Component) -> Arc<Self> {
        Arc::new(Self {
            component: component.clone(),
            table: Mutex::new(Table {
                connections: List::new(component.meters()),
                ..Table::default()
            }),
        })
    }

    /// Lists the connection as its own hop says it is, which was requested by `link`. That begins an epoch, unless it is
    /// listed so already.
    pub(super) fn update<'c>(
        &self,
        connection: &'c Connection,
        print: Fingerprint,
        link: LinkId,
    ) -> Answered<'c> {
        let mut table = self.table.lock();
        let listed = table.connections.get(&connection.id);
        let answered = |epoch, kept| Answered {
            epoch,
            print,
            connection,
            kept: Some(kept),
        };
        if let Some(listed) = listed.filter(|listed| listed.standing.print == print) {
            let answered = answered(listed.standing.epoch, Arc::clone(&listed.connection));
            table.connections.moved(&connection.id, link);
            return answered;
        }
        let was_news = listed.is_some_and(|listed| listed.standing.is_news);
        table.last += 1;
        let standing = Standing {
            print,
            epoch: table.last,
            link,
            is_news: false,
        };
        let kept = table.connections.insert(connection, standing);
        table.publish(Kind::Update, connection);
        match was_news {
            true => table.tell_requesters(link, &connection.id, Requester::changed),
            false => table.tell_requesters(link, &connection.id, |requester, id| requester.answered(id)),
        }
        answered(standing.epoch, kept)
    }

    /// Lists the connection as another hop says it is, if it is listed and its epoch is still that one.
    pub(super) fn relay(&self, epoch: u64, connection: &Arc<Connection>) {
        let mut table = self.table.lock();
        let listed = table.connections.get(&connection.id);
        if let Some(standing) = listed.map(|listed| listed.standing)
            && standing.epoch == epoch
        {
            table.change(standing, connection);
        }
    }

    /// Changes a listed connection; false when it is not listed.
    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut Connection)) -> bool {
        let mut table = self.table.lock();
        let Some(listed) = table.connections.get(id) else {
            return false;
        };
        let (mut connection, standing) = (listed.connection.open(), listed.standing);
        change(&mut connection);
        table.change(standing, &Arc::new(connection));
        true
    }

    /// Removes a connection, if it is listed. Whoever has closed it by their link know that by the answer. While the
    /// program ends nobody is told: the wire may outlive it.
    pub(super) fn delete(&self, id: &str, closed_by: Option<LinkId>) {
        let mut table = self.table.lock();
        let Some((id, listed)) = table.connections.remove(id) else {
            return;
        };
        if !self.component.shutdown().is_cancelled() {
            let connection = Arc::new(listed.connection.open());
            table.publish(Kind::Delete, &connection);
            let link = listed.standing.link;
            table.tell_requesters(link, &id, |requester, id| match closed_by == Some(link) {
                true => requester.answered(id),
                false => requester.deleted(id, &connection),
            });
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
        let (number, wake) = (table.admit()?, Arc::new(Notify::new()));
        let initial = table.connections.matching(&selector);
        let subscriber = Subscriber::new(selector, initial, &wake);
        let id = asked_id(subscriber.selector()).to_string();
        table.by_id.entry(id).or_default().insert(number);
        table.subscribers.insert(number, subscriber);
        Ok(self.events(Place::Subscriber(number), wake))
    }

    /// Events for whoever has requested by `link`, from everything on that was requested by it.
    pub(super) fn subscribe_link(self: &Arc<Self>, link: LinkId) -> Result<Found<NetworkService>> {
        let mut table = self.table.lock();
        let (number, wake) = (table.admit()?, Arc::new(Notify::new()));
        let requester = Requester::new(table.connections.of_link(link), &wake);
        table.requesters.insert((link, number), requester);
        Ok(self.events(Place::Requester(link, number), wake))
    }

    fn events(self: &Arc<Self>, place: Place, wake: Arc<Notify>) -> Found<NetworkService> {
        let subscription = Subscription {
            hub: Arc::clone(self),
            place,
            wake,
        };
        let events = futures::stream::unfold(Some(subscription), async |subscription| {
            let subscription = subscription?;
            let event = subscription.next().await?;
            let more = event.is_ok().then_some(subscription);
            Some((event, more))
        });
        events.boxed()
    }

    /// What is to be told next at this place.
    fn take(&self, place: Place) -> Option<Result<ConnectionEvent>> {
        let table = &mut *self.table.lock();
        let listed = &table.connections;
        match place {
            Place::Subscriber(number) => {
                let subscriber = table.subscribers.get_mut(&number)?;
                subscriber.next(|selector| listed.matching(selector))
            }
            Place::Requester(link, number) => {
                let requester = table.requesters.get_mut(&(link, number))?;
                requester.next(|id| listed.requested_by(link, id))
            }
        }
    }
}

impl Table {
    /// A number for one subscriber more.
    fn admit(&mut self) -> Result<u64> {
        if self.subscribers.len() + self.requesters.len() >= MAX_SUBSCRIBERS {
            let text =
                format!("{MAX_SUBSCRIBERS} monitors are open, which is the most that one program serves");
            return Err(Error::exhausted("too-many-monitors", text));
        }
        self.last += 1;
        Ok(self.last)
    }

    /// The connection is like this since it was answered.
    fn change(&mut self, standing: Standing, connection: &Arc<Connection>) {
        let changed = Standing {
            print: Fingerprint::of(connection),
            is_news: true,
            ..standing
        };
        self.connections.insert(connection, changed);
        self.publish(Kind::Update, connection);
        self.tell_requesters(standing.link, &connection.id, Requester::changed);
    }

    fn publish(&mut self, kind: Kind, connection: &Connection) {
        let segments = connection.path.iter().flat_map(|path| &path.path_segments);
        let ids: BTreeSet<_> = segments.map(|segment| segment.id.as_str()).chain([""]).collect();
        let mut told = None;
        for number in ids.into_iter().filter_map(|id| self.by_id.get(id)).flatten() {
            if let Some(subscriber) = self.subscribers.get_mut(number) {
                let told = told.get_or_insert_with(|| Arc::new(connection.clone()));
                subscriber.tell(kind, told);
            }
        }
    }

    /// Forgets a subscriber.
    fn leave(&mut self, number: u64) {
        let Some(subscriber) = self.subscribers.remove(&number) else {
            return;
        };
        let id = asked_id(subscriber.selector());
        if let Some(numbers) = self.by_id.get_mut(id) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_id.remove(id);
            }
        }
    }

    fn tell_requesters(&mut self, link: LinkId, id: &str, tell: impl Fn(&mut Requester, &Arc<str>)) {
        let mut requesters = self.requesters.range_mut((link, 0)..=(link, u64::MAX)).peekable();
        if requesters.peek().is_some() {
            let id = id.into();
            requesters.for_each(|(_, requester)| tell(requester, &id));
        }
    }
}

/// Where somebody is in the hub who is told of connections.
#[derive(Clone, Copy)]
enum Place {
    /// By a selector.
    Subscriber(u64),
    /// Of what was requested by a transport connection.
    Requester(LinkId, u64),
}

/// A place in the hub, free when this is dropped.
struct Subscription {
    hub: Arc<Hub>,
    place: Place,
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
            if let Some(event) = self.hub.take(self.place) {
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
        match self.place {
            Place::Subscriber(number) => table.leave(number),
            Place::Requester(link, number) => drop(table.requesters.remove(&(link, number))),
        }
    }
}
