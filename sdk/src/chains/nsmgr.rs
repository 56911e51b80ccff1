// SPDX-License-Identifier: Apache-2.0
//! The network service manager of a node: connections. Its registries are in [`super::nsmgr_registry`].

use std::path::PathBuf;
use std::sync::Arc;

use nsm_api::matching::Labels;

use super::client::pass_through;
use super::endpoint::{Gate, endpoint};
use crate::chain;
use crate::core::{Chain, Component, Dialer, NetworkService};
use crate::elements::clientinfo::ClientInfo;
use crate::elements::connect::ConnectServer;
use crate::networkservice::Registries;
use crate::networkservice::discoverforwarder::DiscoverForwarder;
use crate::networkservice::excludedprefixes::ExcludedPrefixes;
use crate::networkservice::metrics::{Counters, Metrics};
use crate::networkservice::netsvcmonitor::NetSvcMonitor;
use crate::networkservice::recvfd::RecvFd;
use crate::networkservice::report::{Listener, Report};
use crate::networkservice::sendfd::SendFd;

/// What makes one manager differ from another.
#[derive(Clone)]
pub struct Settings {
    /// Who it is and whom it lets in.
    pub gate: Gate,
    /// How forwarders register with it: its own public URL.
    pub url: String,
    /// The service that forwarders offer.
    pub forwarder_service: String,
    /// The labels `nodeName`, `podName` and `clusterName` for clients that have none.
    pub info: Labels,
    /// The file with prefixes that no endpoint may give out.
    pub excluded_prefixes: PathBuf,
    /// Where the metrics of the paths are counted.
    pub counters: Counters,
    /// Who is told what becomes of the requests of the node's clients, if anybody.
    pub listener: Option<Arc<dyn Listener>>,
}

/// The chain that takes requests from clients to forwarders, and from remote forwarders to endpoints.
pub fn nsmgr(
    component: &Component,
    settings: &Settings,
    registries: &Registries,
    dialer: Arc<dyn Dialer<NetworkService>>,
) -> Chain<NetworkService> {
    let files = chain![RecvFd::client(), SendFd::client()];
    let client = pass_through(dialer, &chain![], &files);
    let report = match &settings.listener {
        Some(listener) => chain![Report::new(Arc::clone(listener))],
        None => chain![],
    };
    report.then(&endpoint(
        component,
        &settings.gate,
        &chain![
            ClientInfo::new(settings.info.clone()),
            DiscoverForwarder::new(registries.clone(), &settings.forwarder_service, &settings.url),
            NetSvcMonitor::new(
                component,
                registries.services.clone(),
                registries.endpoints.clone()
            ),
            ExcludedPrefixes::server(component, &settings.excluded_prefixes),
            RecvFd::server(),
            Metrics::new(&settings.counters),
            ConnectServer::new(client),
            SendFd::server(),
        ],
    ))
}
