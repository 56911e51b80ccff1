// SPDX-License-Identifier: Apache-2.0
//! Asks for each service, keeps the wires, and closes them at the end.

use nsm_api::service_url::ServiceUrl;
use nsm_sdk::app::{Failure, Start};
use nsm_sdk::chains::client;
use nsm_sdk::core::Component;
use nsm_sdk::networkservice::excludedprefixes::AwarenessGroups;
use nsm_sdk::networkservice::heal::Heal;
use nsm_sdk::networkservice::kernel::OWN_NETNS;
use nsm_sdk::policy;
use tracing::info;

use crate::settings::Settings;
use crate::wire::Wire;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let start = Start::new(&component, settings.max_token_lifetime);
    let services = ServiceUrl::parse_list(&settings.network_services.join(",")).map_err(Failure::settings)?;
    if services.is_empty() {
        let text =
            "NSM_NETWORK_SERVICES is empty; name what to connect to: kernel://service/interface?label=value";
        return Err(Failure::Settings(text.to_string()));
    }
    let awareness_groups = AwarenessGroups::parse(&settings.awareness_groups).map_err(Failure::settings)?;
    let check = settings.check()?;
    let identity = start.identity().await?;
    let chain = client::client(
        &component,
        &client::Settings {
            connect_to: settings.connect_to,
            netns: OWN_NETNS.to_string(),
            info: settings.info.labels(),
            awareness_groups,
            policies: start.policies(&[policy::CLIENT.to_string()])?,
            heal: nsm_sdk::chain![Heal::new(check.clone())],
        },
        start.pool(&identity, settings.dial_timeout),
    );
    let wires = services.into_iter().enumerate().map(|(number, service)| {
        let id = format!("{}-{number}", component.name());
        Wire::new(&component, &chain, id, service, settings.request_timeout.into()).looked_at(check.clone())
    });
    let mut wires: Vec<Wire> = wires.collect();
    info!(services = wires.len(), "asking for services");
    let attached = futures::future::join_all(wires.iter_mut().map(Wire::attach)).await;
    if attached.iter().all(|attached| *attached) {
        start.ready(&[]).await;
    }
    futures::future::join_all(wires.iter_mut().map(Wire::close)).await;
    Ok(())
}
