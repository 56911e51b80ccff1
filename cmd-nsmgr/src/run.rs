// SPDX-License-Identifier: Apache-2.0
//! Builds the manager and runs it.

use std::path::Path;
use std::sync::Arc;

use nsm_sdk::app::{Failure, Start};
use nsm_sdk::chains::{nsmgr, nsmgr_registry};
use nsm_sdk::core::Component;
use nsm_sdk::networkservice::metrics::Counters;
use nsm_sdk::networkservice::report::Listener;
use nsm_sdk::policy;
use nsm_sdk::transport::notices::ToSocket;
use nsm_sdk::transport::{Server, public_url};

use crate::settings::Settings;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let start = Start::new(&component, settings.max_token_lifetime);
    let identity = start.identity().await?;
    let url = public_url(&settings.listen_on)?;
    let pool = start.pool(&identity, settings.dial_timeout);
    let info = settings.info.labels();

    let registry = nsmgr_registry::Settings {
        gate: start.gate(&identity, &settings.registry_server_policies)?,
        client_policies: start.policies(&settings.registry_client_policies)?,
        registry_url: Some(settings.registry_url).filter(|url| !url.is_empty()),
        url: url.clone(),
        info: info.clone(),
    };
    let registries = nsmgr_registry::nsmgr_registry(&component, &registry, &pool);
    let counters = Counters::default();
    let manager = nsmgr::Settings {
        gate: start.gate(&identity, &[policy::SERVER.to_string()])?,
        url,
        forwarder_service: settings.forwarder_network_service_name,
        info,
        excluded_prefixes: settings.excluded_prefixes_file,
        counters: counters.clone(),
        listener: listener(&settings.report_to)?,
    };
    component.meters().also(move || counters.read());
    let urls = Server::new(&component, identity)
        .network_service(nsmgr::nsmgr(&component, &manager, &registries.lookup, pool))
        .nse_registry(registries.nse)
        .ns_registry(registries.ns)
        .listen(&settings.listen_on)
        .await?;
    start.ready(&urls).await;
    Ok(())
}

/// Who is told at this path what becomes of requests; nobody where there is none.
fn listener(path: &str) -> Result<Option<Arc<dyn Listener>>, Failure> {
    if path.is_empty() {
        return Ok(None);
    }
    let socket = ToSocket::new(Path::new(path));
    let socket =
        socket.map_err(|error| Failure::Settings(format!("NSM_REPORT_TO: no socket to tell by: {error}")))?;
    Ok(Some(Arc::new(socket)))
}
