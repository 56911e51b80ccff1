// SPDX-License-Identifier: Apache-2.0
//! WireGuard in this program: gotatun between a TUN device in the pod and a UDP socket in the node's namespace.
//!
//! **Guarantees**: as [`Engine`](crate::Engine) says. A tunnel whose device somebody else removed, or whose pod has
//! ended, is noticed at once and made anew when it is asked for. With its pod a tunnel ends.
//! **On close**: when the engine is dropped all of its devices, sockets and tasks end.
//! **Cost**: a millisecond and 9 tasks a tunnel; at rest four wake-ups a second. All packets pass this program.

mod pod;
mod tun;
mod udp;

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use gotatun::device::{self, DeviceBuilder};
use gotatun::tun::MtuWatcher;
use gotatun::x25519::{PublicKey as Point, StaticSecret};
use nsm_sdk::core::{Component, Error, Result};
use rand::Rng;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::timeout;

use crate::engine::{Config, Engine, Kind};
use crate::key::{PrivateKey, PublicKey};
use crate::link::{Netlink, Wanted, port_taken, refused};
use crate::netns::{Netns, NetnsId};
use crate::owner::{Driver, Owner};
use crate::ports::Ports;
use crate::tunnel::{Made, Peer, Statistics, Tunnel};
use crate::worker::{Workers, nursery};

use self::pod::{Pod, Pods};
use self::tun::{Gone, Reader, Tun, Writer};
use self::udp::Socket;

/// How many threads make devices, and how many wait until one is gone.
const MAKERS: usize = 2;
const CLOSERS: usize = 4;

/// How long the kernel may take to remove a device.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the answer to a handshake may take that has arrived.
const TO_ANSWER: Duration = Duration::from_millis(100);

type Gotatun = device::Device<(Socket, Writer, Reader)>;

/// Starts an engine that makes tunnels in this program.
///
/// Errors: `netns-gone`, `not-a-netns`, `not-privileged`, `no-tun`, `wireguard`.
pub async fn start(component: &Component, config: &Config) -> Result<Arc<dyn Engine>> {
    let node = Arc::new(Netns::open(&config.node)?);
    let nursery = nursery().await?;
    let makers = Workers::new(&node, MAKERS);
    makers
        .run(move |home| home.visit(&nursery, tun::build).map(drop))
        .await?;
    let driver = Userspace {
        component: component.clone(),
        config: config.clone(),
        makers,
        closers: Workers::new(&node, CLOSERS),
        pods: Pods::start()?,
    };
    Kind::Userspace.started(component);
    Ok(Arc::new(Owner::new(component, driver)))
}

struct Userspace {
    component: Component,
    config: Config,
    makers: Workers,
    closers: Workers,
    pods: Pods,
}

/// A tunnel of this program. When it is dropped everything of it ends soon.
struct Device {
    made: Made,
    /// What of it is there: nothing any more when its pod has ended.
    alive: Arc<Mutex<Option<Alive>>>,
    /// Lets the task end that looks for the pod's end.
    _watch: oneshot::Sender<()>,
}

/// What of a tunnel is there.
struct Alive {
    /// There but for the moment in which it is exchanged.
    gotatun: Option<Gotatun>,
    tun: Arc<Tun>,
    gone: Gone,
    socket: Socket,
    mtu: watch::Sender<u16>,
}

impl Alive {
    /// Ends it, and waits until the device is gone.
    async fn end(self) -> Result<()> {
        if let Some(gotatun) = self.gotatun {
            gotatun.stop().await;
        }
        drop((self.tun, self.socket));
        timeout(PATIENCE, self.gone).await.map(drop).map_err(|_| {
            let text = format!("a TUN device is still being removed after {PATIENCE:?}");
            Error::unavailable("wireguard", text)
        })
    }
}

/// Where a tunnel's socket may be.
#[derive(Clone, Copy)]
struct Wish {
    port: u16,
    /// Instead of none.
    ports: Ports,
    random: u16,
}

impl Wish {
    /// Opens a socket on the port, or on one of the engine's ports.
    fn open(self) -> Result<std::net::UdpSocket> {
        let Self { port, ports, random } = self;
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
    }
}

