// SPDX-License-Identifier: Apache-2.0
//! What is noted of one wire.

use nsm_sdk::dataplane::{Interface, Wire};
use serde::{Deserialize, Serialize};

use crate::end::End;
use crate::netns::NetnsId;

/// One end of a wire, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) netns: NetnsId,
    pub(crate) index: u32,
    pub(crate) end: End,
}

impl Place {
    /// The namespace and the name: what only one interface can have.
    pub(crate) fn key(&self) -> (NetnsId, String) {
        (self.netns, self.end.link.name.clone())
    }

    fn is(&self, netns: NetnsId, interface: &Interface) -> bool {
        self.netns == netns && self.end.link.name == interface.name
    }
}

/// A wire that is there, or is being made.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Distinguishes it from every other wire, of this and of earlier lives of the program.
    pub(crate) serial: u64,
    pub(crate) connection: String,
    pub(crate) client: Place,
    pub(crate) endpoint: Place,
    /// What the ends were made from; unknown when an earlier life made them.
    pub(crate) asked: Option<Wire>,
    /// It is being worked on: what the kernel reports of it is our own doing.
    pub(crate) settling: bool,
    /// The kernel's state may differ from what is noted here.
    pub(crate) broken: bool,
    /// An earlier life made it, and nobody has asked for it since.
    pub(crate) orphan: bool,
}

impl Record {
    pub(crate) fn places(&self) -> [&Place; 2] {
        [&self.client, &self.endpoint]
    }

    /// Whether its ends are those that `wire` names, in these namespaces.
    pub(crate) fn is(&self, wire: &Wire, client: NetnsId, endpoint: NetnsId) -> bool {
        self.client.is(client, &wire.client) && self.endpoint.is(endpoint, &wire.endpoint)
    }
}

/// Whether two wires are the same but for the paths to their namespaces.
pub(crate) fn is_same(one: &Wire, other: &Wire) -> bool {
    let Wire {
        connection,
        payload,
        mtu,
        client,
        endpoint,
    } = one;
    (connection, payload, mtu) == (&other.connection, &other.payload, &other.mtu)
        && is_same_end(client, &other.client)
        && is_same_end(endpoint, &other.endpoint)
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
    } = one;
    (name, mac, route_localnet) == (&other.name, &other.mac, &other.route_localnet)
        && (addresses, routes) == (&other.addresses, &other.routes)
        && (neighbours, peers, policies) == (&other.neighbours, &other.peers, &other.policies)
}
