// SPDX-License-Identifier: Apache-2.0
//! Entries that answer queries, and the feed of those who watch them.
//!
//! What stores entries elsewhere and only mirrors them here uses the same shelf, so that both answer alike.

use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use parking_lot::{Mutex, RwLock};

use super::entries::Entries;
use super::feed::{Feed, Read, Ticket, Watcher};
use crate::core::{Component, Entry, Error, Found, Result};
use crate::registry::queries::Registry;

/// What one registry holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries.
    pub entries: usize,
    /// Streams that watch.
    pub watchers: usize,
    /// Names whose change a watcher has not read yet.
    pub unread: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 65_536,
            watchers: 65_536,
            unread: 1024,
        }
    }
}

/// Entries by name and by service, and who watches them. Clones are the same shelf.
pub struct Shelf<A: Registry>(Arc<Inner<A>>);

impl<A: Registry> Clone for Shelf<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Locked in this order: who holds `feed` may take `entries`. Look-ups take `entries` alone, so they never wait for
/// a change to be told.
struct Inner<A: Registry> {
    limits: Limits,
    feed: Mutex<Feed<A>>,
    entries: RwLock<Entries<A>>,
}

impl<A: Registry> Shelf<A> {
    /// An empty shelf.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            feed: Mutex::default(),
            entries: RwLock::default(),
        }))
    }

    /// Answers a query: what is there now, and for one that watches what changes from then on, until `component`
    /// shuts down. Errors: `too-many-watchers`; the stream of one that reads too slowly ends with `lagged`.
    pub fn answer(&self, component: &Component, query: A::Query) -> Result<Found<A>> {
        let (example, watch) = A::asked(query);
        if watch {
            return self.watch(component, example);
        }
        Ok(Box::pin(told::<A>(self.0.entries.read().find(&example))))
    }

    fn watch(&self, component: &Component, example: A::Entry) -> Result<Found<A>> {
        let (subscription, there) = self.subscribe(example)?;
        let ended = component.shutdown().clone();
        let changes = stream::unfold(Some(subscription), move |subscription| {
            let ended = ended.clone();
            async move {
                let subscription = subscription?;
                let item = tokio::select! {
                    biased;
                    () = ended.cancelled() => {
                        Err(Error::unavailable("shutdown", "the registry is shutting down"))
                    }
                    item = subscription.next() => item,
                };
                let more = item.is_ok().then_some(subscription);
                Some((item, more))
            }
        });
        Ok(Box::pin(told::<A>(there).chain(changes)))
    }

    /// Puts `entry` in place of the one of its name, and tells those who watch if it differs. Errors:
    /// `registry-full`.
    pub fn put(&self, entry: Arc<A::Entry>) -> Result<()> {
        let feed = self.0.feed.lock();
        let mut entries = self.0.entries.write();
        if entries.len() >= self.0.limits.entries && !entries.has(entry.name()) {
            let text = format!(
                "cannot register {:?}: {} entries are registered, which is the most that this registry keeps",
                entry.name(),
                self.0.limits.entries
            );
            return Err(Error::exhausted("registry-full", text));
        }
        let old = entries.put(&entry);
        drop(entries);
        if old.as_ref() != Some(&entry) {
            feed.publish(old.as_ref(), Some(&entry));
        }
        Ok(())
    }

    /// Removes the entry of this name, and tells those who watch if there was one.
    pub fn remove(&self, name: &str) {
        let feed = self.0.feed.lock();
        let old = self.0.entries.write().remove(name);
        if old.is_some() {
            feed.publish(old.as_ref(), None);
        }
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<Arc<A::Entry>> {
        self.0.entries.read().get(name)
    }

    /// What is there like `example`, and the way to what changes from now on.
    #[allow(clippy::type_complexity, reason = "a subscription and what is there already")]
    fn subscribe(&self, example: A::Entry) -> Result<(Subscription<A>, Vec<Arc<A::Entry>>)> {
        let mut feed = self.0.feed.lock();
        if feed.len() >= self.0.limits.watchers {
            let text = format!(
                "{} streams watch this registry, which is the most that it serves",
                self.0.limits.watchers
            );
            return Err(Error::exhausted("too-many-watchers", text));
        }
        let there = self.0.entries.read().find(&example);
        let (ticket, watcher) = feed.add(example, self.0.limits.unread);
        let shelf = self.clone();
        Ok((
            Subscription {
                ticket,
                watcher,
                shelf,
            },
            there,
        ))
    }
}

fn told<A: Registry>(entries: Vec<Arc<A::Entry>>) -> impl Stream<Item = Result<A::Found>> {
    stream::iter(entries).map(|entry| Ok(A::found(A::Entry::clone(&entry), false)))
}

/// One who watches, until it is dropped.
struct Subscription<A: Registry> {
    ticket: Ticket,
    watcher: Arc<Watcher<A>>,
    shelf: Shelf<A>,
}

impl<A: Registry> Subscription<A> {
    async fn next(&self) -> Result<A::Found> {
        loop {
            match self.watcher.read() {
                Read::Change(change) => {
                    return Ok(A::found(A::Entry::clone(&change.entry), change.deleted));
                }
                Read::Nothing => self.watcher.wake.notified().await,
                Read::Lagged => {
                    let text = format!(
                        "more than {} entries changed before they were read; open the watch again",
                        self.shelf.0.limits.unread
                    );
                    return Err(Error::new(tonic::Code::Aborted, "lagged", text));
                }
            }
        }
    }
}

impl<A: Registry> Drop for Subscription<A> {
    fn drop(&mut self) {
        self.shelf.0.feed.lock().remove(&self.ticket);
    }
}
