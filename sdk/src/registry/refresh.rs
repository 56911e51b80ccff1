// SPDX-License-Identifier: Apache-2.0
//! Registers an endpoint again before its registration expires.
//!
//! **Guarantees**: one timer an endpoint, at two thirds of the time that the last answer promised or up to a tenth
//! earlier, so that those who registered together do not come back together. A refresh that fails is tried again
//! with growing pauses until one succeeds, also when the registration has expired meanwhile. Registries of the Go
//! implementation end a registration before its time, by as much as its call had to be made; so a refresh has a quarter
//! of the promised time at most, and comes at once where the first call had too much.
//! **Placement**: behind the `begin` of a client, before what makes the call.
//! **Reads / writes**: reads `expiration_time` of the answer.
//! **On failure**: the timer of the previous registration keeps running.
//! **On close**: the timer ends.
//! **Cost**: one timer an endpoint.

use std::time::Duration;

use async_trait::async_trait;
use nsm_api::registry::NetworkServiceEndpoint;
use rand::Rng;
use tokio::time::sleep;
use tracing::warn;

use super::queries::Registry as _;
use crate::core::{
    Backoff, Component, Ctx, Element, Event, Events, Later, Next, NseRegistry, Registration, Result,
};

/// The least time between two registrations, whatever the registry promises.
const LEAST: Duration = Duration::from_millis(200);

/// The share of the promised time that a refresh may take: with two thirds before it, that is less than all.
const TIME: f64 = 0.25;

/// The longest pause between two tries.
const MOST: Duration = Duration::from_secs(10);

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Refresh;

/// The timer of one endpoint.
struct Timer {
    _task: Later,
}

#[async_trait]
impl Element<NseRegistry> for Refresh {
    fn name(&self) -> &'static str {
        "refresh"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        let had = ctx.remaining();
        next.request(ctx, message).await?;
        let Some(end) = NseRegistry::expires(&message.entry) else {
            drop(ctx.store().take::<Timer>());
            return Ok(());
        };
        let component = ctx.component().clone();
        let share = component.random(|random| random.random_range(0.6..=2.0 / 3.0));
        let promised = component.until(end);
        let due = promised.mul_f64(share);
        let is_in_time = due <= promised.saturating_sub(had);
        let timer = Due {
            after: if is_in_time { due.max(LEAST) } else { LEAST },
            within: promised.mul_f64(TIME).max(LEAST),
        };
        let name = message.entry.name.clone();
        let task = ctx.later("refresh", |events| refresh(component, events, name, timer))?;
        drop(ctx.store().insert(Timer { _task: task }));
        Ok(())
    }

    async fn close(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        drop(ctx.store().take::<Timer>());
        next.close(ctx, message).await
    }
}

/// When a refresh comes, and how long it may take.
#[derive(Clone, Copy, Debug)]
struct Due {
    after: Duration,
    within: Duration,
}

/// Ends when a refresh succeeds, which starts the next timer.
async fn refresh(component: Component, events: Events, name: String, due: Due) {
    let mut backoff = Backoff::new(LEAST, MOST);
    sleep(due.after).await;
    while let Err(error) = events.run_within(Event::Refresh, due.within).await {
        warn!(%error, name, "could not refresh the registration; trying again");
        sleep(backoff.next(&component)).await;
    }
}

#[cfg(test)]
mod tests;
