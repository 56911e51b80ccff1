// SPDX-License-Identifier: Apache-2.0
//! WireGuard in this program: gotatun between a TUN device in the pod and a UDP socket in the node's namespace.
//!
//! **Guarantees**: as [`Engine`](crate::Engine) says. A tunnel whose device somebody else removed, or whose pod has
//! ended, is noticed at once and made anew when it is asked for.
//! **On close**: when the engine is dropped all of its devices, sockets and tasks end.
//! **Cost**: about 20 ms and 8 tasks a tunnel; at rest four wake-ups a second. All packets pass this program.

mod tun;
mod udp;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gotatun::device::{self, DeviceBuilder};
use gotatun::tun::MtuWatcher;
use gotatun::x25519::{PublicKey as Point, StaticSecret};
use nsm_sdk::core::{Component, Error, Result};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::engine::{Config, Engine, Kind};
use crate::key::{PrivateKey, PublicKey};
use crate::link::{Netlink, Wanted, port_taken, refused};
use crate::netns::Netns;
use crate::owner::{Driver, Owner};
use crate::tunnel::{Made, Peer, Statistics, Tunnel};
use crate::worker::{Workers, nursery};

use self::tun::{Gone, Reader, Tun, Writer};
use self::udp::Socket;

/// How many threads make devices, and how many wait until one is gone.
const MAKERS: usize = 2;
const CLOSERS: usize = 4;

/// How long the kernel may take to remove a device.
const PATIENCE: Duration = Duration::from_secs(30);

type Gotatun = device::Device<(Socket, Writer, Reader)>;

/// Starts an engine that makes tunnels in this program.
///
/// Errors: `netns-gone`, `not-a-netns`, `not-privileged`, `no-tun`, `wireguard`.
pub async fn start(component: &Component, config: &Config) -> Result<Arc<dyn Engine>> {
    let node = Arc::new(Netns::open(&config.node)?);
    let nursery = nursery().await?;
    let makers = Workers::start(&node, MAKERS)?;
    let trial = nursery.clone();
    makers
        .run(move |home| home.visit(&trial, tun::build).map(drop))
        .await?;
    let driver = Userspace {
        component: component.clone(),
        config: config.clone(),
        nursery,
        makers,
        closers: Workers::start(&node, CLOSERS)?,
    };
    Ok(Arc::new(Owner::new(component, driver)))
}

struct Userspace {
    component: Component,
    config: Config,
    nursery: Arc<Netns>,
    makers: Workers,
    closers: Workers,
}

/// A tunnel of this program. When it is dropped everything of it ends soon.
struct Device {
    /// There but for the moment in which it is exchanged.
    gotatun: Option<Gotatun>,
    tun: Arc<Tun>,
    gone: Gone,
    socket: Socket,
    mtu: watch::Sender<u16>,
}

impl Userspace {
    /// Opens a socket on `port`, or on one of the engine's ports.
    async fn open(&self, port: u16) -> Result<Socket> {
        let ports = self.config.ports;
        let random = self.component.random(Rng::random);
        let socket = self.makers.run(move |_| {
            if port != 0 {
                return udp::open(port).map_err(|error| unbound(&format!("port {port}"), &error));
            }
            let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
            for port in ports.from(random) {
                match udp::open(port) {
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => last = error,
                    opened => return opened.map_err(|error| unbound(&format!("port {port}"), &error)),
                }
            }
            Err(unbound(&format!("any of the ports {ports}"), &last))
        });
        Socket::new(socket.await?).map_err(|error| broken("watch a UDP socket", &error))
    }

    /// Starts the protocol between `tun` and `socket`.
    async fn start(
        &self,
        tunnel: &Tunnel,
        tun: &Arc<Tun>,
        socket: &Socket,
        mtu: MtuWatcher,
    ) -> Result<Gotatun> {
        let reader = Reader {
            tun: tun.clone(),
            mtu,
        };
        DeviceBuilder::new()
            .with_udp(socket.clone())
            .with_ip_pair(Writer::start(&self.component, tun.clone()), reader)
            .with_private_key(secret(&tunnel.private_key))
            .with_listen_port(socket.port())
            .with_peers(tunnel.peers.iter().map(peer))
            .build()
            .await
            .map_err(|error| broken("start a tunnel", &error))
    }

    async fn set_mtu(&self, tunnel: &Tunnel, index: u32) -> Result<()> {
        let (path, mtu) = (tunnel.netns.clone(), tunnel.mtu);
        let aim = format!("set the MTU of {} to {mtu}", tunnel.name);
        let job = self.makers.run(move |home| {
            let netns = Netns::open(&path)?;
            home.visit(&netns, || {
                let set = Netlink::open()?.set_mtu(index, mtu);
                set.map_err(|errno| refused(&aim, errno))
            })
        });
        job.await
    }
}

#[async_trait]
impl Driver for Userspace {
    type Device = Device;

    fn kind(&self) -> Kind {
        Kind::Userspace
    }

    async fn build(&self, tunnel: &Tunnel) -> Result<Device> {
        let socket = self.open(tunnel.listen_port).await?;
        let wanted = Wanted {
            name: tunnel.name.clone(),
            alias: tunnel.id.clone(),
            group: self.config.group,
            mtu: tunnel.mtu,
        };
        let (nursery, path) = (self.nursery.clone(), tunnel.netns.clone());
        let job = self.makers.run(move |home| {
            let netns = Netns::open(&path)?;
            tun::create(home, &nursery, &netns, &wanted)
        });
        let (device, index) = job.await?;
        let (tun, gone) = Tun::new(device, index, &self.closers)?;
        let (tun, mtu) = (Arc::new(tun), watch::Sender::new(short(tunnel.mtu)));
        let gotatun = self.start(tunnel, &tun, &socket, mtu.subscribe().into()).await?;
        Ok(Device {
            gotatun: Some(gotatun),
            tun,
            gone,
            socket,
            mtu,
        })
    }

