// SPDX-License-Identifier: Apache-2.0
//! Waits until a connection breaks, and mends it.

use std::sync::Arc;
use std::time::Duration;

use nsm_api::connection::Connection;
use parking_lot::Mutex;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::Check;
use super::pulse::{CONTROL, Pulse, Vitals, WIRE};
use crate::core::{Component, Error, Event, Events, Retry};
use crate::networkservice::discover::LOST;
use crate::networkservice::monitor::upstream::{Broken, News};

/// How many looks in a row a wire has to be silent to be dead. When the control plane is broken as well, one is enough.
const LOOKS: u32 = 2;

/// The first and the longest time for one try. A try that hangs holds up the next, which may have another endpoint.
const TRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));

/// How long the next hop may answer that it cannot mend the control plane of a wire that lives, until everything is
/// chosen anew: the wire may lead to a pod that has lost its program.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a next hop that was started again may take to learn who is there.
const TO_LEARN: Duration = Duration::from_secs(10);

/// The pause after an answer that no waiting mends, short of somebody changing the service or the policies.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// One connection after a request that has succeeded.
pub(super) struct Healer {
    pub(super) component: Component,
    pub(super) news: Option<Receiver<News>>,
    pub(super) connection: Arc<Connection>,
    pub(super) check: Option<Check>,
    pub(super) vitals: Arc<Mutex<Vitals>>,
}

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// What the next hop tells of, or itself.
    Control(Broken),
    /// The wire carries nothing.
    Wire,
}

/// How the next hop has answered requests to mend what is behind it.
#[derive(Default)]
struct Refused {
    /// Since when it has answered, and only refused.
    since: Option<Instant>,
    /// Whether it has lived all the time: one that was started again has to learn who is there.
    hop_has_lived: bool,
}

impl Refused {
    fn hear(&mut self, error: &Error) {
        if error.place() == Some("connect") {
            self.since.get_or_insert_with(Instant::now);
        } else {
            (self.since, self.hop_has_lived) = (None, false);
        }
    }

    /// Whether to repeat the request as it stands does not help, since the endpoint is gone and there is another one,
    /// or since it was refused for long.
    fn is_hopeless(&self, error: &Error) -> bool {
        let patience = match error.reason() == LOST {
            true if self.hop_has_lived => return true,
            true => TO_LEARN,
            false => PATIENCE,
        };
        self.since.is_some_and(|since| since.elapsed() >= patience)
    }
}

impl Healer {
    /// Ends when a request succeeds, after which the next one listens.
    pub(super) async fn run(self, events: Events) {
        let broken = tokio::select! {
            biased;
            broken = self.control() => Fault::Control(broken),
            () = self.wire() => Fault::Wire,
        };
        self.vitals.lock().breaks(match broken {
            Fault::Control(_) => CONTROL,
            Fault::Wire => WIRE,
        });
        info!(id = self.connection.id, ?broken, "the connection is broken");
        let mut reselects = matches!(broken, Fault::Control(Broken::Closed) | Fault::Wire);
        let (mut limit, mut refused) = (TRY.0, Refused::default());
        refused.hop_has_lived = broken == Fault::Control(Broken::Behind);
        let mut pause = self.vitals.lock().pause(&self.component);
        loop {
            reselects = self.rest(pause, reselects).await;
            let event = match reselects {
                true => Event::Reselect,
                false => Event::Refresh,
            };
            self.vitals.lock().tries();
            let Err(error) = events.run_within(event, limit).await else {
                return;
            };
            pause = self.after(event, &error);
            refused.hear(&error);
            if !reselects && refused.is_hopeless(&error) {
                (reselects, pause) = (true, Duration::ZERO);
            }
            limit = (limit * 2).min(TRY.1);
        }
    }

    /// A try has failed; answers how long to wait with the next.
    fn after(&self, event: Event, error: &Error) -> Duration {
        let mut vitals = self.vitals.lock();
        vitals.tries();
        let (id, reason) = (&self.connection.id, error.reason());
        if error.retry() == Retry::Never {
            error!(id, ?event, reason, %error, "the connection cannot be mended");
            return self
                .component
                .random(|random| LONG_PAUSE.mul_f64(rand::Rng::random_range(random, 0.75..=1.0)));
        }
        warn!(id, ?event, reason, %error, "the connection is not mended yet");
        vitals.pause(&self.component)
    }

    /// Waits before a try; answers whether it is to reselect. The wire of a connection that is not to be reselected
    /// has to live at the end, and is reselected at once when it does not.
    async fn rest(&self, pause: Duration, reselects: bool) -> bool {
        if reselects {
            sleep(pause).await;
            return true;
        }
        let until = Instant::now() + pause;
        loop {
            if self.pulse(1).await != Pulse::Alive {
                debug!(id = self.connection.id, "the wire does not live either");
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let interval = self.check.as_ref().map_or(left, |check| check.interval);
            sleep(interval.min(left)).await;
        }
    }

    /// Waits until the next hop tells that the connection is broken, or tells no more; for ever when it may not be
    /// heard.
    async fn control(&self) -> Broken {
        if let Some(mut news) = self.news.clone()
            && let Ok(news) = news.wait_for(|news| news.broken.is_some()).await
            && let Some(broken) = news.broken
        {
            return broken;
        }
        std::future::pending().await
    }

    /// Waits until the wire is dead; for ever when nobody looks at it.
    async fn wire(&self) {
        let Some(check) = &self.check else {
            return std::future::pending().await;
        };
        loop {
            sleep(check.interval).await;
            let pulse = self.pulse(LOOKS).await;
            if self.vitals.lock().is_dead(pulse) {
                return;
            }
        }
    }

    /// Looks at the wire, so often when it is silent.
    async fn pulse(&self, looks: u32) -> Pulse {
        let Some(check) = &self.check else {
            return Pulse::Unknown;
        };
        let within = check.timeout / LOOKS;
        let mut pulse = Pulse::Unknown;
        for _ in 0..looks {
            let look = check.liveness.pulse(&self.connection, within);
            pulse = timeout(within, look).await.unwrap_or(Pulse::Silent);
            if pulse != Pulse::Silent {
                break;
            }
        }
        self.vitals.lock().hear(pulse);
        pulse
    }
}
