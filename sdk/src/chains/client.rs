// SPDX-License-Identifier: Apache-2.0
//! The chain of a client, and the client half of every hop that passes requests on.

use std::sync::Arc;
use std::time::Duration;

use nsm_api::connection::{Connection, Path, PathSegment};
use nsm_api::matching::Labels;
use nsm_api::service_url::ServiceUrl;

use crate::chain;
use crate::core::{Chain, Component, Dialer, NetworkService, Request};
use crate::elements::authorize::AuthorizeClient;
use crate::elements::begin::Begin;
use crate::elements::clientinfo::ClientInfo;
use crate::elements::clienturl::ClientUrl;
use crate::elements::connect::Connect;
use crate::elements::dial::Dial;
use crate::elements::updatepath::UpdatePath;
use crate::networkservice::excludedprefixes::{AwarenessGroups, ExcludedPrefixes};
use crate::networkservice::kernel::Kernel;
use crate::networkservice::refresh::Refresh;
use crate::networkservice::sendfd::SendFd;
use crate::networkservice::trimpath::TrimPath;
use crate::networkservice::upstreamrefresh::UpstreamRefresh;
use crate::policy::Policies;

/// What makes one client differ from another.
#[derive(Clone)]
pub struct Settings {
    /// The manager that it calls.
    pub connect_to: String,
    /// The network namespace in which its wires end, as a `file://` URL.
    pub netns: String,
    /// Its labels `nodeName`, `podName` and `clusterName`.
    pub info: Labels,
    /// Services whose addresses may overlap.
    pub awareness_groups: AwarenessGroups,
    /// What the answer's path must fulfil.
    pub policies: Policies,
    /// What mends its wires: [`heal`](crate::networkservice::heal), or nothing but the next refresh.
    pub heal: Chain<NetworkService>,
    /// What its pod's resolver learns by: [`dnscontext`](crate::networkservice::dnscontext), or nothing.
    pub dns: Chain<NetworkService>,
}

/// The chain of an application that asks for wires and keeps them.
///
/// `authorize` stands before `dial`, so that an answer that it refuses is closed over the way that is still there.
///
/// Errors: `bad-url`.
pub fn client(
    component: &Component,
    settings: &Settings,
    dialer: Arc<dyn Dialer<NetworkService>>,
) -> Chain<NetworkService> {
    let head = chain![UpdatePath, Begin::client(component), Refresh];
    let way = chain![
        ClientUrl::new(&settings.connect_to),
        AuthorizeClient::new(&settings.policies),
        Dial::new(dialer, Duration::ZERO),
        ClientInfo::new(settings.info.clone()),
        UpstreamRefresh::new(),
        Kernel::client(&settings.netns),
        SendFd::client(),
    ];
    let tail = chain![
        ExcludedPrefixes::client(&settings.awareness_groups),
        TrimPath::client(),
        Connect,
    ];
    head.then(&settings.heal)
        .then(&way)
        .then(&settings.dns)
        .then(&tail)
}

/// The client half of a hop that passes requests on. `before` stands before the way is dialled, `additional` between
/// that and the call.
///
/// It has no `begin` of its own: the server half's serves both.
pub fn pass_through(
    dialer: Arc<dyn Dialer<NetworkService>>,
    before: &Chain<NetworkService>,
    additional: &Chain<NetworkService>,
) -> Chain<NetworkService> {
    let head = chain![UpdatePath];
    let way = chain![Dial::new(dialer, Duration::ZERO)];
    let tail = chain![TrimPath::client(), Connect];
    head.then(before).then(&way).then(additional).then(&tail)
}

/// A first request for what `url` names, as the connection `id` of `component`.
pub fn request(component: &Component, id: &str, url: &ServiceUrl) -> Request {
    let segment = PathSegment {
        name: component.name().to_string(),
        id: id.to_string(),
        ..Default::default()
    };
    let connection = Connection {
        id: id.to_string(),
        network_service: url.network_service.clone(),
        labels: url.labels.clone(),
        path: Some(Path {
            index: 0,
            path_segments: vec![segment],
        }),
        ..Default::default()
    };
    Request {
        connection,
        mechanism_preferences: vec![url.mechanism.clone()],
    }
}
