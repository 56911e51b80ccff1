// SPDX-License-Identifier: Apache-2.0
//! Builds the registry and runs it.

use nsm_sdk::app::{Failure, Start};
use nsm_sdk::core::{Component, Error};
use nsm_sdk::transport::Server;
use nsm_sdk_k8s::chains::registry_k8s;
use nsm_sdk_k8s::registry::{ApiServer, Etcd, HEALTH, counts};

use crate::settings::Settings;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let start = Start::new(&component, settings.max_token_lifetime);
    let identity = start.identity().await?;
    let registry = registry_k8s::Settings {
        gate: start.gate(&identity, &settings.registry_server_policies)?,
        expiration: settings.expire_period.into(),
    };
    let api = ApiServer::infer(&component, settings.kubelet_qps)
        .await
        .map_err(Failure::settings)?;
    let (home, period) = (&settings.namespace, registry.expiration);
    let endpoints = Etcd::start(&component, &api, home, period);
    let services = Etcd::start(&component, &api, home, period);
    let counting = counts::tell(component.clone(), services.clone(), endpoints.clone());
    component.spawn_detached("counts", counting);
    tokio::select! {
        _known = async { tokio::join!(endpoints.synced(), services.synced()) } => {}
        () = component.stop().cancelled() => {
            let text = "told to end before the API server had told everything";
            return Err(Error::unavailable("shutdown", text).into());
        }
    }
    let urls = Server::new(&component, identity)
        .nse_registry(registry_k8s::nse(&component, &registry, &endpoints))
        .ns_registry(registry_k8s::ns(&component, &registry, &services))
        .health(HEALTH, api.is_up())
        .listen(&settings.listen_on)
        .await?;
    start.ready(&urls).await;
    Ok(())
}
