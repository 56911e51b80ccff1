// SPDX-License-Identifier: Apache-2.0
//! The ends of a node's tunnels: keys and ports that peers are told before there is a device, and the device when the
//! peer is known.
//!
//! **Guarantees**: a tunnel keeps its key and port from the first question until it is released, whatever happens to its
//! device; nobody else can take the port meanwhile, since a socket holds it until the device does.
//! **Cost**: a key pair (40 µs) and a socket a tunnel that is being asked for.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::wireguard::{End, Ends, Towards, TunnelId};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;

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
        match self.engine.make(&tunnel, deadline).await {
            Err(error) if error.reason() == "port-taken" && id.towards == Towards::Endpoint => {
                debug!(tunnel = tunnel.id, port = listen_port, %error, "taking another port");
                self.elsewhere(id, tunnel, deadline).await
            }
            done => done.map(drop),
        }
    }

    /// Makes the device on another port than its peer was told. The client's end speaks first, and the other end answers
    /// to where it is spoken to from (white paper, section 2.1); the next request tells the port.
    async fn elsewhere(&self, id: &TunnelId, tunnel: Tunnel, deadline: Instant) -> Result<()> {
        let tunnel = Tunnel {
            listen_port: 0,
            ..tunnel
        };
        let made = self.engine.make(&tunnel, deadline).await?;
        if let Some(kept) = self.kept.lock().get_mut(id) {
            kept.port = made.listen_port;
        }
        Ok(())
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

    /// A port that nobody has, and the socket that keeps it so. Those that are `promised` may have no socket just now: their
    /// devices are being made.
    fn hold(&self, promised: &HashSet<u16>) -> Result<(u16, UdpSocket)> {
        let free = |port: &u16| !promised.contains(port);
        for port in self.ports.from(rand::random()).filter(free) {
            // One socket of IPv6 holds the port of both families, where there is IPv6.
            let held = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
                Err(error) if error.kind() != ErrorKind::AddrInUse => {
                    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
                }
                held => held,
            };
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
            let promised = kept.values().map(|kept| kept.port).collect();
            let (port, socket) = self.hold(&promised)?;
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

#[cfg(test)]
mod tests {
    use nsm_sdk::core::Component;

    use super::*;
    use crate::Kind;

    /// Makes nothing.
    struct Nothing;

    #[async_trait]
    impl Engine for Nothing {
        fn kind(&self) -> Kind {
            Kind::Userspace
        }
        async fn make(&self, tunnel: &Tunnel, _: Instant) -> Result<crate::Made> {
            Ok(crate::Made {
                index: 1,
                listen_port: tunnel.listen_port,
            })
        }
        async fn remove(&self, _: &str, _: Instant) -> Result<()> {
            Ok(())
        }
        async fn statistics(&self, _: &str) -> Result<Vec<crate::Statistics>> {
            Ok(Vec::new())
        }
        async fn established(&self, _: &str, _: Instant) -> Result<()> {
            Ok(())
        }
        async fn left(&self, _: &Path, _: &str) -> Result<Option<Tunnel>> {
            Ok(None)
        }
    }

    fn tunnel(connection: usize) -> TunnelId {
        TunnelId {
            connection: connection.to_string(),
            towards: Towards::Client,
        }
    }

    #[tokio::test]
    async fn a_port_is_one_tunnels_alone_also_while_its_device_is_being_made() {
        let first =
            40_000 + Component::new("test").random(|random| rand::Rng::random_range(random, 0..20_000));
        let ports = Ports::new(first, first + 7).expect("a range");
        let keys = Keys::new(Arc::new(Nothing), ports);
        let mut seen = HashSet::new();
        for number in 0..4 {
            let end = keys.end(&tunnel(number)).await.expect("a port is free");
            assert_eq!(keys.end(&tunnel(number)).await.expect("the same"), end);
            // The holder lets go of the port; this engine takes none.
            let (name, netns) = ("nsm-1", Path::new("/proc/self/ns/net"));
            let device = Device {
                netns,
                name,
                mtu: 1400,
            };
            let peer = Peer::only([7; 32].into(), "10.0.0.1:1".parse().expect("an address"));
            let id = tunnel(number);
            let made = keys.make(&id, device, peer, Instant::now());
            made.await.expect("made");
            assert!(seen.insert(end.port), "{} twice", end.port);
        }
        keys.release(&tunnel(0));
        assert_eq!(keys.kept.lock().len(), 3);
    }
}
