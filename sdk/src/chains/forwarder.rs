// SPDX-License-Identifier: Apache-2.0
//! The forwarder: finds the endpoint, asks it, and joins it to the client by a wire.

use std::sync::Arc;

use nsm_api::mechanism;

use super::client::pass_through;
use super::endpoint::{Gate, endpoint};
use crate::chain;
use crate::core::{Chain, Component, Dialer, NetworkService};
use crate::elements::connect::ConnectServer;
use crate::networkservice::Registries;
use crate::networkservice::discover::Discover;
use crate::networkservice::filtermechanisms::FilterMechanisms;
use crate::networkservice::kernel::Kernel;
use crate::networkservice::mechanismpriority::MechanismPriority;
use crate::networkservice::mechanisms::Mechanisms;
use crate::networkservice::mechanismtranslation::MechanismTranslation;
use crate::networkservice::mtu::Mtu;
use crate::networkservice::pathmtu::PathMtu;
use crate::networkservice::recvfd::RecvFd;
use crate::networkservice::roundrobin::RoundRobin;
use crate::networkservice::sendfd::SendFd;
use crate::networkservice::vxlan::{self, Vxlan};
use crate::networkservice::wireguard::{self, Wireguard};
use crate::networkservice::xconnect::{Planes, XConnect};

/// What makes one forwarder differ from another.
#[derive(Clone)]
pub struct Settings {
    /// Who it is and whom it lets in.
    pub gate: Gate,
    /// Mechanisms that it offers first, best first.
    pub mechanism_priority: Vec<String>,
    /// Who makes the wires.
    pub planes: Planes,
    /// The tunnels that it offers and answers; without them its wires stay on this node.
    pub tunnels: Option<Tunnels>,
}

/// The tunnels of a node.
#[derive(Clone)]
pub struct Tunnels {
    /// For Ethernet payloads.
    pub vxlan: vxlan::Ours,
    /// For IP payloads, if the node has an engine for them.
    pub wireguard: Option<wireguard::Ours>,
}

/// The chain of a forwarder.
///
/// Where the predecessor has one element for each device of either side, `xconnect` makes the whole wire, or this
/// node's half of it, when both sides are known.
pub fn forwarder(
    component: &Component,
    settings: &Settings,
    registries: &Registries,
    dialer: Arc<dyn Dialer<NetworkService>>,
) -> Chain<NetworkService> {
    let preferences = chain![MechanismTranslation, Kernel::forwarder()]
        .then(&offers(settings.tunnels.as_ref()))
        .then(&chain![
            FilterMechanisms,
            MechanismPriority::new(&settings.mechanism_priority),
        ]);
    let files = chain![RecvFd::client(), SendFd::client()];
    let client = pass_through(dialer, &preferences, &files);
    let follows = match &settings.tunnels {
        Some(Tunnels { vxlan, .. }) => chain![PathMtu::new(component, vxlan.ip, &vxlan.underlay)],
        None => chain![],
    };
    let wires = chain![
        Discover::new(registries.clone()),
        RoundRobin::new(),
        Mtu,
        Mechanisms::server(answers(settings)),
        ConnectServer::new(client),
    ];
    endpoint(
        component,
        &settings.gate,
        &chain![RecvFd::server(), SendFd::server()]
            .then(&follows)
            .then(&wires),
    )
}

/// The tunnels that are offered to other nodes.
fn offers(tunnels: Option<&Tunnels>) -> Chain<NetworkService> {
    let Some(Tunnels { vxlan, wireguard }) = tunnels.cloned() else {
        return chain![];
    };
    match wireguard {
        Some(wireguard) => chain![Vxlan::client(vxlan), Wireguard::client(wireguard)],
        None => chain![Vxlan::client(vxlan)],
    }
}

/// What is done for each mechanism that a caller may choose.
fn answers(settings: &Settings) -> Vec<(&'static str, Chain<NetworkService>)> {
    let xconnect = || XConnect::new(&settings.planes);
    let mut answers = vec![(mechanism::KERNEL, chain![xconnect()])];
    if let Some(Tunnels { vxlan, wireguard }) = settings.tunnels.clone() {
        answers.push((mechanism::VXLAN, chain![Vxlan::server(vxlan), xconnect()]));
        answers.extend(wireguard.map(|wireguard| {
            (
                mechanism::WIREGUARD,
                chain![Wireguard::server(wireguard), xconnect()],
            )
        }));
    }
    answers
}
