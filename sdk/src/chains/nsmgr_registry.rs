// SPDX-License-Identifier: Apache-2.0
//! The network service manager of a node: registries. Its connections are in [`super::nsmgr`].

use std::sync::Arc;
use std::time::Duration;

use nsm_api::matching::Labels;

use super::endpoint::Gate;
use crate::chain;
use crate::core::{Chain, Component, Dialer, NsRegistry, NseRegistry};
use crate::elements::authorize::AuthorizeClient;
use crate::elements::begin::Begin;
use crate::elements::clientinfo::ClientInfo;
use crate::elements::clienturl::ClientUrl;
use crate::elements::connect::Connect;
use crate::elements::dial::Dial;
use crate::elements::meter::Meter;
use crate::networkservice::Registries;
use crate::policy::Policies;
use crate::registry::authorize::AuthorizeServer;
use crate::registry::checks::Checks;
use crate::registry::expire::{DEFAULT_EXPIRATION, Expire};
use crate::registry::localbypass::LocalBypass;
use crate::registry::memory::{Limits, Memory};
use crate::registry::queries::Registry;
use crate::registry::querycache::QueryCache;
use crate::registry::recvfd::RecvFd;
use crate::registry::sendfd::SendFd;
use crate::registry::setpayload::SetPayload;
use crate::registry::updatepath::UpdatePath;

/// What makes one manager's registries differ from another's.
#[derive(Clone)]
pub struct Settings {
    /// Who it is and whom it lets in.
    pub gate: Gate,
    /// What the path of the registry's answer must fulfil.
    pub client_policies: Policies,
    /// The registry of the cluster; without one the manager keeps everything itself.
    pub registry_url: Option<String>,
    /// How others reach the endpoints of this node: the manager's own public URL.
    pub url: String,
    /// The labels `nodeName`, `podName` and `clusterName` for endpoints that have none.
    pub info: Labels,
}

/// The registries of a manager.
#[derive(Clone)]
pub struct NsmgrRegistry {
    /// What it serves: endpoints.
    pub nse: Chain<NseRegistry>,
    /// What it serves: services.
    pub ns: Chain<NsRegistry>,
    /// What it asks for its own requests.
    pub lookup: Registries,
}

/// The registries of a manager: it hands on what is registered, under its own URL.
pub fn nsmgr_registry<D>(component: &Component, settings: &Settings, dialer: &Arc<D>) -> NsmgrRegistry
where
    D: Dialer<NseRegistry> + Dialer<NsRegistry>,
{
    let (endpoints, services) = match &settings.registry_url {
        Some(url) => (
            hand_on(settings, url, Arc::clone(dialer) as _),
            hand_on(settings, url, Arc::clone(dialer) as _),
        ),
        None => (
            chain![Memory::new(Limits::default())],
            chain![SetPayload, Memory::new(Limits::default())],
        ),
    };
    let endpoints = chain![LocalBypass::new(settings.url.as_str())].then(&endpoints);
    let nse = chain![
        ClientInfo::new(settings.info.clone()),
        Expire::new(DEFAULT_EXPIRATION),
        RecvFd::server(),
        SendFd::server(),
    ];
    NsmgrRegistry {
        nse: serve(component, &settings.gate).then(&nse).then(&endpoints),
        ns: serve(component, &settings.gate).then(&services),
        lookup: Registries { services, endpoints },
    }
}

/// What every registry of a manager begins with.
fn serve<A: Registry>(component: &Component, gate: &Gate) -> Chain<A> {
    chain![
        Checks,
        UpdatePath::new(&gate.tokens, &gate.identity),
        AuthorizeServer::remembering(&gate.policies, &gate.identity),
        Begin::server(component),
        Meter,
    ]
}

/// The way to the registry of the cluster.
fn hand_on<A: Registry>(settings: &Settings, url: &str, dialer: Arc<dyn Dialer<A>>) -> Chain<A> {
    chain![
        QueryCache::default(),
        ClientUrl::new(url),
        AuthorizeClient::new(&settings.client_policies),
        Dial::new(dialer, Duration::ZERO),
        Connect,
    ]
}

#[cfg(test)]
mod tests;
