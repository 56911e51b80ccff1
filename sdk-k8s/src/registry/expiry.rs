// SPDX-License-Identifier: Apache-2.0
//! Deletes endpoints whose stored time has passed.
//!
//! Mostly there are none: who stops coming back is removed by the replica that it visited. What is left is of a
//! replica that has ended, or of people. Every replica deletes them, a little apart, on condition that the object is
//! still in the state whose time has passed; so one that is renewed meanwhile stays.

use std::sync::Arc;
use std::time::Duration;

use nsm_sdk::core::Component;
use rand::Rng;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::api_server::Refusal;
use super::cache::{Cache, Due};
use super::kind::Kind;
use super::store::Store;

/// How far apart replicas delete one object.
const APART: Duration = Duration::from_secs(2);

/// How long after a failure the object is deleted again.
const AGAIN: Duration = Duration::from_secs(10);

/// How many objects are looked at in one go.
const AT_ONCE: usize = 256;

/// How often we look when nothing is due.
const AT_LEAST: Duration = Duration::from_secs(3600);

/// Deletes until the component ends. An object that is due while the API server cannot be reached is kept for
/// `period`.
pub(super) async fn expire<A: Kind>(
    component: Component,
    store: Arc<Store<A>>,
    cache: Cache<A>,
    period: Duration,
) {
    let ended = component.shutdown().clone();
    loop {
        let next = cache
            .next_due()
            .map_or(AT_LEAST, |next| component.until(next).min(AT_LEAST));
        tokio::select! {
            () = ended.cancelled() => return,
            () = cache.sooner() => {}
            () = sleep(next) => {}
        }
        let now = component.now();
        for due in cache.due(now, AT_ONCE) {
            if !store.api.is_settled() {
                cache.keep(&due.key, &due.version, now + period);
            } else if due.is_over {
                delete(&component, &store, &cache, due).await;
            } else {
                let apart = component.random(|random| APART.mul_f64(random.random()));
                info!(
                    namespace = &*due.key.namespace,
                    name = &*due.key.name,
                    "its time has passed"
                );
                cache.is_over(&due.key, &due.version, Some(now + apart));
            }
        }
    }
}

async fn delete<A: Kind>(component: &Component, store: &Store<A>, cache: &Cache<A>, due: Due) {
    let (namespace, name) = (&*due.key.namespace, &*due.key.name);
    match store.delete(&due.key, &due.uid, Some(&due.version)).await {
        Ok(None) | Err(Refusal::Missing) => cache.was_deleted(&due.key, &due.uid),
        Ok(Some(object)) => cache.is_now(object),
        Err(Refusal::Conflict) => {
            debug!(namespace, name, "it was renewed meanwhile");
            cache.is_over(&due.key, &due.version, Some(component.now() + AGAIN));
        }
        Err(Refusal::Unreachable(_)) => {
            cache.is_over(&due.key, &due.version, Some(component.now() + AGAIN));
        }
        Err(Refusal::Refused(error)) => {
            warn!(namespace, name, %error, "cannot delete what has expired; it is not found any more");
            cache.is_over(&due.key, &due.version, None);
        }
    }
}
