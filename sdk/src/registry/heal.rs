// SPDX-License-Identifier: Apache-2.0
//! Registers again when the registry may have lost what is registered, and keeps watches going.
//!
//! **Guarantees**: behind every registration a watch on its name is open. When it breaks, cannot be opened, or tells
//! that an endpoint is deleted, the entry is registered again, with pauses that grow while that does not help and
//! that differ between those who lost the same registry. A watch that a caller opens through here is opened
//! again when it breaks, with such pauses, until its reader has gone; it then tells everything that is there anew.
//! **Placement**: behind the `begin` and `retry` of a client, before what chooses the way.
//! **On failure**: the watch of the previous registration stays.
//! **On close**: the watch ends before the entry is unregistered.
//! **Cost**: one task and one stream an entry.

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use rand::Rng;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::queries::Registry;
use crate::core::{
    Backoff, Chain, Component, Ctx, DEFAULT_BUDGET, Element, Entry, Event, Events, Found, Later, Message,
    Next, Result, Store,
};

/// The first pause is a part of this.
const FIRST: Duration = Duration::from_millis(500);

/// The longest pause.
const MOST: Duration = Duration::from_secs(10);

/// A watch that lives longer has been worth its opening: pauses start over.
const GOOD: Duration = Duration::from_secs(30);

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Heal;

/// The watch on one entry.
struct Monitor {
    _task: Later,
}

/// The pauses of one entry, which outlive its watches.
#[derive(Clone, Copy)]
struct Pauses(Backoff);

impl Default for Pauses {
    fn default() -> Self {
        Self(Backoff::new(FIRST, MOST))
    }
}

impl Pauses {
    /// The next pause, after a watch that lived since `since`.
    fn next(&mut self, component: &Component, since: Instant) -> Duration {
        if since.elapsed() >= GOOD {
            self.0.reset();
        }
        let pause = self.0.next(component);
        component.random(|random| pause.mul_f64(random.random_range(0.1..=1.0)))
    }
}

#[async_trait]
impl<A: Registry> Element<A> for Heal {
    fn name(&self) -> &'static str {
        "heal"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        next.request(ctx, message).await?;
        let (component, store) = (ctx.component().clone(), ctx.store().clone());
        let entry = (message.id().to_string(), next.detach());
        let task = ctx.later("heal", |events| monitor::<A>(component, store, events, entry))?;
        drop(ctx.store().insert(Monitor { _task: task }));
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        drop(ctx.store().take::<Monitor>());
        next.close(ctx, message).await
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        let found = next.find(ctx, query.clone()).await?;
        let (example, watch) = A::asked(query);
        if !watch {
            return Ok(found);
        }
        let watch = Watch::<A> {
            found,
            since: Instant::now(),
            pauses: Pauses::default(),
            rest: next.detach(),
            example,
            ctx: ctx.clone(),
        };
        Ok(Box::pin(stream::unfold(watch, |mut watch| async {
            let item = watch.next().await?;
            Some((Ok(item), watch))
        })))
    }
}

/// Waits until the registry may have lost the entry, and asks for its registration, whose success starts another
/// monitor in place of this one.
async fn monitor<A: Registry>(
    component: Component,
    store: Store,
    events: Events,
    (name, rest): (String, Chain<A>),
) {
    let mut since = Instant::now();
    let why = lost(&component, &name, &rest).await;
    info!(
        name,
        why, "the registry may have lost the registration; registering again"
    );
    loop {
        let pause = store.update(|pauses: &mut Pauses| pauses.next(&component, since));
        since = Instant::now();
        sleep(pause).await;
        match events.run(Event::Refresh).await {
            Ok(()) => return,
            Err(error) => debug!(%error, name, "could not register again; trying later"),
        }
    }
}

/// Watches the entry until the registry may have lost it, and says why.
async fn lost<A: Registry>(component: &Component, name: &str, rest: &Chain<A>) -> &'static str {
    let ctx = Ctx::own(component, DEFAULT_BUDGET);
    let mut found = match rest.find(&ctx, A::by_name(name, true)).await {
        Ok(found) => found,
        Err(error) => {
            debug!(%error, name, "could not watch the registration");
            return "it cannot be watched";
        }
    };
    while let Some(item) = found.next().await {
        let Ok(item) = item else { break };
        let is_gone =
            |(entry, deleted): (&A::Entry, bool)| A::DELETION_IS_LOSS && deleted && entry.name() == name;
        if A::told(&item).is_some_and(is_gone) {
            return "it was deleted";
        }
    }
    "its watch has ended"
}

/// A watch that goes on when the stream behind it ends.
struct Watch<A: Registry> {
    found: Found<A>,
    since: Instant,
    pauses: Pauses,
    rest: Chain<A>,
    example: A::Entry,
    ctx: Ctx,
}

impl<A: Registry> Watch<A> {
    /// The next answer; nothing when the component ends.
    async fn next(&mut self) -> Option<A::Found> {
        let shutdown = self.ctx.component().shutdown().clone();
        loop {
            let item = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                item = self.found.next() => item,
            };
            match item {
                Some(Ok(item)) => return Some(item),
                Some(Err(error)) => debug!(%error, "a watch broke; opening it again"),
                None => debug!("a watch ended; opening it again"),
            }
            self.found = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                found = self.reopen() => found,
            };
        }
    }

    async fn reopen(&mut self) -> Found<A> {
        loop {
            let pause = self.pauses.next(self.ctx.component(), self.since);
            sleep(pause).await;
            self.since = Instant::now();
            let query = A::query(self.example.clone(), true);
            match self.rest.find(&self.ctx.postponed(), query).await {
                Ok(found) => return found,
                Err(error) => debug!(%error, "could not open a watch again; trying later"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
