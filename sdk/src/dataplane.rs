// SPDX-License-Identifier: Apache-2.0
//! The seam between chains and the kernel: what a wire is to be, and who makes it so.

pub mod model;
pub mod tunnel;
pub mod underlay;
pub mod wireguard;

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core::Result;

/// One virtual wire: an interface in the client's namespace joined to one in the endpoint's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The id of the connection's first path segment: the only id that survives a restart of everything between.
    pub connection: String,
    /// What the wire carries.
    pub payload: Payload,
    /// The MTU of both ends, bytes.
    pub mtu: u32,
    /// The end in the client's namespace.
    pub client: Interface,
    /// The end in the endpoint's namespace.
    pub endpoint: Interface,
}

/// What a wire carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Ethernet frames; neighbours are found by ARP and ND.
    Ethernet,
    /// IP packets; the peer is known, so neighbours are permanent.
    Ip,
}

/// One end of a wire and everything that is to be configured on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// A file from which the network namespace can be opened.
    pub netns: PathBuf,
    /// The interface's name, at most 15 bytes.
    pub name: String,
    /// The MAC address, if the connection's context demands one.
    pub mac: Option<[u8; 6]>,
    /// Addresses with the length of their prefix; the host part is kept.
    pub addresses: Vec<IpNet>,
    /// Routes in the main table, in the order in which they are to be set.
    pub routes: Vec<Route>,
    /// Neighbours that the context names.
    pub neighbours: Vec<Neighbour>,
    /// The IPs of the other end, for permanent neighbours where the payload is IP.
    pub peers: Vec<IpAddr>,
    /// Rules with a table of their own, in order.
    pub policies: Vec<Policy>,
    /// Whether loopback addresses may be routed through the interface.
    pub route_localnet: bool,
    /// Whether nobody is behind it: it is on the node, between two tunnels ([`tunnel::Transit`]), and what comes out of
    /// it is not for the node.
    pub passes: bool,
}

/// A route through an interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads; host bits are masked away.
    pub prefix: IpNet,
    /// The gateway, reached on the link whether or not a prefix covers it.
    pub via: Option<IpAddr>,
    /// Scope `link` instead of `universe`: a peer that no prefix covers.
    pub link: bool,
}

/// A static neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// A policy route: packets that match go by these routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// The source, with the length of its prefix, unmasked.
    pub from: Option<IpNet>,
    /// The IP protocol's number.
    pub protocol: Option<u8>,
    /// First and last destination port.
    pub destination_ports: Option<(u16, u16)>,
    /// First and last source port.
    pub source_ports: Option<(u16, u16)>,
    /// The routes of the table; none means a default route through the interface.
    pub routes: Vec<Route>,
}

/// What went through one end of a wire since its link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that the end received.
    pub rx_bytes: u64,
    /// Bytes that the end sent.
    pub tx_bytes: u64,
    /// Packets that the end received.
    pub rx_packets: u64,
    /// Packets that the end sent.
    pub tx_packets: u64,
    /// Packets that were dropped, either way.
    pub drops: u64,
}

/// Makes wires: the kernel, or a model of it in simulations.
#[async_trait]
pub trait DataPlane: Send + Sync + 'static {
    /// Makes `wire` be, whatever is there: creates it, adopts what an earlier life of this program left of the same
    /// connection, or changes what differs from `before`, which an earlier call for this connection made. A call
    /// with nothing to change touches nothing. After an error what is new is undone and `before` is as it was, as
    /// far as the kernel allows.
    ///
    /// Errors: `netns-gone`, `not-a-netns`, `interface-taken`, `interface-gone`, `bad-interface-name`, `deadline`,
    /// `kernel`.
    async fn connect(&self, wire: &Wire, before: Option<&Wire>, deadline: Instant) -> Result<()>;

    /// Removes `wire`. Returns when it is certain to go: the kernel may take its time, and a later
    /// [`DataPlane::connect`] under the same names waits for that. Removing what is not there succeeds.
    async fn disconnect(&self, wire: &Wire) -> Result<()>;

    /// Lets `wire` make room for one of another kind between the same two names: its client's end takes another name,
    /// under which it carries packets until [`DataPlane::disconnect`] removes it or [`DataPlane::connect`] puts it
    /// back. Where that cannot be, as by default, it is removed.
    async fn set_aside(&self, wire: &Wire) -> Result<()> {
        self.disconnect(wire).await
    }

    /// The counters of the client's and the endpoint's end.
    async fn counters(&self, wire: &Wire) -> Result<(Counters, Counters)>;
}
