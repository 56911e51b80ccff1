// SPDX-License-Identifier: Apache-2.0
//! Builds the forwarder, registers it and runs it.

use std::sync::Arc;

use nsm_api::registry::{NetworkServiceEndpoint, NetworkServiceLabels};
use nsm_sdk::app::{self, Failure, Start, labels};
use nsm_sdk::chains::{forwarder, registry_client};
use nsm_sdk::core::Component;
use nsm_sdk::networkservice::xconnect::Planes;
use nsm_sdk::policy;
use nsm_sdk::transport::Server;
use nsm_sdk_kernel::Kernel;
use tokio::sync::watch;
use tracing::warn;

use crate::address;
use crate::settings::Settings;
use crate::tunnels;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let start = Start::new(&component, settings.max_token_lifetime);
    std::fs::create_dir_all(&settings.state_dir).map_err(|error| {
        Failure::Settings(format!("cannot make {}: {error}", settings.state_dir.display()))
    })?;
    let kernel = nsm_sdk_kernel::Config {
        journal: Some(settings.state_dir.join("journal")),
        group: settings.link_group,
        ..nsm_sdk_kernel::Config::default()
    };
    let kernel = Arc::new(Kernel::start(&component, kernel).await?);
    let planes = Planes::new(kernel.clone());
    let (tunnels, planes) = match address::choose(settings.tunnel_ip) {
        None => (None, planes),
        Some(ip) => {
            let (tunnels, makers) = tunnels::start(&component, &settings, &kernel, ip).await?;
            (Some(tunnels), planes.with_tunnels(makers))
        }
    };
    let identity = start.identity().await?;
    let pool = start.pool(&identity, settings.dial_timeout);
    let client = registry_client::Settings {
        connect_to: settings.connect_to,
        policies: start.policies(&settings.registry_client_policies)?,
    };
    let registries = registry_client::lookup(&client, &pool);
    // Tunnels of this program last as long as somebody has their makers: at the end that is nobody but the chain.
    let chain = {
        let settings = forwarder::Settings {
            gate: start.gate(&identity, &[policy::SERVER.to_string()])?,
            mechanism_priority: settings.mechanism_priority,
            planes,
            tunnels,
        };
        forwarder::forwarder(&component, &settings, &registries, pool.clone())
    };
    let is_registered = watch::Sender::new(false);
    let urls = Server::new(&component, identity)
        .network_service(chain)
        .health(app::REGISTERED, is_registered.subscribe())
        .listen(&[settings.listen_on])
        .await?;
    let labels = NetworkServiceLabels {
        labels: labels(&settings.labels)?,
    };
    let us = NetworkServiceEndpoint {
        name: component.name().to_string(),
        url: urls.first().cloned().unwrap_or_default(),
        network_service_names: vec![settings.nsname.clone()],
        network_service_labels: [(settings.nsname, labels)].into(),
        ..Default::default()
    };
    let registry = registry_client::client(&component, &client, &pool);
    let registered = app::register(&component, &registry.nse, us).await?;
    is_registered.send_replace(registered.is_some());
    start.ready(&urls).await;
    if let Some(registered) = registered {
        app::unregister(&component, &registry.nse, registered).await;
    }
    component.end().await;
    match Arc::into_inner(kernel) {
        Some(kernel) => kernel.end().await,
        None => warn!("somebody still uses the data plane; what is to be removed may stay"),
    }
    Ok(())
}
