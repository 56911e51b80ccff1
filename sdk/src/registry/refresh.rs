// SPDX-License-Identifier: Apache-2.0
//! Registers an endpoint again before its registration expires.
//!
//! **Guarantees**: one timer an endpoint, at two thirds of the time that the last answer promised or up to a tenth
//! earlier, so that those who registered together do not come back together. A refresh that fails is tried again
//! with growing pauses until one succeeds, also when the registration has expired meanwhile.
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
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use super::queries::Registry as _;
use crate::core::{
    Backoff, Component, Ctx, Element, Event, Events, Next, NseRegistry, Registration, Result, Task,
};

/// The least time between two registrations, whatever the registry promises.
const LEAST: Duration = Duration::from_millis(200);

/// The longest pause between two tries.
const MOST: Duration = Duration::from_secs(10);

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Refresh;

/// The timer of one endpoint.
struct Timer {
    _revoked: DropGuard,
    _task: Task,
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
        next.request(ctx, message).await?;
        match (ctx.events(), NseRegistry::expires(&message.entry)) {
            (Some(events), Some(end)) => {
                let component = ctx.component();
                let share = component.random(|random| random.random_range(0.6..=2.0 / 3.0));
                let after = component.until(end).mul_f64(share).max(LEAST);
                let timer = start(component, events.clone(), message.entry.name.clone(), after);
                ctx.store().insert(timer);
            }
            _ => drop(ctx.store().take::<Timer>()),
        }
        Ok(())
    }

    async fn close(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        ctx.store().take::<Timer>();
        next.close(ctx, message).await
    }
}

/// The success of a refresh ends the timer that has asked for it, since it starts another.
fn start(component: &Component, events: Events, name: String, after: Duration) -> Timer {
    let revoked = CancellationToken::new();
    let guard = revoked.clone().drop_guard();
    let own = component.clone();
    let task = component.spawn("refresh", async move {
        let mut backoff = Backoff::new(LEAST, MOST);
        sleep(after).await;
        while let Err(error) = events.run_unless(&revoked, Event::Refresh).await {
            warn!(%error, name, "could not refresh the registration; trying again");
            sleep(backoff.next(&own)).await;
        }
    });
    Timer {
        _revoked: guard,
        _task: task,
    }
}

#[cfg(test)]
mod tests;
