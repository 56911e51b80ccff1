// SPDX-License-Identifier: Apache-2.0
//! Who watches, and what they have not read yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::Entry;
use crate::registry::queries::{Interest, Registry};

/// What happened to one entry; shared by all who watch it.
pub(super) struct Change<A: Registry> {
    name: Arc<str>,
    /// As it is now, or as it was last when it is deleted.
    pub(super) entry: Arc<A::Entry>,
    pub(super) deleted: bool,
}

/// Everybody who watches, by what they are interested in.
pub(super) struct Feed<A: Registry> {
    last: u64,
    count: usize,
    watchers: HashMap<Interest, BTreeMap<u64, Arc<Watcher<A>>>>,
}

/// One who watches: a stream that somebody reads at their own pace.
pub(super) struct Watcher<A: Registry> {
    example: A::Entry,
    most: usize,
    queue: Mutex<Queue<A>>,
    /// Fires when the queue is worth a look.
    pub(super) wake: Notify,
}

/// What a watcher has not read yet: the latest change of each name, in the order in which the names first changed.
struct Queue<A: Registry> {
    order: VecDeque<Arc<str>>,
    latest: HashMap<Arc<str>, Arc<Change<A>>>,
    lagged: bool,
}

/// What a watcher reads next.
pub(super) enum Read<A: Registry> {
    Change(Arc<Change<A>>),
    Nothing,
    /// More has changed than the queue holds: what came is lost.
    Lagged,
}

/// Names a watcher in its feed.
pub(super) struct Ticket(Interest, u64);

impl<A: Registry> Default for Feed<A> {
    fn default() -> Self {
        Self {
            last: 0,
            count: 0,
            watchers: HashMap::new(),
        }
    }
}

impl<A: Registry> Feed<A> {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds one who watches entries like `example` and may leave `most` names unread.
    pub(super) fn add(&mut self, example: A::Entry, most: usize) -> (Ticket, Arc<Watcher<A>>) {
        let interest = Interest::of::<A>(&example);
        let watcher = Arc::new(Watcher {
            example,
            most,
            queue: Mutex::default(),
            wake: Notify::new(),
        });
        self.last += 1;
        self.count += 1;
        let ticket = Ticket(interest.clone(), self.last);
        let same = self.watchers.entry(interest).or_default();
        same.insert(ticket.1, Arc::clone(&watcher));
        (ticket, watcher)
    }

    pub(super) fn remove(&mut self, ticket: &Ticket) {
        let Some(same) = self.watchers.get_mut(&ticket.0) else {
            return;
        };
        if same.remove(&ticket.1).is_some() {
            self.count -= 1;
        }
        if same.is_empty() {
            self.watchers.remove(&ticket.0);
        }
    }

    /// Tells those concerned that `old` has become `new`.
    pub(super) fn publish(&self, old: Option<&Arc<A::Entry>>, new: Option<&Arc<A::Entry>>) {
        let change = |entry: &Arc<A::Entry>, deleted| {
            Arc::new(Change {
                name: entry.name().into(),
                entry: Arc::clone(entry),
                deleted,
            })
        };
        let (gone, come) = (
            old.map(|old| change(old, true)),
            new.map(|new| change(new, false)),
        );
        let interests: BTreeSet<Interest> = [old, new]
            .into_iter()
            .flatten()
            .flat_map(concerned::<A>)
            .collect();
        let watchers = interests
            .iter()
            .filter_map(|interest| self.watchers.get(interest));
        for watcher in watchers.flat_map(BTreeMap::values) {
            let like = |change: &&Arc<Change<A>>| A::matches(&watcher.example, &change.entry);
            if let Some(change) = come.as_ref().filter(like).or_else(|| gone.as_ref().filter(like)) {
                watcher.push(change);
            }
        }
    }
}

/// The interests that cover an entry.
fn concerned<A: Registry>(entry: &Arc<A::Entry>) -> Vec<Interest> {
    let services = A::services(entry).iter().cloned().map(Interest::Service);
    services
        .chain([Interest::Name(entry.name().to_string()), Interest::Any])
        .collect()
}

impl<A: Registry> Watcher<A> {
    fn push(&self, change: &Arc<Change<A>>) {
        let mut queue = self.queue.lock();
        if queue.lagged {
            return;
        }
        let name = Arc::clone(&change.name);
        if queue
            .latest
            .insert(Arc::clone(&name), Arc::clone(change))
            .is_none()
        {
            queue.order.push_back(name);
        }
        if queue.order.len() > self.most {
            *queue = Queue {
                lagged: true,
                ..Queue::default()
            };
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Takes what comes next out of the queue.
    pub(super) fn read(&self) -> Read<A> {
        let mut queue = self.queue.lock();
        if queue.lagged {
            return Read::Lagged;
        }
        let name = queue.order.pop_front();
        match name.and_then(|name| queue.latest.remove(&name)) {
            Some(change) => Read::Change(change),
            None => Read::Nothing,
        }
    }
}

impl<A: Registry> Default for Queue<A> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            latest: HashMap::new(),
            lagged: false,
        }
    }
}
