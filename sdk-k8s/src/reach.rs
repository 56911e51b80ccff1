// SPDX-License-Identifier: Apache-2.0
//! Whether the API server can be reached, said once when that changes.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use nsm_sdk::core::Component;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// How often one that cannot be reached is tried, and how long its answer may take.
const TRIES: Duration = Duration::from_secs(1);
const TO_ANSWER: Duration = Duration::from_secs(5);

/// Shared by all who ask the API server. Clones are the same.
#[derive(Clone, Debug)]
pub struct Reach(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    is_up: watch::Sender<(bool, Instant)>,
    meanwhile: &'static str,
}

impl Reach {
    /// Supposes that it can be reached by `client`, and tries it for as long as it cannot. `meanwhile` says what it
    /// means when it cannot.
    pub fn new(component: &Component, client: &Client, meanwhile: &'static str) -> Self {
        let this = Self::untried(meanwhile);
        let (reach, client, ended) = (this.clone(), client.clone(), component.shutdown().clone());
        component.spawn_detached("reach", async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = reach.look(&client) => {}
            }
        });
        this
    }

    fn untried(meanwhile: &'static str) -> Self {
        Self(Arc::new(Inner {
            is_up: watch::Sender::new((true, Instant::now())),
            meanwhile,
        }))
    }

    /// Tries one that cannot be reached, for ever.
    async fn look(&self, client: &Client) {
        let mut is_up = self.0.is_up.subscribe();
        while is_up.wait_for(|(is_up, _)| !is_up).await.is_ok() {
            sleep(TRIES).await;
            let Ok(question) = http::Request::get("/readyz").body(Vec::new()) else {
                return;
            };
            let answer = timeout(TO_ANSWER, client.request_text(question)).await;
            if answer.is_ok_and(|answer| answer.is_ok()) {
                self.answers();
            }
        }
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
        let reach = Reach::untried("nothing works");
        assert!(reach.is_up() && reach.turn(true).is_none());
        assert!(reach.turn(false).is_some() && reach.turn(false).is_none());
        assert!(!reach.is_up());
        reach.clone().answers();
        assert!(reach.is_up());
    }
}
