// SPDX-License-Identifier: Apache-2.0
//! Wires that go on to another node.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::wireguard::{PublicKey, TunnelId};
use super::{Counters, Interface, Payload};
use crate::core::Result;

/// What this node has of a wire that goes on to another node: an interface in a pod, which is a tunnel's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteWire {
    /// The connection, and on which side of us the other node is. The id is that of the first path segment.
    pub id: TunnelId,
    /// What the wire carries.
    pub payload: Payload,
    /// The MTU of the interface, bytes; what is around it in the tunnel comes on top.
    pub mtu: u32,
    /// The end in the pod.
    pub interface: Interface,
    /// The way to the other node.
    pub tunnel: Tunnel,
}

/// A file from which the node's own network namespace can be opened: that of the program.
pub const NODE: &str = "/proc/self/ns/net";

/// What this node has of a wire that only passes through it: a tunnel to the node of the client and one to that of the
/// endpoint, of one kind. Their interfaces are in the node's own namespace, have no addresses, and hand each other what
/// comes out of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transit {
    /// Towards the client.
    pub client: RemoteWire,
    /// Towards the endpoint.
    pub endpoint: RemoteWire,
}

impl Transit {
    /// Both tunnels, that of the client first.
    pub fn halves(&self) -> [&RemoteWire; 2] {
        [&self.client, &self.endpoint]
    }
}

/// The way to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// Ethernet frames in UDP, unencrypted.
    Vxlan(Vxlan),
    /// IP packets, encrypted.
    WireGuard(WireGuard),
}

/// A VXLAN tunnel (RFC 7348). Its socket is in the node's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    /// Our address.
    pub local: IpAddr,
    /// The other node's.
    pub remote: IpAddr,
    /// The UDP port at both ends.
    pub port: u16,
    /// The network identifier, 1 to 2^24-1.
    pub vni: u32,
}

/// A WireGuard tunnel. Our key and port are those of [`super::wireguard::Ends::end`] for the wire's id; the socket is in
/// the node's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireGuard {
    /// Where the peer hears us.
    pub remote: SocketAddr,
    /// The peer's key.
    pub public_key: PublicKey,
}

/// Knows what an earlier life of this program left, which whoever was at the other end has as well.
pub trait Former: Send + Sync + 'static {
    /// The VXLAN tunnel of `id` that was left and that nobody has asked for since.
    fn vxlan(&self, id: &TunnelId) -> Option<Vxlan>;
}

/// Makes this node's ends of wires to other nodes.
#[async_trait]
pub trait Tunnels: Send + Sync + 'static {
    /// Makes `wire` be, whatever is there, as [`DataPlane::connect`](super::DataPlane::connect) does for a wire on one
    /// node, and under its rules: a call with nothing to change touches nothing, and nothing of a call that failed
    /// stays. It waits until an interface of the same name that is being removed is gone.
    ///
    /// Errors: those of a wire on one node; `vni-taken` when another device of this node has the identifier;
    /// `port-taken` when another program has the port, or its devices use it in another way; `no-wireguard`;
    /// `bad-payload`.
    async fn connect(&self, wire: &RemoteWire, before: Option<&RemoteWire>, deadline: Instant) -> Result<()>;

    /// Lets the two tunnels of `transit`, which are there, hand each other every packet that comes out of them. A call
    /// with nothing to change touches nothing. What was joined ends with either tunnel.
    ///
    /// Errors: `interface-gone`; `no-transit` when the kernel cannot redirect packets; `deadline`, `kernel`.
    async fn join(&self, transit: &Transit, deadline: Instant) -> Result<()>;

    /// Removes `wire`, as [`DataPlane::disconnect`](super::DataPlane::disconnect) does.
    async fn disconnect(&self, wire: &RemoteWire) -> Result<()>;

    /// Lets `wire` make room for one of another kind, as [`DataPlane::set_aside`](super::DataPlane::set_aside) does.
    async fn set_aside(&self, wire: &RemoteWire) -> Result<()> {
        self.disconnect(wire).await
    }

    /// The counters of the pod's end.
    async fn counters(&self, wire: &RemoteWire) -> Result<Counters>;
}
