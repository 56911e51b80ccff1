// SPDX-License-Identifier: Apache-2.0
//! The forwarder: finds the endpoint, asks it, and joins it to the client by a wire.

use std::sync::Arc;

use super::client::pass_through;
use super::endpoint::{Gate, endpoint};
use crate::chain;
use crate::core::{Chain, Component, Dialer, NetworkService};
use crate::dataplane::DataPlane;
use crate::elements::connect::ConnectServer;
use crate::networkservice::Registries;
use crate::networkservice::discover::Discover;
use crate::networkservice::filtermechanisms::FilterMechanisms;
use crate::networkservice::kernel::Kernel;
use crate::networkservice::mechanismpriority::MechanismPriority;
use crate::networkservice::mechanisms::Mechanisms;
use crate::networkservice::mechanismtranslation::MechanismTranslation;
use crate::networkservice::mtu::Mtu;
use crate::networkservice::recvfd::RecvFd;
use crate::networkservice::roundrobin::RoundRobin;
use crate::networkservice::sendfd::SendFd;
use crate::networkservice::xconnect::XConnect;

/// What makes one forwarder differ from another.
#[derive(Clone)]
pub struct Settings {
    /// Who it is and whom it lets in.
    pub gate: Gate,
    /// Mechanisms that it offers first, best first.
    pub mechanism_priority: Vec<String>,
}

/// The chain of a forwarder.
///
/// Where the predecessor has one element for each device of either side, `xconnect` makes the whole wire when both
/// sides are known.
pub fn forwarder(
    component: &Component,
    settings: &Settings,
    registries: &Registries,
    dialer: Arc<dyn Dialer<NetworkService>>,
    dataplane: Arc<dyn DataPlane>,
) -> Chain<NetworkService> {
    let preferences = chain![
        MechanismTranslation,
        Kernel::forwarder(),
        FilterMechanisms,
        MechanismPriority::new(&settings.mechanism_priority),
    ];
    let files = chain![RecvFd::client(), SendFd::client()];
    let client = pass_through(dialer, &preferences, &files);
    endpoint(
        component,
        &settings.gate,
        &chain![
            RecvFd::server(),
            SendFd::server(),
            Discover::new(registries.clone()),
            RoundRobin::new(),
            Mtu,
            Mechanisms::server([(nsm_api::mechanism::KERNEL, chain![XConnect::new(dataplane)])]),
            ConnectServer::new(client),
        ],
    )
}
