// SPDX-License-Identifier: Apache-2.0
//! Finds or makes the authority, and serves.

use std::sync::Arc;

use kube::Client;
use nsm_sdk::app::Failure;
use nsm_sdk::core::{Component, Error};
use nsm_sdk::identity::Issuer;
use tracing::info;

use crate::pods::Pods;
use crate::secret::Secrets;
use crate::settings::Settings;
use crate::signer;

/// Who may open the socket: every user, since whoever calls is told apart by its pod.
const MODE: u32 = 0o777;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let fresh = Issuer::with_lifetime(&component, &settings.trust_domain, settings.lifetime.0)?;
    let (ours, secrets) = (fresh.keep(), Secrets::new(&settings.namespace, &settings.secret));
    let stopped = component.stop().clone();
    let client = Client::try_default()
        .await
        .map_err(|error| Error::unavailable("no-cluster", format!("where is the API server? {error}")))?;
    let kept = tokio::select! {
        kept = secrets.share(&client, &ours) => kept?,
        () = stopped.cancelled() => return Ok(()),
    };
    if !settings.signer_name.is_empty() {
        return Ok(signer::run(&component, &settings, client, &kept).await?);
    }
    let issuer = Issuer::again(&component, &settings.trust_domain, settings.lifetime.0, &kept)?;
    let pods = Pods::of(&settings.pod_logs);
    let attest = move |process| pods.identify(process);
    let _agent = issuer.serve_each(&settings.socket, MODE, Arc::new(attest))?;
    info!(
        socket = %settings.socket.display(),
        trust_domain = settings.trust_domain,
        is_first = ours == kept,
        "ready"
    );
    stopped.cancelled().await;
    Ok(())
}
