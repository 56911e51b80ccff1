// SPDX-License-Identifier: Apache-2.0
//! Mends the connection of a client when a hop behind it has died, or when its wire carries nothing any more.
//!
//! **Guarantees**: two things are listened to: what the next hop tells of the connection, and the wire itself, by
//! [`Liveness`]. When the control plane breaks under a wire that lives, the connection is requested again as it
//! stands, so that the wire stays; when the wire is dead, when nothing can be told of it, or when the next hop has
//! closed the connection, everything is chosen anew. The first try is made at once, later ones more and more rarely,
//! and rarely those that cannot help; a connection that breaks as soon as it is mended is not mended faster. While the
//! control plane is mended the wire is still looked at before every try. A wire is dead only after half a dozen
//! questions in a row without an answer, and only where answers were ever heard: who drops pings is left alone. One whose
//! end here is down or not there is dead at once, whatever was heard before.
//! **Placement**: in the chain of a client, behind `begin` and before `dial`.
//! **Reads / writes**: reads the [`Way`](crate::core::Way) in [`Ctx::store`], the mechanism and the addresses; one task in the store,
//! which outlives a reselection that fails.
//! **On failure**: of a request, everything is listened to as before.
//! **On close**: of the application, while the control plane is broken or nobody is there to call, the connection is
//! requested once more as it stands, as `retry` does it, for at most [`TO_PART`]: a hop that was started anew knows nothing of it, and would close nothing. The task
//! ends with the connection; what it asks for meanwhile is withdrawn.
//! **Cost**: one task a connection; one stream, shared with `upstreamrefresh`, kept over refreshes; one check an interval.

mod healer;
mod pulse;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tracing::{debug, info};

use super::discover::LOST;
use super::monitor::upstream::hear;
use crate::core::meters::{Family, Kind};
use crate::core::{Ctx, Element, Error, Later, NetworkService, Next, Request, Result};
use crate::elements::dial::GONE;
use crate::elements::retry::Attempts;
use healer::Healer;
use pulse::Vitals;
pub use pulse::{Liveness, Pulse};

/// See the [module](self).
#[derive(Clone, Default)]
pub struct Heal {
    check: Option<Check>,
}

/// How wires are looked at.
#[derive(Clone)]
pub struct Check {
    /// What tells whether a wire lives.
    pub liveness: Arc<dyn Liveness>,
    /// The pause between two looks.
    pub interval: Duration,
    /// How long a wire may be silent until it is dead.
    pub timeout: Duration,
}

/// How long connections were broken.
pub static HEALS: Family = Family {
    name: "nsm_heal_duration_seconds",
    help: "How long connections were broken until they were mended, by what was broken first.",
    kind: Kind::Histogram,
    labels: &["cause"],
};

/// How long a connection that is to be closed is mended before: a manager is started anew within seconds.
const TO_PART: Duration = Duration::from_secs(5);

/// What is kept for a connection.
struct Healing {
    vitals: Arc<Mutex<Vitals>>,
    _task: Later,
}

impl Heal {
    /// Looks at wires by `check`; without one only the control plane is listened to, and what breaks is reselected.
    pub fn new(check: Option<Check>) -> Self {
        Self { check }
    }
}

#[async_trait]
impl Element<NetworkService> for Heal {
    fn name(&self) -> &'static str {
        "heal"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.request(ctx, message).await?;
        let vitals = ctx.store().with(|healing: &Healing| Arc::clone(&healing.vitals));
        let vitals = vitals.unwrap_or_default();
        if let Some((took, cause)) = vitals.lock().settle(!ctx.is_established()) {
            ctx.component().meters().took(&HEALS, &[cause], took);
            let connection = &message.connection;
            info!(
                id = connection.id,
                endpoint = connection.network_service_endpoint_name,
                healed_ms = took.as_secs_f64() * 1e3,
                "healed"
            );
        }
        let healer = Healer {
            component: ctx.component().clone(),
            news: hear(ctx, &message.connection).map(|heard| heard.news),
            connection: Arc::new(message.connection.clone()),
            check: self.check.clone(),
            vitals: Arc::clone(&vitals),
        };
        let task = ctx.later("heal", |events| healer.run(events))?;
        ctx.store().insert_lasting(Healing { vitals, _task: task });
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        // What reselects is not to know what it leaves.
        if ctx.is_event() {
            return next.close(ctx, message).await;
        }
        let is_lost = |healing: &Healing| healing.vitals.lock().has_lost_control();
        if !ctx.store().with(is_lost).unwrap_or(false) {
            match next.close(ctx, message).await {
                Err(error) if is_nobody_there(&error) => {}
                done => return done,
            }
        }
        if let Err(error) = mend(ctx, message, next).await {
            debug!(id = message.connection.id, %error, "closing what could not be mended");
        }
        next.close(ctx, message).await
    }
}

/// Lets the hops behind us know the connection again.
async fn mend(ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
    let ctx = ctx.within(TO_PART.min(ctx.remaining() / 2));
    let mut attempts = Attempts::new();
    loop {
        let (attempt, mut asked) = (ctx.attempt(), message.clone());
        match next.request(&attempt, &mut asked).await {
            Ok(()) => {
                *message = asked;
                return Ok(());
            }
            Err(error) if error.reason() == LOST => return Err(error),
            Err(error) => attempts.after(&ctx, &attempt, error).await?,
        }
    }
}

/// Whether there was nobody to call.
fn is_nobody_there(error: &Error) -> bool {
    matches!(error.reason(), GONE | "peer-unreachable")
}

#[cfg(test)]
mod tests;
