// SPDX-License-Identifier: Apache-2.0
//! This node's ends of WireGuard tunnels, as the other nodes have to know them.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::core::Result;

/// A Curve25519 public key (WireGuard's white paper, section 5).
pub type PublicKey = [u8; 32];

/// Which side of this node's forwarder a tunnel is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Towards {
    /// The tunnel leads to the node of the client.
    Client,
    /// The tunnel leads to the node of the endpoint.
    Endpoint,
}

/// A tunnel of this node: a connection has at most one on each side.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId {
    /// The id of the wire: that of the connection at its client, and how often it came through this node before.
    pub connection: String,
    /// On which side.
    pub towards: Towards,
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let towards = match self.towards {
            Towards::Client => "client",
            Towards::Endpoint => "endpoint",
        };
        write!(f, "{} towards its {towards}", self.connection)
    }
}

/// Our end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The key that the peer knows us by. The private one never leaves the engine.
    pub public_key: PublicKey,
    /// The UDP port that we hear on, bound on the node.
    pub port: u16,
}

/// Where the device of a tunnel is going to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// A file from which the pod's network namespace can be opened.
    pub netns: PathBuf,
    /// The device's name.
    pub name: String,
    /// What fits into one packet, as far as is known, bytes.
    pub mtu: u32,
}

/// Keeps the ends of tunnels: makes their keys, holds their ports.
#[async_trait]
pub trait Ends: Send + Sync + 'static {
    /// Our end of a tunnel: made when it is first asked for, and the same until it is released. An engine whose
    /// tunnels outlive it finds the end of a tunnel that is there.
    ///
    /// Errors: `no-port` when every port that is allowed is taken; `wireguard`.
    async fn end(&self, tunnel: &TunnelId) -> Result<End>;

    /// Makes the device of a tunnel ahead, while the other node is being asked. It leads nowhere until a wire takes it
    /// over, and goes with [`Ends::release`] when none does. Where it cannot be made, or its name is taken, nothing is:
    /// whoever asks for the wire is told why. By default nothing is made ahead.
    async fn prepare(&self, _tunnel: &TunnelId, _site: Site, _deadline: Instant) {}

    /// Forgets the key and frees the port, once no wire uses them.
    fn release(&self, tunnel: &TunnelId);
}
