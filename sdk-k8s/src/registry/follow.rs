// SPDX-License-Identifier: Apache-2.0
//! Follows what happens to the objects of one kind, in every namespace.
//!
//! A watch that ends is opened again where it ended, so nothing is told twice and nothing is missed. When the API
//! server does not remember that far back (410), everything is listed anew, and only what differs from what was known
//! is told to those who watch here.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Config, Event, watcher};
use nsm_sdk::core::{Backoff, Component};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info};

use super::cache::Cache;
use super::kind::Kind;
use super::object::Object;
use super::store::Store;
use crate::client::is_outage;

/// How long a watch stays open, seconds: one that is silent because the way is cut is noticed 5 s later.
const WATCH: u32 = 45;

/// How many objects one answer lists.
const PAGE: u32 = 500;

/// How long is waited after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Follows until the component ends. `is_synced` says when everything is known.
pub(super) async fn follow<A: Kind>(
    component: Component,
    store: Arc<Store<A>>,
    cache: Cache<A>,
    is_synced: watch::Sender<bool>,
) {
    let ended = component.shutdown().clone();
    let following = async {
        let began = Instant::now();
        let mut events = pin!(watcher(
            store.everywhere(),
            Config::default().timeout(WATCH).page_size(PAGE)
        ));
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut failed = began;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // That a list begins is no word of the API server yet.
                    if !matches!(event, Event::Init) {
                        store.api.answers();
                    }
                    let is_done = matches!(event, Event::InitDone);
                    take(&cache, event);
                    if is_done && !is_synced.send_replace(true) {
                        info!(kind = A::NAME, objects = cache.len(), after = ?began.elapsed(), "everything is known");
                    }
                }
                Err(error) if is_expired(&error) => {
                    info!(
                        kind = A::NAME,
                        "the API server remembers too little; listing everything anew"
                    );
                }
                Err(error) => {
                    if failed.elapsed() > 2 * LONGEST_WAIT {
                        backoff.reset();
                    }
                    report::<A>(&store, &error);
                    sleep(backoff.next(&component)).await;
                    failed = Instant::now();
                }
            }
        }
    };
    tokio::select! {
        () = ended.cancelled() => {}
        () = following => {}
    }
}

fn take<A: Kind>(cache: &Cache<A>, event: Event<DynamicObject>) {
    match event {
        Event::Init => cache.list_begins(),
        Event::InitApply(object) | Event::Apply(object) => cache.tells(Object::read(object, cache.home())),
        Event::InitDone => cache.list_ends(),
        Event::Delete(object) => cache.is_gone(&Object::read(object, cache.home())),
    }
}

/// Whether the API server does not remember that far back.
fn is_expired(error: &watcher::Error) -> bool {
    use watcher::Error::{WatchError, WatchStartFailed};
    match error {
        WatchError(status) => status.code == 410,
        WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

fn report<A: Kind>(store: &Store<A>, error: &watcher::Error) {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause) if is_outage(cause) => {
            debug!(kind = A::NAME, %error, "cannot follow the objects");
            store.api.is_silent(cause);
        }
        InitialListFailed(kube::Error::Api(status)) if status.code == 404 => {
            error!(
                kind = A::NAME,
                "the custom resources are not defined: apply deployments/crds"
            );
        }
        // It starts, and answers soon.
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status))
            if status.code == 429 =>
        {
            debug!(kind = A::NAME, %error, "cannot follow the objects yet");
        }
        error => error!(kind = A::NAME, %error, "cannot follow the objects"),
    }
}
