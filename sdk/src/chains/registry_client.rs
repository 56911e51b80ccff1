// SPDX-License-Identifier: Apache-2.0
//! How endpoints and forwarders call the registry of their manager: to be registered there, and to look up.

use std::sync::Arc;
use std::time::Duration;

use crate::chain;
use crate::core::{Chain, Component, Dialer, NsRegistry, NseRegistry};
use crate::elements::authorize::AuthorizeClient;
use crate::elements::begin::Begin;
use crate::elements::clienturl::ClientUrl;
use crate::elements::connect::Connect;
use crate::elements::dial::Dial;
use crate::elements::retry::Retry;
use crate::networkservice::Registries;
use crate::policy::Policies;
use crate::registry::heal::Heal;
use crate::registry::querycache::QueryCache;
use crate::registry::recvfd::RecvFd;
use crate::registry::refresh::Refresh;
use crate::registry::sendfd::SendFd;

/// What makes one client differ from another.
#[derive(Clone)]
pub struct Settings {
    /// The manager that it calls.
    pub connect_to: String,
    /// What the path of an answer must fulfil.
    pub policies: Policies,
}

/// The registries as one calls them who is registered there.
#[derive(Clone)]
pub struct Client {
    /// For endpoints.
    pub nse: Chain<NseRegistry>,
    /// For services.
    pub ns: Chain<NsRegistry>,
}

/// The chains of an application that registers endpoints and services and keeps them registered.
pub fn client<D>(component: &Component, settings: &Settings, dialer: &Arc<D>) -> Client
where
    D: Dialer<NseRegistry> + Dialer<NsRegistry>,
{
    let nse = chain![
        Begin::client(component),
        Retry,
        Heal,
        Refresh,
        AuthorizeClient::new(&settings.policies),
        ClientUrl::new(&settings.connect_to),
        Dial::new(Arc::clone(dialer) as _, Duration::ZERO),
        SendFd::client(),
        Connect,
    ];
    let ns = chain![
        Begin::client(component),
        Retry,
        AuthorizeClient::new(&settings.policies),
        Heal,
        ClientUrl::new(&settings.connect_to),
        Dial::new(Arc::clone(dialer) as _, Duration::ZERO),
        Connect,
    ];
    Client { nse, ns }
}

/// The chains of a hop that only looks up.
///
/// `recvfd` is there twice, once with the sockets that the cache holds and once for those who ask it.
pub fn lookup<D>(settings: &Settings, dialer: &Arc<D>) -> Registries
where
    D: Dialer<NseRegistry> + Dialer<NsRegistry>,
{
    let recvfd = RecvFd::client();
    let endpoints = chain![
        recvfd.clone(),
        QueryCache::default(),
        ClientUrl::new(&settings.connect_to),
        Dial::new(Arc::clone(dialer) as _, Duration::ZERO),
        recvfd,
        Connect,
    ];
    let services = chain![
        QueryCache::default(),
        ClientUrl::new(&settings.connect_to),
        Dial::new(Arc::clone(dialer) as _, Duration::ZERO),
        Connect,
    ];
    Registries { services, endpoints }
}

#[cfg(test)]
mod tests;
