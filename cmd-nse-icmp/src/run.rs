// SPDX-License-Identifier: Apache-2.0
//! Builds the endpoint's own elements and runs it.

use nsm_api::connectioncontext::DnsConfig;
use nsm_sdk::app::{self, Failure};
use nsm_sdk::chain;
use nsm_sdk::core::{Chain, Component, NetworkService};
use nsm_sdk::ipam::{Group, Strict, groups};
use nsm_sdk::networkservice::dnscontext::DnsContext;
use nsm_sdk::networkservice::kernel::{Kernel, OWN_NETNS};
use nsm_sdk::networkservice::mechanisms::Mechanisms;
use nsm_sdk::networkservice::onidle::OnIdle;
use nsm_sdk::networkservice::policyroute::PolicyRoute;
use nsm_sdk::networkservice::sendfd::SendFd;

use crate::settings::{IpamPolicy, Settings};

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let idle = component.clone();
    let elements = chain![OnIdle::new(&component, settings.idle_timeout.into(), move || {
        idle.shutdown().cancel()
    }),]
    .then(&ipam(&settings)?)
    .then(&chain![
        PolicyRoute::watching(&component, &settings.pbr_config_path),
        Mechanisms::server([
            (nsm_api::mechanism::KERNEL, chain![Kernel::server(OWN_NETNS)]),
            (nsm_api::mechanism::NOOP, chain![]),
        ]),
        DnsContext::new(dns_configs(&settings.dns_configs)?),
        SendFd::server(),
    ]);
    app::serve(&component, &settings.endpoint, elements).await
}

fn ipam(settings: &Settings) -> Result<Chain<NetworkService>, Failure> {
    let groups = groups(&settings.cidr_prefix).map_err(Failure::settings)?;
    let group = Group::new(&groups).map_err(Failure::settings)?;
    Ok(match settings.ipam_policy {
        IpamPolicy::Polite => chain![group],
        IpamPolicy::Strict => {
            let strict = Strict::new(&groups.concat()).map_err(Failure::settings)?;
            chain![strict, group]
        }
    })
}

/// The DNS configurations of a JSON list.
fn dns_configs(json: &str) -> Result<Vec<DnsConfig>, Failure> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        dns_server_ips: Vec<std::net::IpAddr>,
        #[serde(default)]
        search_domains: Vec<String>,
    }
    let bad = |error| Failure::Settings(format!("NSM_DNS_CONFIGS: {error}"));
    let configs: Vec<Config> = serde_json::from_str(json).map_err(bad)?;
    let config = |config: Config| DnsConfig {
        dns_server_ips: config.dns_server_ips.iter().map(ToString::to_string).collect(),
        search_domains: config.search_domains,
    };
    Ok(configs.into_iter().map(config).collect())
}
