// SPDX-License-Identifier: Apache-2.0
//! The ends of a node's tunnels: keys and ports that peers are told before there is a device, and the device when the
//! peer is known.
//!
//! **Guarantees**: a tunnel keeps its key and port from the first question until it is released, whatever happens to its
//! device; nobody else can take the port meanwhile, since a socket holds it until the device does. What an earlier life
//! of the program left in the kernel keeps them too: neither end of it notices the new life. A device that was made
//! ahead, without a peer, goes with the key when no wire has taken it over.
//! **Cost**: a key pair (40 µs) and a socket a tunnel that is being asked for.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::wireguard::{End, Ends, Site, Towards, TunnelId};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{Engine, Peer, Ports, PrivateKey, Tunnel};

/// How many tunnels a node may have: as many as a node has connections.
const MAX_TUNNELS: usize = 65_536;

/// Knows where the devices are that an earlier life of the program left.
#[async_trait]
pub trait Former: Send + Sync + 'static {
    /// The tunnel that is left of `id`, read by `engine` ([`Engine::left`]) from where its device is. None where nothing
    /// is left, which is said without asking the kernel.
    ///
    /// Errors: those of [`Engine::left`].
    async fn tunnel(&self, id: &TunnelId, engine: &dyn Engine) -> Result<Option<Tunnel>>;
}

/// See the [module](self).
pub struct Keys {
    engine: Arc<dyn Engine>,
    ports: Ports,
    former: Option<Box<dyn Former>>,
    kept: Mutex<HashMap<TunnelId, Kept>>,
}

/// What is kept of one tunnel.
struct Kept {
    key: PrivateKey,
    port: u16,
    /// Holds the port until the device does.
    holder: Option<UdpSocket>,
    /// The device is there, and no wire has asked for it.
    is_ahead: bool,
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

impl Device<'_> {
    /// The tunnel `id` with this device.
    fn tunnel(&self, id: &TunnelId, private_key: PrivateKey, listen_port: u16, peers: Vec<Peer>) -> Tunnel {
        Tunnel {
            id: alias(id),
            netns: self.netns.to_path_buf(),
            name: self.name.to_string(),
            mtu: self.mtu,
            private_key,
            listen_port,
            peers,
        }
    }
}

impl Keys {
    /// Keys of tunnels that `engine` makes, on these ports of the namespace of the calling thread, which is the node's.
    pub fn new(engine: Arc<dyn Engine>, ports: Ports) -> Self {
        Self {
            engine,
            ports,
            former: None,
            kept: Mutex::default(),
        }
    }

    /// With what an earlier life left.
    #[must_use]
    pub fn with_former(self, former: impl Former) -> Self {
        let former: Option<Box<dyn Former>> = Some(Box::new(former));
        Self { former, ..self }
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
            kept.is_ahead = false;
            (kept.key.clone(), kept.port, kept.holder.take())
        };
        let tunnel = device.tunnel(id, private_key, listen_port, vec![peer]);
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

    /// Lets the device of a tunnel go, as [`Engine::dismiss`] does. Key and port stay its own until they are released.
    pub fn dismiss(&self, id: &TunnelId) {
        self.engine.dismiss(&alias(id));
    }

    /// A port that nobody has, and the socket that keeps it so. Those that are `promised` may have no socket just now: their
    /// devices are being made.
    fn hold(&self, promised: &HashSet<u16>) -> Result<(u16, UdpSocket)> {
        let free = |port: &u16| !promised.contains(port);
        for port in self.ports.from(rand::random()).filter(free) {
            if let Ok(socket) = bind(port) {
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

/// Holds a port of both families: one socket of IPv6 does, where there is IPv6.
fn bind(port: u16) -> std::io::Result<UdpSocket> {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Err(error) if error.kind() != ErrorKind::AddrInUse => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)),
        held => held,
    }
}

/// The alias of the device, by which the data plane knows its own: `server` faces the client.
fn alias(id: &TunnelId) -> String {
    match id.towards {
        Towards::Endpoint => format!("server-{}", id.connection),
        Towards::Client => format!("client-{}", id.connection),
    }
}

impl Keys {
    /// Our end of a tunnel that has been asked for before.
    fn known(&self, tunnel: &TunnelId) -> Option<End> {
        self.kept.lock().get(tunnel).map(Kept::end)
    }

