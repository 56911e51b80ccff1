// SPDX-License-Identifier: Apache-2.0
//! The authority's certificate where every pod can read it: a ClusterTrustBundle.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error as Failed};
use serde_json::{Value, json};
use tracing::{info, warn};

/// The name behind the signer's own.
const NAME: &str = "authority";

/// By which name we own what we write.
const OWNER: &str = "nsm-issuer";

/// How long to wait before trying again, and how often that is done: for ten minutes.
const PAUSE: Duration = Duration::from_secs(2);
const TRIES: u32 = 300;

/// What is to be there.
#[derive(Clone)]
pub(crate) struct Bundle {
    api: Api<DynamicObject>,
    namespaces: Api<Namespace>,
    namespace: String,
    signer: String,
    authorities: Arc<str>,
}

impl Bundle {
    /// The certificates `authorities` (PEM) of `signer`; they go with our namespace, as the authority does.
    pub(crate) fn new(client: &Client, namespace: &str, signer: &str, authorities: &str) -> Self {
        let kind = GroupVersionKind::gvk("certificates.k8s.io", "v1", "ClusterTrustBundle");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clustertrustbundles");
        Self {
            api: Api::all_with(client.clone(), &resource),
            namespaces: Api::all(client.clone()),
            namespace: namespace.into(),
            signer: signer.into(),
            authorities: authorities.into(),
        }
    }

    fn name(&self) -> String {
        format!("{}:{NAME}", self.signer.replace('/', ":"))
    }

    /// Writes it, and again whenever somebody else has changed or deleted it. Never ends.
    pub(crate) async fn keep(&self) {
        let ours = watcher::Config::default().fields(&format!("metadata.name={}", self.name()));
        let events = watcher(self.api.clone(), ours).default_backoff();
        let mut seen = false;
        let mut events = std::pin::pin!(
            events
                .into_stream()
                .map_err(|error| warn!(%error, "the trust bundle"))
        );
        while let Some(event) = events.next().await {
            let is_missing = match event {
                Ok(Event::Init) => {
                    seen = false;
                    false
                }
                Ok(Event::InitApply(found) | Event::Apply(found)) => {
                    seen = true;
                    self.differs(&found)
                }
                Ok(Event::InitDone) => !seen,
                Ok(Event::Delete(_)) => true,
                Err(()) => false,
            };
            if is_missing {
                self.write().await;
            }
        }
    }

    fn differs(&self, found: &DynamicObject) -> bool {
        found.data.pointer("/spec/trustBundle").and_then(Value::as_str) != Some(&*self.authorities)
    }

    /// Writes it, if need be when the API server is back.
    async fn write(&self) {
        for _ in 0..TRIES {
            match self.try_once().await {
                Ok(()) => return info!(bundle = self.name(), "the trust bundle is written"),
                Err(error) => warn!(%error, bundle = self.name(), "the trust bundle cannot be written"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_once(&self) -> Result<(), Failed> {
        let namespace = self.namespaces.get(&self.namespace).await?;
        let bundle = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
            "metadata": {
                "name": self.name(),
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Namespace",
                    "name": self.namespace, "uid": namespace.metadata.uid,
                }],
            },
            "spec": { "signerName": self.signer, "trustBundle": &*self.authorities },
        });
        let ours = PatchParams::apply(OWNER).force();
        self.api.patch(&self.name(), &ours, &Patch::Apply(bundle)).await?;
        Ok(())
    }
}
