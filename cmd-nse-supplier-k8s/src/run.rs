// SPDX-License-Identifier: Apache-2.0
//! Builds the supplier and runs it.

use std::sync::Arc;

use nsm_api::registry::NetworkService as Service;
use nsm_sdk::app::{self, Failure, Start, labels};
use nsm_sdk::chain;
use nsm_sdk::chains::registry_client;
use nsm_sdk::core::{Chain, Component, NsRegistry};
use nsm_sdk::networkservice::supply::{self, Starter, Supply};
use nsm_sdk_k8s::client;
use tracing::warn;

use crate::command::Commands;
use crate::pods::Pods;
use crate::settings::Settings;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let supplies = supply::Settings {
        name: settings.name.clone(),
        labels: labels(&settings.labels)?,
        start_timeout: settings.start_timeout.into(),
    };
    let policies =
        Start::new(&component, settings.max_token_lifetime).policies(&settings.registry_client_policies)?;
    let lookup = registry_client::Settings {
        connect_to: settings.connect_to.clone(),
        policies,
    };
    let service = settings
        .register_service
        .then(|| settings.service())
        .transpose()?;
    let starter = starter(&component, &settings).await?;
    let ours = component.clone();
    app::serve_calling(&component, &settings.endpoint(), move |pool| {
        let registries = registry_client::lookup(&lookup, pool);
        let registry = registry_client::client(&ours, &lookup, pool);
        let supply = Supply::new(&ours, supplies, registries, starter);
        let (adopting, component) = (supply.clone(), ours.clone());
        ours.spawn_detached("adopt", async move {
            let ended = component.shutdown().clone();
            let adopted = async {
                if let Some(service) = service {
                    register(&component, &registry.ns, service).await;
                }
                adopting.adopt().await;
            };
            tokio::select! {
                () = ended.cancelled() => {}
                () = adopted => {}
            }
        });
        chain![supply]
    })
    .await
}

/// Registers the service, unless it is somebody else's.
async fn register(component: &Component, registry: &Chain<NsRegistry>, service: Service) {
    let name = service.name.clone();
    if let Err(error) = app::register(component, registry, service).await {
        warn!(name, %error, "the service is not registered by us, so others say what its matches are");
    }
}

/// What starts endpoints here.
async fn starter(component: &Component, settings: &Settings) -> Result<Arc<dyn Starter>, Failure> {
    let most = settings.max_endpoints as usize;
    let service = &settings.service_name;
    if !settings.command.trim().is_empty() {
        let (command, envs) = (&settings.command, &settings.command_envs);
        let commands = Commands::new(command, envs, &settings.state_dir, most).map_err(Failure::Settings)?;
        commands.check(service).map_err(Failure::settings)?;
        return Ok(Arc::new(commands));
    }
    let client = client::infer().await.map_err(Failure::settings)?;
    let pods = Pods::new(
        component,
        &client,
        &settings.namespace,
        &settings.pod_description_file,
        most,
    );
    pods.check(service).await.map_err(Failure::settings)?;
    Ok(Arc::new(pods))
}
