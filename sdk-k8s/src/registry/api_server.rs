// SPDX-License-Identifier: Apache-2.0
//! The API server of Kubernetes: the way there, and whether it can be reached.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use nsm_sdk::core::{Component, Error, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::pace::Pace;
use crate::client::{self, is_outage};

/// How long one answer may take.
const TO_ANSWER: Duration = Duration::from_secs(5);

/// How often one that cannot be reached is tried.
const TRIES: Duration = Duration::from_secs(1);

/// How long after an outage it takes at most until everything that happened meanwhile is known.
const TO_SETTLE: Duration = Duration::from_secs(10);

/// The way to the API server, shared by all who use it. Clones are the same way.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    client: Client,
    pace: Pace,
    is_up: watch::Sender<bool>,
    /// Since when it is as it is; nothing as long as it was never unreachable.
    since: Mutex<Option<Instant>>,
}

/// Why the API server did not do what it was asked for.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no such object.
    Missing,
    /// There is one already, or another one than we think.
    Conflict,
    /// It cannot be reached, or cannot reach what it needs.
    Unreachable(Error),
    /// Anything else.
    Refused(Error),
}

impl ApiServer {
    /// The API server of the cluster that the program runs in, or of the file that `KUBECONFIG` names; asked at most
    /// `rate` times a second. Errors: `no-api-server`.
    pub async fn infer(component: &Component, rate: u32) -> Result<Self> {
        let client = client::infer().await?;
        Ok(Self::new(component, client, rate))
    }

    /// The API server behind `client`.
    pub fn new(component: &Component, client: Client, rate: u32) -> Self {
        let this = Self(Arc::new(Inner {
            client,
            pace: Pace::new(rate),
            is_up: watch::Sender::new(true),
            since: Mutex::default(),
        }));
        let (task, ended) = (this.clone(), component.shutdown().clone());
        component.spawn_detached("api-server", async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = task.look() => {}
            }
        });
        this
    }

    pub(super) fn client(&self) -> Client {
        self.0.client.clone()
    }

    /// Whether it could be reached when it was last tried.
    pub fn is_up(&self) -> watch::Receiver<bool> {
        self.0.is_up.subscribe()
    }

    /// Whether it can be reached, and could long enough for us to know what has happened.
    pub(super) fn is_settled(&self) -> bool {
        let since = *self.0.since.lock();
        *self.0.is_up.borrow() && since.is_none_or(|since| since.elapsed() >= TO_SETTLE)
    }

    /// Asks for something, when it is our turn, and waits for the answer. `what` completes "cannot …".
    pub(super) async fn ask<T>(
        &self,
        what: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> std::result::Result<T, Refusal> {
        self.0.pace.wait().await;
        let error = match timeout(TO_ANSWER, call).await {
            Ok(Ok(answer)) => {
                self.answers();
                return Ok(answer);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                self.is_silent(&"no answer in time");
                return Err(Refusal::Unreachable(unreachable(what, &"it does not answer")));
            }
        };
        if is_outage(&error) {
            self.is_silent(&error);
            return Err(Refusal::Unreachable(unreachable(what, &error)));
        }
        self.answers();
        Err(refusal(what, error))
    }

    /// It has answered.
    pub(super) fn answers(&self) {
        if !self.turn(true) {
            return;
        }
        let since = self.0.since.lock().replace(Instant::now());
        let after = since.map(|since| since.elapsed()).unwrap_or_default();
        info!(?after, "the API server is back; registrations are written again");
    }

    /// It could not be reached.
    pub(super) fn is_silent(&self, error: &dyn std::fmt::Display) {
        if !self.turn(false) {
            return;
        }
        *self.0.since.lock() = Some(Instant::now());
        warn!(%error, "the API server cannot be reached; look-ups are answered by what was known, and nothing new is registered");
    }

    fn turn(&self, is_up: bool) -> bool {
        self.0
            .is_up
            .send_if_modified(|was_up| std::mem::replace(was_up, is_up) != is_up)
    }

    /// Tries one that cannot be reached, for ever.
    async fn look(&self) {
        let mut is_up = self.0.is_up.subscribe();
        while is_up.wait_for(|is_up| !is_up).await.is_ok() {
            sleep(TRIES).await;
            let Ok(question) = http::Request::get("/readyz").body(Vec::new()) else {
                return;
            };
            let answer = timeout(TO_ANSWER, self.0.client.request_text(question)).await;
            if answer.is_ok_and(|answer| answer.is_ok()) {
                self.answers();
            }
        }
    }
}

fn unreachable(what: &str, error: &dyn std::fmt::Display) -> Error {
    let text = format!(
        "cannot {what}: the API server of Kubernetes cannot be reached ({error}); \
         what is registered is still found"
    );
    Error::unavailable("api-server-unreachable", text)
}

fn refusal(what: &str, error: kube::Error) -> Refusal {
    let kube::Error::Api(status) = &error else {
        let text = format!("cannot {what}: {error}");
        return Refusal::Refused(Error::internal("api-server", text));
    };
    let told = &status.message;
    Refusal::Refused(match status.code {
        404 => return Refusal::Missing,
        409 if status.reason != "AlreadyExists" && status.reason != "Conflict" => {
            Error::unavailable("api-server-busy", format!("cannot {what} now: {told}"))
        }
        409 => return Refusal::Conflict,
        401 | 403 => {
            let text = format!("cannot {what}: {told}; give our service account the role of the manifests");
            Error::unavailable("forbidden-by-kubernetes", text)
        }
        429 => Error::unavailable("api-server-busy", format!("cannot {what} now: {told}")),
        _ => Error::invalid("refused-by-kubernetes", format!("cannot {what}: {told}")),
    })
}

/// What the caller is told whose change others have crossed.
pub(super) fn conflict() -> Error {
    let text = "somebody else has written the object at the same time; try again";
    Error::new(tonic::Code::Aborted, "conflict", text)
}

impl Refusal {
    /// What the caller is told. `missing` is what it means that there is no such object.
    pub(super) fn into_error(self, missing: impl FnOnce() -> Error) -> Error {
        match self {
            Self::Missing => missing(),
            Self::Conflict => conflict(),
            Self::Unreachable(error) | Self::Refused(error) => error,
        }
    }
}
