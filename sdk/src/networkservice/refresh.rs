// SPDX-License-Identifier: Apache-2.0
//! Repeats the request of a connection before the first promise on its path ends.
//!
//! **Guarantees**: the next request starts after a fixed part of the time that is left; a failed one is repeated
//! after 200 ms, then more and more rarely, until one succeeds. A request by the application replaces what was
//! planned; nothing is requested after a close.
//! **Placement**: behind `begin` in the chain of a client.
//! **Reads / writes**: `expires` of every segment and `path.index`; one timer in [`Ctx::store`].
//! **On failure**: of a request, what was planned before stays planned.
//! **On close**: ends the timer first.
//! **Cost**: one sleeping task a connection.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nsm_api::connection::Path;
use tokio::time::sleep;
use tracing::debug;

use super::expiry;
use crate::core::{
    Backoff, Component, Ctx, Element, Event, Events, Later, Message, NetworkService, Next, Request, Result,
};

/// How soon a failed refresh is repeated, and how soon any refresh may follow its request.
const RETRY: Duration = Duration::from_millis(200);

/// How rarely failing refreshes are repeated at the rarest.
const MAX_RETRY: Duration = Duration::from_secs(3);

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Refresh;

/// The planned refresh of a connection.
struct Planned {
    _task: Later,
}

#[async_trait]
impl Element<NetworkService> for Refresh {
    fn name(&self) -> &'static str {
        "refresh"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.request(ctx, message).await?;
        drop(ctx.store().take::<Planned>());
        let component = ctx.component().clone();
        if let Some(delay) = delay(message.path(), component.now()) {
            debug!(id = message.id(), ?delay, "planned a refresh");
            let task = ctx.later("refresh", |events| refresh(component, events, delay))?;
            ctx.store().insert(Planned { _task: task });
        }
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        drop(ctx.store().take::<Planned>());
        next.close(ctx, message).await
    }
}

/// Ends when a refresh succeeds, which plans the next one.
async fn refresh(component: Component, events: Events, delay: Duration) {
    sleep(delay).await;
    let mut backoff = Backoff::new(RETRY, MAX_RETRY);
    while let Err(error) = events.run(Event::Refresh).await {
        debug!(%error, "refreshing");
        sleep(backoff.next(&component)).await;
    }
}

/// How long to wait with the refresh of what was answered at `now`: a third of the time that is left when we are
/// alone on the path, else a fifth to two fifths, the later the farther back on the path we are, so that the first
/// hop refreshes first. Nothing when no hop says when its promise ends.
fn delay(path: &Path, now: SystemTime) -> Option<Duration> {
    let left = expiry::earliest(path)?.duration_since(now).unwrap_or_default();
    let count = u32::try_from(path.path_segments.len()).unwrap_or(u32::MAX);
    let delay = if count == 1 {
        left / 3
    } else {
        left.saturating_mul(count.saturating_add(path.index)) / count.saturating_mul(5)
    };
    Some(delay.max(RETRY))
}

#[cfg(test)]
mod tests;
