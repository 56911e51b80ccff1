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
mod shelf;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt};

use super::queries::Registry;
use crate::core::{Ctx, Element, Found, Next, Result};
pub use shelf::{Limits, Shelf};

/// See the [module](self).
pub struct Memory<A: Registry>(Shelf<A>);

impl<A: Registry> Memory<A> {
    /// An empty registry.
    pub fn new(limits: Limits) -> Self {
        Self(Shelf::new(limits))
    }
}

#[async_trait]
impl<A: Registry> Element<A> for Memory<A> {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        next.request(ctx, message).await?;
        self.0.put(Arc::new(message.entry.clone()))
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        use crate::core::Message as _;
        self.0.remove(message.id());
        next.close(ctx, message).await
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        let rest = next.find(ctx, query.clone()).await?;
        let (_, watch) = A::asked(query.clone());
        let own = self.0.answer(ctx.component(), query)?;
        if watch {
            return Ok(Box::pin(stream::select(own, rest)));
        }
        Ok(Box::pin(own.chain(rest)))
    }
}

#[cfg(test)]
mod tests;
