// SPDX-License-Identifier: Apache-2.0
//! Tells in an object's status whether the registry uses it, and why not.
//!
//! Several replicas tell the same; whoever comes first has told it for all.

use std::sync::Arc;

use nsm_sdk::core::Component;
use tracing::{debug, warn};

use super::api_server::Refusal;
use super::cache::Cache;
use super::kind::Kind;
use super::store::Store;

/// Tells until the component ends.
pub(super) async fn tell<A: Kind>(component: Component, store: Arc<Store<A>>, cache: Cache<A>) {
    let ended = component.shutdown().clone();
    let telling = async {
        let mut is_up = store.api.is_up();
        while is_up.wait_for(|is_up| *is_up).await.is_ok() {
            let Some(wrong) = cache.next_wrong() else {
                cache.wrong().await;
                continue;
            };
            let (namespace, name) = (&*wrong.key.namespace, &*wrong.key.name);
            match store.tell(&component, &wrong).await {
                Ok(object) => cache.is_now(object),
                // Its next state is looked at when we hear of it.
                Err(Refusal::Missing | Refusal::Conflict) => {
                    debug!(namespace, name, "it has changed meanwhile")
                }
                Err(Refusal::Unreachable(_)) => cache.still_wrong(wrong.key),
                Err(Refusal::Refused(error)) => {
                    warn!(namespace, name, %error, "cannot tell what is wrong with it")
                }
            }
        }
    };
    tokio::select! {
        () = ended.cancelled() => {}
        () = telling => {}
    }
}
