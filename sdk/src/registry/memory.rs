// SPDX-License-Identifier: Apache-2.0
//! Keeps what is registered in memory, answers queries from it and tells watchers what changes.
//!
//! **Guarantees**: a query by name or by service is a look-up, whatever else is registered. A watcher is told what
//! is there and then every later state of it, without a gap between the two; several changes of one entry that it
//! has not read yet become one. An entry that stops being like what is watched is told as deleted, in its last
//! state that was like it. One who does not read delays nobody: when more entries have changed than its queue
//! holds, its stream ends with the error `lagged`, and opening it again tells the state anew.
//! **Placement**: last; behind `begin`, which orders the calls of one name.
//! **On failure**: an entry whose first registration fails behind it is not stored; one that failed to be
//! refreshed stays as it was.
//! **On close**: the entry is removed, and watchers are told its last state; an unknown name is fine.
//! **Cost**: an entry is stored once and shared with every watcher's queue; it is copied when it is sent. A change
//! looks at those who watch its name, its services, or everything.

mod entries;
mod feed;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, Stream, StreamExt};
use parking_lot::{Mutex, RwLock};

use super::queries::Registry;
use crate::core::{Component, Ctx, Element, Error, Found, Next, Result};
use entries::Entries;
use feed::{Feed, Read, Ticket, Watcher};

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

/// See the [module](self).
pub struct Memory<A: Registry>(Arc<Shelf<A>>);

/// Locked in this order: who holds `feed` may take `entries`. Look-ups take `entries` alone, so they never wait for
/// a change to be told.
struct Shelf<A: Registry> {
    limits: Limits,
    feed: Mutex<Feed<A>>,
    entries: RwLock<Entries<A>>,
}

impl<A: Registry> Memory<A> {
    /// An empty registry.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Shelf {
            limits,
            feed: Mutex::default(),
            entries: RwLock::default(),
        }))
    }

    fn find_now(&self, example: &A::Entry) -> impl Stream<Item = Result<A::Found>> + use<A> {
        told::<A>(self.0.entries.read().find(example))
    }

    fn watch(&self, component: &Component, example: A::Entry) -> Result<Found<A>> {
        let (subscription, there) = Shelf::subscribe(&self.0, example)?;
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
}

fn told<A: Registry>(entries: Vec<Arc<A::Entry>>) -> impl Stream<Item = Result<A::Found>> {
    stream::iter(entries).map(|entry| Ok(A::found(A::Entry::clone(&entry), false)))
}

impl<A: Registry> Shelf<A> {
    fn put(&self, entry: A::Entry) -> Result<()> {
        use crate::core::Entry as _;
        let entry = Arc::new(entry);
        let feed = self.feed.lock();
        let mut entries = self.entries.write();
        if entries.len() >= self.limits.entries && !entries.has(entry.name()) {
            let text = format!(
                "cannot register {:?}: {} entries are registered, which is the most that this registry keeps",
                entry.name(),
                self.limits.entries
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

    fn remove(&self, name: &str) {
        let feed = self.feed.lock();
        let old = self.entries.write().remove(name);
        if old.is_some() {
            feed.publish(old.as_ref(), None);
        }
    }

    /// What is there like `example`, and the way to what changes from now on.
    fn subscribe(self: &Arc<Self>, example: A::Entry) -> Result<(Subscription<A>, Vec<Arc<A::Entry>>)> {
        let mut feed = self.feed.lock();
        if feed.len() >= self.limits.watchers {
            let text = format!(
                "{} streams watch this registry, which is the most that it serves",
                self.limits.watchers
            );
            return Err(Error::exhausted("too-many-watchers", text));
        }
        let there = self.entries.read().find(&example);
        let (ticket, watcher) = feed.add(example, self.limits.unread);
        let shelf = Arc::clone(self);
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

/// One who watches, until it is dropped.
struct Subscription<A: Registry> {
    ticket: Ticket,
    watcher: Arc<Watcher<A>>,
    shelf: Arc<Shelf<A>>,
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
                        self.shelf.limits.unread
                    );
                    return Err(Error::new(tonic::Code::Aborted, "lagged", text));
                }
            }
        }
    }
}

impl<A: Registry> Drop for Subscription<A> {
    fn drop(&mut self) {
        self.shelf.feed.lock().remove(&self.ticket);
    }
}

#[async_trait]
impl<A: Registry> Element<A> for Memory<A> {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        next.request(ctx, message).await?;
        self.0.put(message.entry.clone())
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        use crate::core::Message as _;
        self.0.remove(message.id());
        next.close(ctx, message).await
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        let rest = next.find(ctx, query.clone()).await?;
        let (example, watch) = A::asked(query);
        if watch {
            let own = self.watch(ctx.component(), example)?;
            return Ok(Box::pin(stream::select(own, rest)));
        }
        Ok(Box::pin(self.find_now(&example).chain(rest)))
    }
}

#[cfg(test)]
mod tests;
