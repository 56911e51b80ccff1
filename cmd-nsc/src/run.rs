// SPDX-License-Identifier: Apache-2.0
//! Asks for each service, keeps the wires, and closes them at the end.

use std::sync::Arc;
use std::time::Duration;

use nsm_api::service_url::ServiceUrl;
use nsm_sdk::app::{Failure, Start};
use nsm_sdk::chains::client;
use nsm_sdk::core::{Chain, Component, Error, NetworkService};
use nsm_sdk::networkservice::dnscontext::DnsContextClient;
use nsm_sdk::networkservice::excludedprefixes::AwarenessGroups;
use nsm_sdk::networkservice::heal::{Check, Heal};
use nsm_sdk::networkservice::kernel::OWN_NETNS;
use nsm_sdk::policy;
use nsm_sdk_dns::Dns;
use tracing::info;

use crate::look::look;
use crate::settings::Settings;
use crate::wire::Wire;

/// Gives the pod its wires, and keeps them until the component is told to end. They are closed then.
///
/// With the setting `look` it only tells how they are.
///
/// Errors: settings that can never work, or no identity.
pub async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let check = settings.check()?;
    if settings.look {
        let within = settings.liveness_check_timeout.into();
        let client = Client::new(&component, settings, nsm_sdk::chain![], nsm_sdk::chain![]).await?;
        return Ok(look(&component, &client.wires(&component, None), within).await?);
    }
    let heal = nsm_sdk::chain![Heal::new(check.clone())];
    let dns = settings.dns().map(|settings| Dns::new(&component, settings));
    let dns = match dns {
        Some(dns) => nsm_sdk::chain![DnsContextClient::new(Arc::new(dns))],
        None => nsm_sdk::chain![],
    };
    let client = Client::new(&component, settings, heal, dns).await?;
    let mut wires = client.wires(&component, check.as_ref());
    if attach(&mut wires).await {
        client.start.ready(&[]).await;
    }
    futures::future::join_all(wires.iter_mut().map(Wire::close)).await;
    Ok(())
}

/// Gives the pod its wires and ends. They stay for a client of the same name, which takes them over, or until their
/// tokens expire. Before that it makes the file by which that client will tell other containers of its resolver.
///
/// Errors: as [`run`], `resolv-conf` when that file cannot be made, and `shutdown` when told to end before every wire
/// was there.
pub async fn init(component: Component, settings: Settings) -> Result<(), Failure> {
    let check = settings.check()?;
    settings.share_resolv_conf()?;
    let client = Client::new(&component, settings, nsm_sdk::chain![], nsm_sdk::chain![]).await?;
    let mut wires = client.wires(&component, check.as_ref());
    if attach(&mut wires).await {
        return Ok(());
    }
    futures::future::join_all(wires.iter_mut().map(Wire::close)).await;
    let text = "told to end before every service was there";
    Err(Error::unavailable("shutdown", text).into())
}

/// Asks for all at the same time; answers whether all are there.
async fn attach(wires: &mut [Wire<'_>]) -> bool {
    info!(services = wires.len(), "asking for services");
    let attached = futures::future::join_all(wires.iter_mut().map(Wire::attach)).await;
    attached.into_iter().all(|attached| attached)
}

/// Who asks, and for what.
struct Client {
    start: Start,
    chain: Chain<NetworkService>,
    services: Vec<ServiceUrl>,
    timeout: Duration,
}

impl Client {
    async fn new(
        component: &Component,
        settings: Settings,
        heal: Chain<NetworkService>,
        dns: Chain<NetworkService>,
    ) -> Result<Self, Failure> {
        let start = Start::new(component, settings.max_token_lifetime);
        let services =
            ServiceUrl::parse_list(&settings.network_services.join(",")).map_err(Failure::settings)?;
        if services.is_empty() {
            let text = "NSM_NETWORK_SERVICES is empty; name what to connect to: kernel://service/interface?label=value";
            return Err(Failure::Settings(text.to_string()));
        }
        let awareness_groups =
            AwarenessGroups::parse(&settings.awareness_groups).map_err(Failure::settings)?;
        let identity = start.identity().await?;
        let chain = client::client(
            component,
            &client::Settings {
                connect_to: settings.connect_to,
                netns: OWN_NETNS.to_string(),
                info: settings.info.labels(),
                awareness_groups,
                policies: start.policies(&[policy::CLIENT.to_string()])?,
                heal,
                dns,
            },
            start.pool(&identity, settings.dial_timeout),
        );
        Ok(Self {
            start,
            chain,
            services,
            timeout: settings.request_timeout.into(),
        })
    }

    /// One for each service, under the id that a client of our name has always given it.
    fn wires<'a>(&'a self, component: &'a Component, check: Option<&Check>) -> Vec<Wire<'a>> {
        let services = self.services.iter().cloned().enumerate();
        let wires = services.map(|(number, service)| {
            let id = format!("{}-{number}", component.name());
            Wire::new(component, &self.chain, id, service, self.timeout).looked_at(check.cloned())
        });
        wires.collect()
    }
}
