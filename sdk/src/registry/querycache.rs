// SPDX-License-Identifier: Apache-2.0
//! Answers look-ups from what a watch tells, so that a request costs no call to the registry.
//!
//! **Guarantees**: the first query for a name, or for a service (each with the URL that it asks for), is passed on,
//! and a watch on the same is opened; later ones are answered from what the watch has told, as soon as that has
//! everything in it that the last passed query has found. A query that finds nothing, or only what has expired, is
//! always passed on. When the watch ends, what it told is forgotten, and the next query begins anew. Queries for
//! anything else, and watches, are passed.
//! **Placement**: before what chooses the way; behind [`localbypass`](super::localbypass), whose endpoints are its own
//! to know; behind the client half of [`recvfd`](super::recvfd), and before the same one.
//! **Cost**: a look-up in a map, and a copy of what is found. One stream a name or service that is asked for, closed
//! [`IDLE`] after it was asked for last; at most [`MAX_MIRRORS`], the one that was least lately asked for goes first.
//! More than [`MAX_ENTRIES`] endpoints of one service are not followed: telling everybody of all their refreshes
//! would cost more than it saves.

mod mirror;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::sleep_until;
use tracing::debug;

use super::queries::Registry;
use crate::core::{Chain, Component, Ctx, DEFAULT_BUDGET, Element, Entry, Found, Next, Result, Task};
use mirror::Mirror;

/// How many names and services are watched at most.
pub const MAX_MIRRORS: usize = 4096;

/// How many entries one watch may tell of.
pub const MAX_ENTRIES: usize = 1024;

/// How long after its last query a watch is closed.
pub const IDLE: Duration = Duration::from_secs(60);

/// See the [module](self).
pub struct QueryCache<A: Registry> {
    most: usize,
    table: Arc<Mutex<Table<A>>>,
}

/// What is watched, by the watch's query as it travels.
struct Table<A: Registry> {
    last_turn: u64,
    followed: HashMap<Vec<u8>, Followed<A>>,
}

struct Followed<A: Registry> {
    mirror: Arc<Mirror<A>>,
    /// The higher, the later it was asked for.
    turn: u64,
    /// Fills the mirror.
    _task: Task,
}

impl<A: Registry> Table<A> {
    fn turn(&mut self) -> u64 {
        self.last_turn += 1;
        self.last_turn
    }

    /// The mirror for this key, which is being asked.
    fn get(&mut self, key: &[u8]) -> Option<Arc<Mirror<A>>> {
        let turn = self.turn();
        let followed = self.followed.get_mut(key)?;
        followed.turn = turn;
        Some(Arc::clone(&followed.mirror))
    }

    /// Takes out what was asked for least lately, when there are `most` already.
    fn make_room(&mut self, most: usize) -> Option<Followed<A>> {
        if self.followed.len() < most {
            return None;
        }
        let oldest = self.followed.iter().min_by_key(|(_, followed)| followed.turn);
        let oldest = oldest.map(|(key, _)| key.clone())?;
        self.followed.remove(&oldest)
    }
}

impl<A: Registry> Default for QueryCache<A> {
    fn default() -> Self {
        Self::new(MAX_MIRRORS)
    }
}

impl<A: Registry> QueryCache<A> {
    /// Watches at most `most` names and services.
    pub fn new(most: usize) -> Self {
        let table = Table {
            last_turn: 0,
            followed: HashMap::new(),
        };
        Self {
            most,
            table: Arc::new(Mutex::new(table)),
        }
    }

    /// How many names and services are watched.
    pub fn mirrors(&self) -> usize {
        self.table.lock().followed.len()
    }

    /// Watches what `wide` asks for, whose query has found `names`.
    fn follow(&self, component: &Component, wide: A::Entry, names: Vec<String>, rest: Chain<A>) {
        let key = wide.encode_to_vec();
        let mut table = self.table.lock();
        if let Some(mirror) = table.get(&key) {
            mirror.expect(names);
            return;
        }
        let gone = table.make_room(self.most);
        let mirror = Arc::new(Mirror::new(names));
        let watch = Watch {
            key: key.clone(),
            mirror: Arc::clone(&mirror),
            table: Arc::downgrade(&self.table),
        };
        let followed = Followed {
            mirror,
            turn: table.turn(),
            _task: component.spawn("querycache", watch.run(component.clone(), wide, rest)),
        };
        table.followed.insert(key, followed);
        drop(table);
        drop(gone);
    }
}

