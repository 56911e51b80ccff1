// SPDX-License-Identifier: Apache-2.0
//! Writes Events, one after the other. While the API server is away they wait, as many as [`MAX_WAITING`], and not longer
//! than they are news.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error as Failed, ResourceExt};
use nsm_sdk::core::{Backoff, Component};
use nsm_sdk_k8s::client::is_outage;
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::event::{Telling, event};

/// How many wait to be written.
pub(crate) const MAX_WAITING: usize = 256;

/// How long something is news.
const NEWS: Duration = Duration::from_secs(600);

/// How long an answer of the API server may take.
const TO_ANSWER: Duration = Duration::from_secs(5);

/// How long is waited while the API server is away.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Writes what comes until nobody sends any more.
pub(crate) async fn write(component: Component, client: Client, mut waiting: Receiver<Telling>) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut is_away = false;
    while let Some(telling) = waiting.recv().await {
        while !is_old(&component, &telling) {
            match timeout(TO_ANSWER, tell(&client, &telling)).await {
                Ok(Ok(())) => {
                    if std::mem::take(&mut is_away) {
                        info!("Events are written again");
                    }
                    backoff.reset();
                    break;
                }
                Ok(Err(error)) if !is_outage(&error) => {
                    warn!(pod = telling.pod.name, namespace = telling.pod.namespace, %error, "an Event is not taken");
                    break;
                }
                failed => {
                    if !std::mem::replace(&mut is_away, true) {
                        warn!(?failed, "the API server does not answer; Events wait");
                    }
                    sleep(backoff.next(&component)).await;
                }
            }
        }
    }
}

/// Whether something is no news any more.
fn is_old(component: &Component, telling: &Telling) -> bool {
    let now = Timestamp::try_from(component.now()).unwrap_or_default();
    now.duration_since(telling.at).unsigned_abs() > NEWS
}

/// Tells it of the pod, if that is there.
async fn tell(client: &Client, telling: &Telling) -> Result<(), Failed> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &telling.pod.namespace);
    // By its uid people see Events where they look at the pod.
    let Some(pod) = pods.get_metadata_opt(&telling.pod.name).await? else {
        debug!(pod = telling.pod.name, "it is gone");
        return Ok(());
    };
    put(client, &event(telling, &pod.uid().unwrap_or_default())).await
}

/// Makes the Event, or tells it again.
async fn put(client: &Client, event: &Event) -> Result<(), Failed> {
    let namespace = event.namespace().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match events.create(&PostParams::default(), event).await {
        Err(Failed::Api(status)) if status.code == 409 => {}
        done => return done.map(drop),
    }
    debug!(name = event.name_any(), "it is told again");
    let again = serde_json::json!({
        "series": {
            // A second life of ours counts from one again.
            "count": event.series.as_ref().map_or(2, |series| series.count),
            "lastObservedTime": event.event_time,
        },
    });
    let patch = Patch::Merge(again);
    let done = events
        .patch(&event.name_any(), &PatchParams::default(), &patch)
        .await;
    match done {
        // It has expired meanwhile.
        Err(Failed::Api(status)) if status.code == 404 => {
            events.create(&PostParams::default(), event).await.map(drop)
        }
        done => done.map(drop),
    }
}

#[cfg(test)]
mod tests;
