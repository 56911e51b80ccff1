// SPDX-License-Identifier: Apache-2.0
//! Signs the certificates that kubelets ask for, for the pods of their nodes.
//!
//! Keys of pods never come here: a kubelet makes them, and asks by a PodCertificateRequest. That the kubelet of the pod's
//! own node asks, for a pod that it runs, the API server has checked. Several signers may run: who is second is told so by
//! the API server, and all have the same authority.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Error as Failed};
use nsm_sdk::core::{Component, Error, Result};
use nsm_sdk::identity::Issuer;
use nsm_sdk::identity::issuer::Kept;
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use crate::bundle::Bundle;
use crate::requests::{Request, answer, is_open, resource};
use crate::settings::Settings;

/// How many requests are answered at once.
const AT_ONCE: usize = 32;

/// How often an answer is tried, and how long the first pause is; each one is twice as long as that before.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);

/// Signs until the component is to stop.
///
/// Errors: `api-server` when the cluster has no such requests, or refuses us.
pub(crate) async fn run(
    component: &Component,
    settings: &Settings,
    client: Client,
    kept: &Kept,
) -> Result<()> {
    let lifetime = settings.lifetime.0;
    let issuer = Issuer::again(component, &settings.trust_domain, lifetime, kept)?;
    let signer = Arc::new(Signer {
        component: component.clone(),
        api: Api::all_with(client.clone(), &resource()),
        name: settings.signer_name.clone(),
        issuer,
        lifetime,
    });
    let bundle = Bundle::new(
        &client,
        &settings.namespace,
        &settings.signer_name,
        &kept.certificate,
    );
    signer.expect_requests().await?;
    info!(
        signer = settings.signer_name,
        trust_domain = settings.trust_domain,
        "ready"
    );
    tokio::select! {
        () = component.stop().cancelled() => {}
        () = bundle.keep() => {}
        () = signer.serve() => {}
    }
    Ok(())
}

struct Signer {
    component: Component,
    api: Api<Request>,
    name: String,
    issuer: Issuer,
    lifetime: Duration,
}

impl Signer {
    fn ours(&self) -> String {
        format!("spec.signerName={}", self.name)
    }

    /// Whether the cluster has such requests at all: Kubernetes has them from 1.37 on.
    async fn expect_requests(&self) -> Result<()> {
        let one = kube::api::ListParams::default().fields(&self.ours()).limit(1);
        match self.api.list(&one).await {
            Err(Failed::Api(status)) if matches!(status.code, 403 | 404) => {
                let text = format!(
                    "the API server gives us no PodCertificateRequests of certificates.k8s.io/v1, which Kubernetes has \
                     from 1.37 on: {status}"
                );
                Err(Error::unavailable("api-server", text))
            }
            // Who does not answer now does later: the watch goes on trying.
            _ => Ok(()),
        }
    }

    async fn serve(self: Arc<Self>) {
        let ours = watcher::Config::default().fields(&self.ours());
        let requests = watcher(self.api.clone(), ours)
            .default_backoff()
            .applied_objects();
        requests
            .for_each_concurrent(AT_ONCE, |request| {
                let signer = Arc::clone(&self);
                async move {
                    match request {
                        Ok(request) if is_open(&request, &signer.name) => signer.answer(&request).await,
                        Ok(_) => {}
                        Err(error) => warn!(%error, "watching for requests"),
                    }
                }
            })
            .await;
    }

    async fn answer(&self, request: &Request) {
        let metadata = &request.metadata;
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
            return;
        };
        let status = answer(&self.issuer, self.lifetime, self.component.now(), request);
        let condition = status
            .pointer("/conditions/0/type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        // Only of the state that was judged: if another one was faster, it is answered.
        let patch = json!({ "metadata": { "resourceVersion": metadata.resource_version }, "status": status });
        let api: Api<Request> = Api::namespaced_with(self.api.clone().into_client(), namespace, &resource());
        let mut pause = PAUSE;
        for _ in 0..TRIES {
            match api
                .patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                Ok(_) => {
                    info!(namespace, pod = request.spec.pod_name, condition, "answered");
                    return;
                }
                Err(Failed::Api(status)) if !matches!(status.code, 429 | 500..) => {
                    debug!(namespace, request = name, %status, "the answer is not taken");
                    return;
                }
                Err(error) => warn!(namespace, request = name, %error, "the API server does not answer"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}