    /// What an earlier life left of a tunnel. The device has the port.
    async fn left(&self, id: &TunnelId) -> Option<Kept> {
        let found = self.former.as_ref()?.tunnel(id, &*self.engine).await;
        let unread = |error: &Error| warn!(%error, tunnel = %id, "a tunnel that was left gets another key");
        let tunnel = found.inspect_err(unread).ok().flatten()?;
        let is_whole = tunnel.id == alias(id) && tunnel.listen_port != 0;
        is_whole.then(|| {
            debug!(tunnel = %id, port = tunnel.listen_port, "a tunnel that was left keeps its key and port");
            Kept {
                key: tunnel.private_key,
                port: tunnel.listen_port,
                holder: None,
                is_ahead: false,
            }
        })
    }
}

impl Kept {
    fn end(&self) -> End {
        End {
            public_key: *self.key.public().as_bytes(),
            port: self.port,
        }
    }
}

#[async_trait]
impl Ends for Keys {
    async fn end(&self, tunnel: &TunnelId) -> Result<End> {
        if let Some(end) = self.known(tunnel) {
            return Ok(end);
        }
        let left = self.left(tunnel).await;
        let mut kept = self.kept.lock();
        if let Some(kept) = kept.get(tunnel) {
            return Ok(kept.end());
        }
        if kept.len() >= MAX_TUNNELS {
            let text = format!("{MAX_TUNNELS} WireGuard tunnels are open, the most that one node has");
            return Err(Error::exhausted("too-many-tunnels", text));
        }
        let ours = match left {
            Some(left) => left,
            None => {
                let (port, socket) = self.hold(&kept.values().map(|kept| kept.port).collect())?;
                Kept {
                    key: PrivateKey::random()?,
                    port,
                    holder: Some(socket),
                    is_ahead: false,
                }
            }
        };
        let end = ours.end();
        kept.insert(tunnel.clone(), ours);
        Ok(end)
    }

    async fn prepare(&self, id: &TunnelId, site: Site, deadline: Instant) {
        let ready = self.kept.lock().get_mut(id).and_then(|kept| {
            let holder = kept.holder.take()?;
            Some((kept.key.clone(), kept.port, holder))
        });
        let Some((private_key, listen_port, holder)) = ready else {
            return;
        };
        let device = Device {
            netns: &site.netns,
            name: &site.name,
            mtu: site.mtu,
        };
        let tunnel = device.tunnel(id, private_key, listen_port, Vec::new());
        // The device takes the port over.
        drop(holder);
        let made = self.engine.make(&tunnel, deadline).await;
        if let Err(error) = &made {
            debug!(tunnel = tunnel.id, %error, "nothing is made ahead");
        }
        let mut kept = self.kept.lock();
        match kept.get_mut(id) {
            Some(kept) => {
                kept.is_ahead = made.is_ok();
                kept.holder = made.err().and_then(|_| bind(listen_port).ok());
            }
            None if made.is_ok() => self.dismiss(id),
            None => {}
        }
    }

    fn release(&self, tunnel: &TunnelId) {
        let kept = self.kept.lock().remove(tunnel);
        if kept.is_some_and(|kept| kept.is_ahead) {
            self.dismiss(tunnel);
        }
    }
}

#[cfg(test)]
mod tests {
    use nsm_sdk::core::Component;

    use super::*;
    use crate::Kind;
    use crate::model::Model;