    fn made(&self, device: &Device) -> Made {
        Made {
            index: device.tun.index(),
            listen_port: device.socket.port(),
        }
    }

    async fn is_there(&self, device: &Device, _tunnel: &Tunnel) -> bool {
        !device.tun.is_dead() && device.gotatun.is_some()
    }

    async fn update(&self, device: &mut Device, before: &Tunnel, after: &Tunnel) -> Result<()> {
        if before.mtu != after.mtu {
            self.set_mtu(after, device.tun.index()).await?;
            device.mtu.send_replace(short(after.mtu));
        }
        let is_another = before.private_key != after.private_key || before.listen_port != after.listen_port;
        if !is_another && let Some(gotatun) = &device.gotatun {
            return change_peers(gotatun, &before.peers, &after.peers).await;
        }
        if before.listen_port != after.listen_port {
            device.socket = self.open(after.listen_port).await?;
        }
        if let Some(gotatun) = device.gotatun.take() {
            gotatun.stop().await;
        }
        let mtu = device.mtu.subscribe().into();
        let gotatun = self.start(after, &device.tun, &device.socket, mtu).await?;
        device.gotatun = Some(gotatun);
        Ok(())
    }

    async fn destroy(&self, device: Device, _tunnel: &Tunnel) -> Result<()> {
        let Device {
            gotatun, tun, gone, ..
        } = device;
        if let Some(gotatun) = gotatun {
            gotatun.stop().await;
        }
        drop(tun);
        timeout(PATIENCE, gone).await.map(drop).map_err(|_| {
            let text = format!("a TUN device is still being removed after {PATIENCE:?}");
            Error::unavailable("wireguard", text)
        })
    }

    async fn statistics(&self, device: &Device, _tunnel: &Tunnel) -> Result<Vec<Statistics>> {
        let gone = || {
            Error::not_found(
                "interface-gone",
                "the TUN device was removed, or its pod has ended",
            )
        };
        let gotatun = device.gotatun.as_ref().filter(|_| !device.tun.is_dead());
        let peers = gotatun.ok_or_else(gone)?.peers().await;
        let statistics = peers.iter().map(|seen| Statistics {
            public_key: PublicKey::from(seen.peer.public_key.to_bytes()),
            rx_bytes: seen.stats.rx_bytes as u64,
            tx_bytes: seen.stats.tx_bytes as u64,
            last_handshake: seen.stats.last_handshake,
        });
        Ok(statistics.collect())
    }

    /// Nothing outlives this program.
    async fn left(&self, _netns: &Path, _name: &str) -> Result<Option<Tunnel>> {
        Ok(None)
    }
}

/// Changes what differs. Where a peer was heard from stays, unless its endpoint was changed.
async fn change_peers(gotatun: &Gotatun, before: &[Peer], after: &[Peer]) -> Result<()> {
    let changed = gotatun.write(async |device| {
        if before.is_empty() {
            // It listens for peers only from the time on when it has one; this tells it to begin.
            device.clear_peers();
        }
        for old in before {
            if !after.iter().any(|peer| peer.public_key == old.public_key) {
                device.remove_peer(&Point::from(*old.public_key.as_bytes())).await;
            }
        }
        for new in after {
            let Some(old) = before.iter().find(|old| old.public_key == new.public_key) else {
                device.add_peer(peer(new));
                continue;
            };
            if old == new {
                continue;
            }
            let change = |peer: &mut device::configure::PeerMut| {
                if old.endpoint != new.endpoint {
                    peer.set_endpoint(Some(new.endpoint));
                }
                peer.set_keepalive(new.keepalive_seconds());
                peer.clear_allowed_ips();
                peer.add_allowed_ips(self::peer(new).allowed_ips);
            };
            device
                .modify_peer(&Point::from(*new.public_key.as_bytes()), change)
                .await;
        }
    });
    changed
        .await
        .map_err(|error| broken("change a tunnel's peers", &error))
}

fn secret(key: &PrivateKey) -> StaticSecret {
    StaticSecret::from(*key.bytes())
}

fn peer(peer: &Peer) -> device::Peer {
    // The type of a prefix there is another crate's; both know the same text.
    let allowed = peer.allowed.iter().filter_map(|net| net.to_string().parse().ok());
    let mut wanted = device::Peer::new(Point::from(*peer.public_key.as_bytes()))
        .with_endpoint(peer.endpoint)
        .with_allowed_ips(allowed);
    wanted.keepalive = peer.keepalive_seconds();
    wanted
}

/// An MTU as the protocol counts it; it was checked before.
fn short(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

fn unbound(what: &str, error: &std::io::Error) -> Error {
    let text = format!("cannot listen on UDP {what}: {error}");
    match error.kind() {
        std::io::ErrorKind::AddrInUse => port_taken(&text),
        _ => Error::internal("wireguard", text),
    }
}

fn broken(aim: &str, error: &dyn std::fmt::Display) -> Error {
    Error::internal("wireguard", format!("cannot {aim}: {error}"))
}
