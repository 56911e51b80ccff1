// SPDX-License-Identifier: Apache-2.0
//! The ends of a node's tunnels: keys and ports that peers are told before there is a device, and the device when the
//! peer is known.
//!
//! **Guarantees**: a tunnel keeps its key and port from the first question until it is released, whatever happens to its
//! device; nobody else can take the port meanwhile, since a socket holds it until the device does.
//! **Cost**: a key pair (40 µs) and a socket a tunnel that is being asked for.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::wireguard::{End, Ends, Towards, TunnelId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Engine, Peer, Ports, PrivateKey, Tunnel};

/// How many tunnels a node may have: as many as a node has connections.
const MAX_TUNNELS: usize = 65_536;

/// See the [module](self).
pub struct Keys {
    engine: Arc<dyn Engine>,
    ports: Ports,
    kept: Mutex<HashMap<TunnelId, Kept>>,
}

/// What is kept of one tunnel.
struct Kept {
    key: PrivateKey,
    port: u16,
    /// Holds the port until the device does.
    holder: Option<UdpSocket>,
}

/// The device of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// A file from which the pod's network namespace can be opened.
    pub netns: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// Its MTU, bytes.
    pub mtu: u32,
}

impl Keys {
    /// Keys of tunnels that `engine` makes, on these ports of the namespace of the calling thread, which is the node's.
    pub fn new(engine: Arc<dyn Engine>, ports: Ports) -> Self {
        Self {
            engine,
            ports,
            kept: Mutex::default(),
        }
    }

    /// Makes the device of a tunnel to `peer`, or changes it.
    ///
    /// Errors: those of [`Engine::make`]; `no-tunnel` when its end was never asked for.
    pub async fn make(&self, id: &TunnelId, device: Device<'_>, peer: Peer, deadline: Instant) -> Result<()> {
        let (private_key, listen_port, holder) = {
            let mut kept = self.kept.lock();
            let kept = kept.get_mut(id).ok_or_else(|| {
                Error::internal("no-tunnel", format!("the WireGuard tunnel of {id} has no key"))
            })?;
            (kept.key.clone(), kept.port, kept.holder.take())
        };
        let tunnel = Tunnel {
            id: alias(id),
            netns: device.netns.to_path_buf(),
            name: device.name.to_string(),
            mtu: device.mtu,
            private_key,
            listen_port,
            peers: vec![peer],
        };
        // The device takes the port over.
        drop(holder);
        self.engine.make(&tunnel, deadline).await.map(drop)
    }

    /// Waits until the two ends have shaken hands: from then on no packet waits or is lost.
    ///
    /// Errors: those of [`Engine::established`].
    pub async fn established(&self, id: &TunnelId, deadline: Instant) -> Result<()> {
        self.engine.established(&alias(id), deadline).await
    }

    /// Removes the device of a tunnel. Key and port stay its own until they are released.
    ///
    /// Errors: those of [`Engine::remove`].
    pub async fn remove(&self, id: &TunnelId, deadline: Instant) -> Result<()> {
        self.engine.remove(&alias(id), deadline).await
    }

    /// A port that nobody has, and the socket that keeps it so.
    fn hold(&self) -> Result<(u16, UdpSocket)> {
        for port in self.ports.from(rand::random()) {
            // One socket of IPv6 holds the port of both families, where there is IPv6.
            let held = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
                .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
            if let Ok(socket) = held {
                return Ok((port, socket));
            }
        }
        let text = format!(
            "every UDP port of {} is taken on this node; give it more by NSM_WIREGUARD_PORT_RANGE",
            self.ports
        );
        Err(Error::exhausted("no-port", text))
    }
}

/// The alias of the device, by which the data plane knows its own: `server` faces the client.
fn alias(id: &TunnelId) -> String {
    match id.towards {
        Towards::Endpoint => format!("server-{}", id.connection),
        Towards::Client => format!("client-{}", id.connection),
    }
}

#[async_trait]
impl Ends for Keys {
    async fn end(&self, tunnel: &TunnelId) -> Result<End> {
        let mut kept = self.kept.lock();
        if !kept.contains_key(tunnel) {
            if kept.len() >= MAX_TUNNELS {
                let text = format!("{MAX_TUNNELS} WireGuard tunnels are open, the most that one node has");
                return Err(Error::exhausted("too-many-tunnels", text));
            }
            let (port, socket) = self.hold()?;
            let fresh = Kept {
                key: PrivateKey::random()?,
                port,
                holder: Some(socket),
            };
            kept.insert(tunnel.clone(), fresh);
        }
        let kept = kept
            .get(tunnel)
            .ok_or_else(|| Error::internal("no-tunnel", "a key that was just made is gone"))?;
        Ok(End {
            public_key: *kept.key.public().as_bytes(),
            port: kept.port,
        })
    }

    fn release(&self, tunnel: &TunnelId) {
        self.kept.lock().remove(tunnel);
    }
}