    /// What a data plane knows of the interfaces that were left.
    struct Known(HashMap<TunnelId, &'static str>);

    #[async_trait]
    impl Former for Known {
        async fn tunnel(&self, id: &TunnelId, engine: &dyn Engine) -> Result<Option<Tunnel>> {
            match self.0.get(id) {
                Some(name) => engine.left(Path::new(POD), name).await,
                None => Ok(None),
            }
        }
    }

    const POD: &str = "/proc/self/ns/net";

    fn tunnel(connection: usize) -> TunnelId {
        TunnelId {
            connection: connection.to_string(),
            towards: Towards::Client,
        }
    }

    fn ports() -> Ports {
        let random = |random: &mut _| rand::Rng::random_range(random, 0..20_000);
        let first = 40_000 + Component::new("test").random(random);
        Ports::new(first, first + 7).expect("a range")
    }

    async fn make(keys: &Keys, id: &TunnelId) {
        let device = Device {
            netns: Path::new(POD),
            name: "nsm-1",
            mtu: 1400,
        };
        let peer = Peer::only([7; 32].into(), "10.0.0.1:1".parse().expect("an address"));
        let made = keys.make(id, device, peer, Instant::now());
        made.await.expect("made");
    }

    #[tokio::test]
    async fn a_port_is_one_tunnels_alone_also_while_its_device_is_being_made() {
        // The holder lets go of the port; this engine takes none.
        let keys = Keys::new(Arc::new(Model::new(Kind::Userspace)), ports());
        let mut seen = HashSet::new();
        for number in 0..4 {
            let id = tunnel(number);
            let end = keys.end(&id).await.expect("a port is free");
            assert_eq!(keys.end(&id).await.expect("the same"), end);
            make(&keys, &id).await;
            assert!(seen.insert(end.port), "{} twice", end.port);
        }
        keys.release(&tunnel(0));
        assert_eq!(keys.kept.lock().len(), 3);
    }

    async fn prepare(keys: &Keys, id: &TunnelId) {
        let site = Site {
            netns: POD.into(),
            name: "nsm-1".into(),
            mtu: 1420,
        };
        keys.prepare(id, site, Instant::now()).await;
    }

    #[tokio::test]
    async fn a_device_that_was_made_ahead_becomes_the_wires_or_goes_with_its_key() {
        let engine = Arc::new(Model::new(Kind::Userspace));
        let keys = Keys::new(engine.clone(), ports());
        let (taken, left) = (tunnel(1), tunnel(2));
        prepare(&keys, &taken).await;
        assert_eq!(engine.changes(), 0, "nobody has asked for its end");
        for id in [&taken, &left] {
            let end = keys.end(id).await.expect("a port is free");
            prepare(&keys, id).await;
            prepare(&keys, id).await;
            assert_eq!(keys.end(id).await.expect("the same"), end);
        }
        assert_eq!(engine.changes(), 2);
        make(&keys, &taken).await;
        keys.release(&taken);
        keys.release(&left);
        assert_eq!(
            engine.ids(),
            [alias(&taken)],
            "a wire is removed by whoever has asked for it"
        );
    }

    #[tokio::test]
    async fn a_port_is_held_again_when_nothing_can_be_made_ahead() {
        let engine = Arc::new(Model::new(Kind::Userspace));
        let keys = Keys::new(engine.clone(), ports());
        engine.take_ports();
        let id = tunnel(1);
        let end = keys.end(&id).await.expect("a port is free");
        prepare(&keys, &id).await;
        bind(end.port).expect_err("it is held");
        keys.release(&id);
        bind(end.port).expect("it is free");
        assert!(engine.ids().is_empty());
    }

    /// The ends of `id` in two lives of the program, and how often its device was changed.
    async fn two_lives(kind: Kind, id: &TunnelId, left: &[(TunnelId, &'static str)]) -> (End, End, usize) {
        let (engine, ports) = (Arc::new(Model::new(kind)), ports());
        let keys = Keys::new(engine.clone(), ports);
        let first = keys.end(id).await.expect("a port is free");
        make(&keys, id).await;
        let engine = Arc::new(engine.again());
        let known = Known(left.iter().cloned().collect());
        let keys = Keys::new(engine.clone(), ports).with_former(known);
        let second = keys.end(id).await.expect("a port is free");
        assert_eq!(keys.end(id).await.expect("the same"), second);
        make(&keys, id).await;
        (first, second, engine.changes())
    }

    #[tokio::test]
    async fn what_an_earlier_life_left_keeps_key_and_port() {
        let id = tunnel(1);
        let (first, second, changes) = two_lives(Kind::Kernel, &id, &[(id.clone(), "nsm-1")]).await;
        assert_eq!((first, changes), (second, 1));
    }

    #[tokio::test]
    async fn what_is_gone_or_is_another_tunnels_gives_no_key() {
        let id = tunnel(1);
        let (first, second, _) = two_lives(Kind::Userspace, &id, &[(id.clone(), "nsm-1")]).await;
        assert_ne!(first.public_key, second.public_key, "it ended with the program");
        let (first, second, _) = two_lives(Kind::Kernel, &id, &[]).await;
        assert_ne!(first.public_key, second.public_key, "nobody knows where it is");
        let other = Keys::new(Arc::new(Model::new(Kind::Kernel)), ports());
        let others = tunnel(2);
        let end = other.end(&others).await.expect("a port is free");
        make(&other, &others).await;
        let known = Known(HashMap::from([(id.clone(), "nsm-1")]));
        let keys = other.with_former(known);
        assert_ne!(
            keys.end(&id).await.expect("a port is free").public_key,
            end.public_key
        );
    }
}
