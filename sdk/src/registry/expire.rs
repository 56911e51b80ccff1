// SPDX-License-Identifier: Apache-2.0
//! Unregisters an endpoint that is not refreshed in time.
//!
//! **Guarantees**: every answer says until when the endpoint is registered: what the caller asked for, but no
//! longer than the default, than the caller's token and than our own, and than what those behind answered. When
//! that time has almost come the endpoint is unregistered, by one timer that every registration replaces. A
//! registration that has begun before the timer fires keeps the endpoint.
//! **Placement**: behind `begin` and `updatepath`, before what stores the endpoint.
//! **Reads / writes**: `expiration_time`; the caller's token; [`OwnToken`] from, and [`Expired`] into [`Ctx::call`].
//! **On failure**: the timer of the previous registration keeps running.
//! **On close**: the timer ends.
//! **Cost**: one timer an endpoint.
//!
//! The timer is early by the time that the caller had for its registration, so that the tokens of the path are still
//! good when those behind are told. Where that would be before a caller that refreshes after two thirds of the time
//! comes, it is early by a quarter of the time instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nsm_api::registry::NetworkServiceEndpoint;
use tracing::{debug, info};

use super::queries::Registry as _;
use super::updatepath::OwnToken;
use crate::core::{Ctx, Element, Event, Later, Next, NseRegistry, Registration, Result};

/// How long a registration lasts in the registries and managers of a mesh.
pub const DEFAULT_EXPIRATION: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Expire(Duration);

/// Left in [`Ctx::call`] of a close that the timer asks for: nobody has unregistered the endpoint, it was only not
/// refreshed here.
#[derive(Clone, Copy, Debug)]
pub struct Expired;

/// The timer of one endpoint.
struct Timer {
    has_fired: Arc<AtomicBool>,
    _task: Later,
}

impl Expire {
    /// Registrations last `default`, unless something ends earlier.
    pub fn new(default: Duration) -> Self {
        Self(default)
    }

    /// When a registration that arrives at `now` ends at the latest.
    fn end(&self, ctx: &Ctx, now: SystemTime) -> SystemTime {
        let peer = ctx.peer().token.as_ref().map(|token| token.expires);
        let own = ctx.call().get().map(|OwnToken(expires)| expires);
        [peer, own]
            .into_iter()
            .flatten()
            .fold(now + self.0, SystemTime::min)
    }
}

/// How long before the end of a registration that lasts `lifetime` its timer fires.
fn early(budget: Duration, lifetime: Duration) -> Duration {
    if budget < lifetime / 3 {
        budget
    } else {
        lifetime / 4
    }
}

fn start(ctx: &Ctx, name: &str, after: Duration) -> Result<()> {
    let name = name.to_string();
    let has_fired = Arc::<AtomicBool>::default();
    let fires = Arc::clone(&has_fired);
    let task = ctx.later("expire", |events| async move {
        tokio::time::sleep(after).await;
        fires.store(true, Ordering::Release);
        info!(name, "endpoint was not refreshed in time; unregistering it");
        if let Err(error) = events.run(Event::Close).await {
            debug!(name, %error, "unregistering an endpoint that was not refreshed");
        }
    })?;
    let timer = Timer {
        has_fired,
        _task: task,
    };
    drop(ctx.store().insert(timer));
    Ok(())
}

#[async_trait]
impl Element<NseRegistry> for Expire {
    fn name(&self) -> &'static str {
        "expire"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        let now = ctx.component().now();
        let end = self.end(ctx, now);
        let end = NseRegistry::expires(&message.entry).map_or(end, |asked| asked.min(end));
        message.entry.expiration_time = Some(end.into());
        next.request(ctx, message).await?;
        let end = NseRegistry::expires(&message.entry).map_or(end, |told| told.min(end));
        message.entry.expiration_time = Some(end.into());
        let lifetime = end.duration_since(now).unwrap_or_default();
        let after = ctx
            .component()
            .until(end)
            .saturating_sub(early(ctx.budget(), lifetime));
        start(ctx, &message.entry.name, after)
    }

    async fn close(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        let timer = ctx.store().take::<Timer>();
        if timer.is_some_and(|timer| timer.has_fired.load(Ordering::Acquire)) {
            ctx.call().insert(Expired);
        }
        next.close(ctx, message).await
    }
}

#[cfg(test)]
mod tests;
