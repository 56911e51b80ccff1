// SPDX-License-Identifier: Apache-2.0
//! Whether the API server can be reached, said once when that changes.

use std::fmt::Display;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

/// Shared by all who ask the API server. Clones are the same.
#[derive(Clone, Debug)]
pub struct Reach(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    is_up: watch::Sender<(bool, Instant)>,
    meanwhile: &'static str,
}

impl Reach {
    /// Supposes that it can be reached. `meanwhile` says what it means when it cannot.
    pub fn new(meanwhile: &'static str) -> Self {
        Self(Arc::new(Inner {
            is_up: watch::Sender::new((true, Instant::now())),
            meanwhile,
        }))
    }

    /// Whether it could be reached when it was last tried.
    pub fn is_up(&self) -> bool {
        self.0.is_up.borrow().0
    }

    /// It has answered.
    pub fn answers(&self) {
        if let Some(since) = self.turn(true) {
            info!(after = ?since.elapsed(), "the API server is back");
        }
    }

    /// It could not be reached.
    pub fn is_silent(&self, error: &dyn Display) {
        if self.turn(false).is_some() {
            warn!(%error, "the API server cannot be reached; {}", self.0.meanwhile);
        }
    }

    /// Since when it was otherwise, if it was.
    fn turn(&self, is_up: bool) -> Option<Instant> {
        let mut since = None;
        self.0.is_up.send_if_modified(|now| {
            if now.0 != is_up {
                since = Some(now.1);
                *now = (is_up, Instant::now());
            }
            since.is_some()
        });
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_one_however_often_it_is_seen() {
        let reach = Reach::new("nothing works");
        assert!(reach.is_up() && reach.turn(true).is_none());
        assert!(reach.turn(false).is_some() && reach.turn(false).is_none());
        assert!(!reach.is_up());
        reach.clone().answers();
        assert!(reach.is_up());
    }
}
