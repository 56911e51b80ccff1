// SPDX-License-Identifier: Apache-2.0
//! The elements of an endpoint that is a client too: what arrives on one wire of its pod leaves by another, to an
//! endpoint of the same service. Firewalls, proxies and probes are made so, and composed by the `matches` of a service.

use std::sync::Arc;

use nsm_api::matching::Labels;
use nsm_api::mechanism;

use super::client::pass_through;
use crate::chain;
use crate::core::{Chain, Dialer, NetworkService};
use crate::elements::clienturl::ClientUrl;
use crate::elements::connect::ConnectServer;
use crate::networkservice::kernel::Kernel;
use crate::networkservice::legs::Legs;
use crate::networkservice::mechanisms::Mechanisms;
use crate::networkservice::mechanismtranslation::MechanismTranslation;
use crate::networkservice::passthrough::PassThrough;
use crate::networkservice::sendfd::SendFd;

/// What makes one such endpoint differ from another.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The manager that it calls for the wire behind it.
    pub connect_to: String,
    /// The labels by which the service chooses what comes behind it.
    pub labels: Labels,
    /// The network namespace in which both wires end, as a `file://` URL.
    pub netns: String,
}

/// The elements behind the address management of such an endpoint. They end its chain.
///
/// The client's request asks for the second wire before the first is made, and each refresh keeps both. Nothing is
/// healed here: the client sees the whole way, and chooses anew.
pub fn passthrough(settings: &Settings, dialer: Arc<dyn Dialer<NetworkService>>) -> Chain<NetworkService> {
    let onward = chain![
        Legs,
        PassThrough::new(settings.labels.clone()),
        MechanismTranslation,
        Kernel::client(&settings.netns),
        ClientUrl::new(&settings.connect_to),
    ];
    let client = pass_through(dialer, &onward, &chain![SendFd::client()]);
    chain![
        Mechanisms::server([(mechanism::KERNEL, chain![Kernel::server(&settings.netns)])]),
        SendFd::server(),
        ConnectServer::new(client),
    ]
}
