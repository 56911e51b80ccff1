// SPDX-License-Identifier: Apache-2.0
//! What is asked for: the interfaces of a wire that are on this node, and the device that they belong to.

use nsm_sdk::core::Result;
use nsm_sdk::dataplane::tunnel::{RemoteWire, Tunnel, Vxlan};
use nsm_sdk::dataplane::wireguard::Towards;
use nsm_sdk::dataplane::{Interface, Payload, Wire};
use serde::{Deserialize, Serialize};

use crate::netns::{NetnsId, glance, identify};

/// A wire, or this node's part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) connection: String,
    pub(crate) payload: Payload,
    pub(crate) mtu: u32,
    pub(crate) device: Device,
    /// The client's first.
    pub(crate) ends: Vec<(Face, Interface)>,
}

/// Whose an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    Client,
    Endpoint,
}

/// What an interface is to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Device {
    /// One end of a pair.
    #[default]
    Veth,
    /// A tunnel's.
    Vxlan(Vxlan),
    /// A tunnel's that an engine of WireGuard has made before we are asked. It has no MAC address.
    WireGuard,
}

impl Face {
    /// The alias that says whose interface it is: `server` faces the client.
    pub(crate) fn alias(self, connection: &str) -> String {
        match self {
            Self::Client => format!("server-{connection}"),
            Self::Endpoint => format!("client-{connection}"),
        }
    }
}

impl Device {
    /// The name of what the node has once for all its namespaces; no interface can have it.
    pub(crate) fn key(&self) -> Option<(NetnsId, String)> {
        match self {
            Self::Veth | Self::WireGuard => None,
            Self::Vxlan(vxlan) => {
                let nowhere = NetnsId { device: 0, inode: 0 };
                Some((nowhere, format!("vxlan {} {}", vxlan.port, vxlan.vni)))
            }
        }
    }
}

impl Asked {
    /// A wire between two pods.
    pub(crate) fn whole(wire: &Wire) -> Self {
        Self {
            connection: wire.connection.clone(),
            payload: wire.payload,
            mtu: wire.mtu,
            device: Device::Veth,
            ends: vec![
                (Face::Client, wire.client.clone()),
                (Face::Endpoint, wire.endpoint.clone()),
            ],
        }
    }

    /// This node's part of a wire to another node.
    pub(crate) fn half(wire: &RemoteWire) -> Self {
        let (device, interface) = match &wire.tunnel {
            Tunnel::Vxlan(vxlan) => (Device::Vxlan(*vxlan), wire.interface.clone()),
            Tunnel::WireGuard(_) => (Device::WireGuard, without_macs(&wire.interface)),
        };
        let face = match wire.id.towards {
            Towards::Client => Face::Endpoint,
            Towards::Endpoint => Face::Client,
        };
        Self {
            connection: wire.id.connection.clone(),
            payload: wire.payload,
            mtu: wire.mtu,
            device,
            ends: vec![(face, interface)],
        }
    }

    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.ends.iter().map(|(_, interface)| interface)
    }

    /// The namespaces of the ends.
    ///
    /// Errors: `netns-gone`, `not-a-netns`.
    pub(crate) fn spaces(&self) -> Result<Vec<NetnsId>> {
        self.interfaces()
            .map(|interface| identify(&interface.netns))
            .collect()
    }

    /// The same at a glance, to compare with those of namespaces that are known.
    pub(crate) fn glance(&self) -> Option<Vec<NetnsId>> {
        self.interfaces()
            .map(|interface| glance(&interface.netns))
            .collect()
    }

    /// Whether it is the same but for the paths to the namespaces.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let ends = self.ends.iter().zip(&other.ends);
        (&self.connection, self.payload, self.mtu) == (&other.connection, other.payload, other.mtu)
            && (self.device, self.ends.len()) == (other.device, other.ends.len())
            && ends
                .into_iter()
                .all(|(one, other)| one.0 == other.0 && is_same_end(&one.1, &other.1))
    }

    /// The interfaces, for people.
    pub(crate) fn show(&self) -> String {
        let shown = self
            .interfaces()
            .map(|interface| format!("{} in {}", interface.name, interface.netns.display()));
        shown.collect::<Vec<_>>().join(" and ")
    }
}

/// What of an interface there can be without Ethernet.
fn without_macs(interface: &Interface) -> Interface {
    Interface {
        mac: None,
        neighbours: Vec::new(),
        ..interface.clone()
    }
}

fn is_same_end(one: &Interface, other: &Interface) -> bool {
    let Interface {
        netns: _,
        name,
        mac,
        addresses,
        routes,
        neighbours,
        peers,
        policies,
        route_localnet,
        passes,
    } = one;
    (name, mac, route_localnet, passes) == (&other.name, &other.mac, &other.route_localnet, &other.passes)
        && (addresses, routes) == (&other.addresses, &other.routes)
        && (neighbours, peers, policies) == (&other.neighbours, &other.peers, &other.policies)
}