#[async_trait]
impl<A: Registry> Element<A> for QueryCache<A> {
    fn name(&self) -> &'static str {
        "querycache"
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        let (example, watch) = A::asked(query.clone());
        let Some((wide, example)) = A::split(example).filter(|_| !watch) else {
            return next.find(ctx, query).await;
        };
        let mirror = self.table.lock().get(&wide.encode_to_vec());
        if let Some(entries) = mirror.and_then(|mirror| mirror.find(&example, ctx.component().now())) {
            let found = |entry: Arc<A::Entry>| Ok(A::found(A::Entry::clone(&entry), false));
            return Ok(Box::pin(stream::iter(entries).map(found)));
        }
        let mut rest = next.find(ctx, A::query(wide.clone(), false)).await?.fuse();
        let mut found = Vec::new();
        let collect = async {
            while found.len() <= MAX_ENTRIES
                && let Some(item) = rest.next().await
            {
                found.push(item);
            }
            Ok(())
        };
        ctx.bounded("read what is found", collect).await?;
        if let Some(names) = names::<A>(&found) {
            self.follow(ctx.component(), wide, names, next.detach());
        }
        let is_like = move |item: &Result<A::Found>| match item {
            Ok(found) => A::told(found).is_some_and(|(entry, _)| A::matches(&example, entry)),
            Err(_) => true,
        };
        let found = stream::iter(found).chain(rest);
        Ok(Box::pin(
            found.filter(move |item| std::future::ready(is_like(item))),
        ))
    }
}

/// What an answer names; nothing when it is empty, broken, or too much to follow.
fn names<A: Registry>(found: &[Result<A::Found>]) -> Option<Vec<String>> {
    if found.is_empty() || found.len() > MAX_ENTRIES {
        return None;
    }
    let name = |item: &Result<A::Found>| {
        let (entry, _) = A::told(item.as_ref().ok()?)?;
        Some(entry.name().to_string())
    };
    found.iter().map(name).collect()
}

/// The task behind a mirror.
struct Watch<A: Registry> {
    key: Vec<u8>,
    mirror: Arc<Mirror<A>>,
    table: Weak<Mutex<Table<A>>>,
}

impl<A: Registry> Watch<A> {
    async fn run(self, component: Component, wide: A::Entry, rest: Chain<A>) {
        let shutdown = component.shutdown().clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.reflect(&component, wide, &rest) => {}
        }
        self.leave();
    }

    /// Reflects what the watch tells, until it ends or nobody asks any more.
    async fn reflect(&self, component: &Component, wide: A::Entry, rest: &Chain<A>) {
        let ctx = Ctx::own(component, DEFAULT_BUDGET);
        let mut found = match rest.find(&ctx, A::query(wide, true)).await {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "could not watch what is asked for; every query is passed on");
                return;
            }
        };
        loop {
            let idle = self.mirror.asked() + IDLE;
            tokio::select! {
                biased;
                item = found.next() => match item {
                    Some(Ok(item)) => {
                        if !self.mirror.reflect(&item) {
                            found = Box::pin(stream::pending());
                        }
                    }
                    Some(Err(error)) => {
                        debug!(%error, "a watch broke");
                        return;
                    }
                    None => return,
                },
                () = sleep_until(idle) => {
                    if self.mirror.asked() + IDLE <= idle {
                        return;
                    }
                }
            }
        }
    }

    /// Removes the mirror, unless another one has taken its place.
    fn leave(&self) {
        let Some(table) = self.table.upgrade() else {
            return;
        };
        let mut table = table.lock();
        let ours = |followed: &Followed<A>| Arc::ptr_eq(&followed.mirror, &self.mirror);
        if table.followed.get(&self.key).is_some_and(ours) {
            table.followed.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