impl Userspace {
    fn wish(&self, port: u16) -> Wish {
        Wish {
            port,
            ports: self.config.ports,
            random: self.component.random(Rng::random),
        }
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

impl Userspace {
    /// Ends a tunnel when its pod has ended, until what is returned is dropped.
    fn watch(&self, netns: NetnsId, alive: Weak<Mutex<Option<Alive>>>) -> oneshot::Sender<()> {
        let (watch, mut unwatched) = oneshot::channel();
        let pods = self.pods.clone();
        self.component.spawn_detached("wireguard-pod", async move {
            let mut has_been_seen = false;
            loop {
                let found = tokio::select! {
                    found = pods.look(netns) => found,
                    _ = &mut unwatched => return,
                };
                match found {
                    Some(Pod::Process(process)) => {
                        tokio::select! {
                            Ok(()) = pod::ended(process) => has_been_seen = true,
                            _ = &mut unwatched => return,
                            else => return,
                        }
                    }
                    Some(Pod::Nothing) if has_been_seen => break,
                    _ => return,
                }
            }
            let Some(alive) = alive.upgrade() else { return };
            let mut alive = alive.lock().await;
            let Some(alive) = alive.take() else { return };
            tracing::debug!(%netns, "a pod has ended, and with it a tunnel");
            if let Err(error) = alive.end().await {
                tracing::warn!(%error, %netns, "what is left of a pod stays");
            }
        });
        watch
    }
}

#[async_trait]
impl Driver for Userspace {
    type Device = Device;

    fn kind(&self) -> Kind {
        Kind::Userspace
    }

    async fn build(&self, tunnel: &Tunnel) -> Result<Device> {
        let wanted = Wanted {
            name: tunnel.name.clone(),
            alias: tunnel.id.clone(),
            group: self.config.group,
            mtu: tunnel.mtu,
        };
        let (wish, path) = (self.wish(tunnel.listen_port), tunnel.netns.clone());
        let job = self.makers.run(move |home| {
            let socket = wish.open()?;
            let netns = Netns::open(&path)?;
            let (device, index) = tun::create(home, &netns, &wanted)?;
            Ok((socket, netns.id(), device, index))
        });
        let (socket, netns, device, index) = job.await?;
        let (tun, gone) = Tun::new(device, &self.closers)?;
        let (tun, mtu) = (Arc::new(tun), watch::Sender::new(short(tunnel.mtu)));
        let socket = Socket::new(socket).map_err(|error| broken("watch a UDP socket", &error))?;
        let gotatun = self.start(tunnel, &tun, &socket, mtu.subscribe().into()).await?;
        let made = Made {
            index,
            listen_port: socket.port(),
        };
        let alive = Alive {
            gotatun: Some(gotatun),
            tun,
            gone,
            socket,
            mtu,
        };
        let alive = Arc::new(Mutex::new(Some(alive)));
        let watch = self.watch(netns, Arc::downgrade(&alive));
        Ok(Device {
            made,
            alive,
            _watch: watch,
        })
    }

    fn made(&self, device: &Device) -> Made {
        device.made
    }

    async fn is_there(&self, device: &Device, _tunnel: &Tunnel) -> bool {
        let alive = device.alive.lock().await;
        alive
            .as_ref()
            .is_some_and(|alive| !alive.tun.is_dead() && alive.gotatun.is_some())
    }

    async fn update(&self, device: &mut Device, before: &Tunnel, after: &Tunnel) -> Result<()> {
        let mut alive = device.alive.lock().await;
        let alive = alive.as_mut().ok_or_else(gone)?;
        if before.mtu != after.mtu {
            self.set_mtu(after, device.made.index).await?;
            alive.mtu.send_replace(short(after.mtu));
        }
        let is_another = before.private_key != after.private_key || before.listen_port != after.listen_port;
        if !is_another && let Some(gotatun) = &alive.gotatun {
            return match before.peers.is_empty() {
                true => first_peers(gotatun, &alive.socket, &after.peers).await,
                false => change_peers(gotatun, &before.peers, &after.peers).await,
            };
        }
        if before.listen_port != after.listen_port {
            let wish = self.wish(after.listen_port);
            let socket = self.makers.run(move |_| wish.open()).await?;
            alive.socket = Socket::new(socket).map_err(|error| broken("watch a UDP socket", &error))?;
            device.made.listen_port = alive.socket.port();
        }
        if let Some(gotatun) = alive.gotatun.take() {
            gotatun.stop().await;
        }
        let mtu = alive.mtu.subscribe().into();
        let gotatun = self.start(after, &alive.tun, &alive.socket, mtu).await?;
        alive.gotatun = Some(gotatun);
        Ok(())
    }

    async fn destroy(&self, device: Device, _tunnel: &Tunnel) -> Result<()> {
        // With the lock held: who takes it, and finds nothing, knows that nothing is there.
        let mut alive = device.alive.lock().await;
        match alive.take() {
            Some(alive) => alive.end().await,
            None => Ok(()),
        }
    }

    async fn statistics(&self, device: &Device, _tunnel: &Tunnel) -> Result<Vec<Statistics>> {
        let alive = device.alive.lock().await;
        let alive = alive.as_ref().filter(|alive| !alive.tun.is_dead());
        let gotatun = alive.and_then(|alive| alive.gotatun.as_ref());
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

/// Gives a tunnel that had none its peers. One that has begun a handshake meanwhile is answered before it is sent
/// anything: of two handshakes that cross, wireguard-go may keep the keys of neither.
async fn first_peers(gotatun: &Gotatun, socket: &Socket, peers: &[Peer]) -> Result<()> {
    let (beginner, answered) = (socket.first_sender(), socket.sends());
    let mut silent = peers.to_vec();
    for peer in &mut silent {
        peer.keepalive = peer.keepalive.filter(|_| beginner != Some(peer.endpoint));
    }
    let added = gotatun.write(async |device| {
        // It listens for peers only from the time on when it has one; this tells it to begin.
        device.clear_peers();
        device.add_peers(silent.iter().map(peer));
    });
    added
        .await
        .map_err(|error| broken("give a tunnel its peers", &error))?;
    if silent == peers {
        return Ok(());
    }
    // What it sent may have been no handshake: then it is asked.
    let _ = timeout(TO_ANSWER, answered).await;
    change_peers(gotatun, &silent, peers).await
}

/// Changes what differs. Where a peer was heard from stays, unless its endpoint was changed.
async fn change_peers(gotatun: &Gotatun, before: &[Peer], after: &[Peer]) -> Result<()> {
    let changed = gotatun.write(async |device| {
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

fn gone() -> Error {
    let text = "the TUN device was removed, or its pod has ended";
    Error::not_found("interface-gone", text)
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
