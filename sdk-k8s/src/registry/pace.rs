// SPDX-License-Identifier: Apache-2.0
//! How fast we ask the API server for something.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Lets calls pass at a steady rate, and twice as many as pass in a second at once after a rest.
pub(super) struct Pace {
    every: Duration,
    rest: Duration,
    /// When the next call may pass.
    next: Mutex<Instant>,
}

impl Pace {
    /// `rate` calls a second, at least one.
    pub(super) fn new(rate: u32) -> Self {
        let every = Duration::from_secs(1) / rate.max(1);
        Self {
            every,
            rest: every * (2 * rate.max(1) - 1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for its turn.
    pub(super) async fn wait(&self) {
        let turn = {
            let mut next = self.next.lock();
            let now = Instant::now();
            let rested = now.checked_sub(self.rest).unwrap_or(now);
            let turn = (*next).max(rested);
            *next = turn + self.every;
            turn
        };
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn twice_the_rate_passes_at_once_after_a_rest_and_then_the_rate() {
        let pace = Pace::new(10);
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..20 {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            pace.wait().await;
        }
        let (taken, second) = (start.elapsed(), Duration::from_secs(1));
        assert!(
            taken >= second && taken < second + Duration::from_millis(10),
            "{taken:?}"
        );
    }
}
