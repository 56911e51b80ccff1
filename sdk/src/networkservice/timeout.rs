// SPDX-License-Identifier: Apache-2.0
//! Closes a connection whose caller has not repeated its request in time.
//!
//! **Guarantees**: the connection is closed when the promise of the previous hop ends, less the time that its request
//! had, so that the tokens on the path are still valid while the close travels on. A request whose previous hop
//! promised nothing is refused before anything is made.
//! **Placement**: behind `begin` and `updatetoken`, before everything that is to be closed.
//! **Reads / writes**: `expires` of the previous segment; one timer in [`Ctx::store`].
//! **On failure**: of a refresh, the earlier timer goes on.
//! **On close**: ends the timer, unless the close ran out of time: then everything is kept, and closed once more
//! when the timer fires ([`Unfinished`]).
//! **Cost**: one sleeping task a connection.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nsm_api::connection::Connection;
use tokio::time::{Instant, sleep_until};
use tonic::Code;
use tracing::debug;

use super::expiry;
use crate::core::{Ctx, Element, Error, Event, Later, NetworkService, Next, Request, Result, Unfinished};

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeout;

/// The running timer of a connection.
struct Timer {
    at: Instant,
    _task: Later,
}

#[async_trait]
impl Element<NetworkService> for Timeout {
    fn name(&self) -> &'static str {
        "timeout"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let expires = previous_expiry(&message.connection)?;
        let asked = if ctx.budget().is_zero() {
            Duration::ZERO
        } else {
            ctx.remaining()
        };
        next.request(ctx, message).await?;
        let wait = ctx.component().until(expires).saturating_sub(asked);
        arm(ctx, &message.connection.id, wait)
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let done = next.close(ctx, message).await;
        let out_of_time = |error: &Error| matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled);
        let runs = ctx.store().with(|timer: &Timer| timer.at > Instant::now());
        if done.as_ref().is_err_and(out_of_time) && runs == Some(true) {
            ctx.call().insert(Unfinished);
        } else {
            drop(ctx.store().take::<Timer>());
        }
        done
    }
}

/// When the promise of the previous hop ends.
fn previous_expiry(connection: &Connection) -> Result<SystemTime> {
    let previous = connection.path.as_ref().and_then(|path| path.previous());
    previous.and_then(expiry::of).ok_or_else(|| {
        let id = &connection.id;
        let text = format!(
            "expiration for the previous path segment cannot be nil: connection {id} has no hop before this one \
             that says until when it wants it; the caller must send nsm-client-token-expires"
        );
        Error::invalid("no-expiration", text)
    })
}

/// Starts the timer in place of an earlier one.
fn arm(ctx: &Ctx, id: &str, wait: Duration) -> Result<()> {
    let (id, at) = (id.to_string(), Instant::now() + wait);
    let task = ctx.later("timeout", |events| async move {
        sleep_until(at).await;
        debug!(id, "nobody wants the connection any more; closing it");
        if let Err(error) = events.run(Event::Close).await {
            debug!(id, %error, "closing a connection that nobody wants");
        }
    })?;
    drop(ctx.store().insert(Timer { at, _task: task }));
    Ok(())
}

#[cfg(test)]
mod tests;
