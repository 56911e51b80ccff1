// SPDX-License-Identifier: Apache-2.0
//! Builds the registry and runs it.

use nsm_sdk::app::{Failure, Start};
use nsm_sdk::chains::registry_memory;
use nsm_sdk::core::Component;
use nsm_sdk::transport::Server;

use crate::settings::Settings;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let start = Start::new(&component, settings.max_token_lifetime);
    let identity = start.identity().await?;
    let registry = registry_memory::Settings {
        gate: start.gate(&identity, &settings.registry_server_policies)?,
        expiration: settings.expire_period.into(),
    };
    let urls = Server::new(&component, identity)
        .nse_registry(registry_memory::nse(&component, &registry))
        .ns_registry(registry_memory::ns(&component, &registry))
        .listen(&settings.listen_on)
        .await?;
    start.ready(&urls).await;
    Ok(())
}
