// SPDX-License-Identifier: Apache-2.0
//! This node's ends of WireGuard tunnels, as the other nodes have to know them.

use std::fmt;

use async_trait::async_trait;

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

/// Keeps the ends of tunnels: makes their keys, holds their ports.
#[async_trait]
pub trait Ends: Send + Sync + 'static {
    /// Our end of a tunnel: made when it is first asked for, and the same until it is released. An engine whose
    /// tunnels outlive it finds the end of a tunnel that is there.
    ///
    /// Errors: `no-port` when every port that is allowed is taken; `wireguard`.
    async fn end(&self, tunnel: &TunnelId) -> Result<End>;

    /// Forgets the key and frees the port, once no wire uses them.
    fn release(&self, tunnel: &TunnelId);
}
