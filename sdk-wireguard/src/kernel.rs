// SPDX-License-Identifier: Apache-2.0
//! WireGuard by the kernel: the device is made in the pod in one message, its UDP socket stays with the node.
//!
//! **Guarantees**: as [`Engine`](crate::Engine) says. A request for a device comes from a socket in the node's
//! namespace and names the pod's: the kernel binds the UDP socket where the request came from, and nothing is moved.
//! Keys and peers are set from inside of the pod's namespace, where the device is.
//! **On close**: tunnels stay, and traffic in them; [`left`](crate::Engine::left) finds them again.
//! **Cost**: under a millisecond a tunnel, most of it the kernel's. No packet passes this program.
//!
//! The private key is set through a crate that does not overwrite its copy; that copy lives as long as the call.

mod control;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_sdk::core::{Component, Result};
use rand::Rng;
use rustix::io::Errno;
use wireguard_control::DeviceUpdate;

use crate::engine::{Config, Engine, Kind};
use crate::key::PublicKey;
use crate::link::{Link, Netlink, Wanted, refused};
use crate::netns::{Netns, NetnsId};
use crate::owner::{Driver, Owner};
use crate::ports::Ports;
use crate::search;
use crate::tunnel::{Made, Statistics, Tunnel};
use crate::worker::{Home, Workers, nursery};

use self::control::{aim, apply, as_tunnel, difference, look, whole};

/// The kernel has one lock for most of it: more threads gain nothing.
const THREADS: usize = 2;

/// Starts an engine that makes tunnels by the kernel.
///
/// Errors: `no-wireguard`, `netns-gone`, `not-a-netns`, `not-privileged`, `wireguard`.
pub async fn start(component: &Component, config: &Config) -> Result<Arc<dyn Engine>> {
    let node = Arc::new(Netns::open(&config.node)?);
    let workers = Workers::new(&node, THREADS);
    let nursery = nursery().await?;
    workers.run(move |home| try_out(home, &nursery)).await?;
    let driver = Kernel {
        component: component.clone(),
        config: config.clone(),
        workers,
    };
    Kind::Kernel.started(component);
    Ok(Arc::new(Owner::new(component, driver)))
}

/// Whether the kernel can: a device is made in a namespace of ours, which ends with it.
fn try_out(home: &mut Home, nursery: &Netns) -> Result<()> {
    let wanted = Wanted {
        name: "trial".into(),
        alias: String::new(),
        group: 0,
        mtu: 1420,
    };
    home.visit(nursery, || {
        let made = Netlink::open()?.create_wireguard(&wanted, nursery);
        made.map_err(|errno| refused("make a WireGuard device", errno))
    })
}

struct Kernel {
    component: Component,
    config: Config,
    workers: Workers,
}

/// A device of the kernel's.
struct Device {
    /// A path may lead to another namespace one day.
    netns: NetnsId,
    made: Made,
}

impl Kernel {
    /// Has `act` done in the namespace that the device of `tunnel` is in, also when the path of the tunnel leads there
    /// no more.
    async fn visit<T: Send + 'static>(
        &self,
        tunnel: &Tunnel,
        device: &Device,
        act: impl FnOnce(&Tunnel) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tunnel, id) = (tunnel.clone(), device.netns);
        let job = self.workers.run(move |home| {
            let netns = search::open(&tunnel.netns, id)?;
            home.visit(&netns, || act(&tunnel))
        });
        job.await
    }
}

#[async_trait]
impl Driver for Kernel {
    type Device = Device;

    fn kind(&self) -> Kind {
        Kind::Kernel
    }

    async fn build(&self, tunnel: &Tunnel) -> Result<Device> {
        let build = Build {
            wanted: Wanted {
                name: tunnel.name.clone(),
                alias: tunnel.id.clone(),
                group: self.config.group,
                mtu: tunnel.mtu,
            },
            tunnel: tunnel.clone(),
            ports: self.config.ports,
            random: self.component.random(Rng::random),
        };
        self.workers.run(move |home| build.run(home)).await
    }

    fn made(&self, device: &Device) -> Made {
        device.made
    }

    async fn is_there(&self, device: &Device, tunnel: &Tunnel) -> bool {
        let index = device.made.index;
        let look = self.visit(tunnel, device, move |tunnel| {
            let found = Netlink::open()?.find(&tunnel.name);
            Ok(found
                .ok()
                .flatten()
                .is_some_and(|link| link.index == index && link.is_wireguard))
        });
        look.await.unwrap_or(false)
    }

    async fn update(&self, device: &mut Device, before: &Tunnel, after: &Tunnel) -> Result<()> {
        let (before, index) = (before.clone(), device.made.index);
        self.visit(after, device, move |after| {
            let mut netlink = Netlink::open()?;
            let aim = aim(after);
            if before.mtu != after.mtu {
                netlink
                    .set_mtu(index, after.mtu)
                    .map_err(|errno| refused(&aim, errno))?;
            }
            let port = (before.listen_port != after.listen_port).then_some(after.listen_port);
            apply(&mut netlink, index, after, difference(&before, after, port))
        })
        .await?;
        device.made.listen_port = after.listen_port;
        Ok(())
    }

    async fn destroy(&self, device: Device, tunnel: &Tunnel) -> Result<()> {
        let index = device.made.index;
        let removed = self.visit(tunnel, &device, move |tunnel| {
            let removed = Netlink::open()?.remove(index);
            removed.map_err(|errno| refused(&format!("remove the WireGuard device {}", tunnel.name), errno))
        });
        match removed.await {
            // It went with its namespace.
            Err(error) if error.reason() == "netns-gone" => Ok(()),
            removed => removed,
        }
    }

    async fn statistics(&self, device: &Device, tunnel: &Tunnel) -> Result<Vec<Statistics>> {
        let seen = self.visit(tunnel, device, |tunnel| look(&tunnel.name)).await?;
        let now = self.component.now();
        let statistics = seen.peers.iter().map(|peer| Statistics {
            public_key: PublicKey::from(peer.config.public_key.0),
            rx_bytes: peer.stats.rx_bytes,
            tx_bytes: peer.stats.tx_bytes,
            last_handshake: (peer.stats.last_handshake_time)
                .map(|at| now.duration_since(at).unwrap_or_default()),
        });
        Ok(statistics.collect())
    }

    async fn left(&self, netns: &Path, name: &str) -> Result<Option<Tunnel>> {
        let (path, name, group) = (netns.to_path_buf(), name.to_owned(), self.config.group);
        let job = self.workers.run(move |home| {
            let netns = Netns::open(&path)?;
            home.visit(&netns, || {
                let aim = format!("look for the interface {name}");
                let found = Netlink::open()?
                    .find(&name)
                    .map_err(|errno| refused(&aim, errno))?;
                let Some(link) = found.filter(|link| link.is_wireguard && link.group == group) else {
                    return Ok(None);
                };
                let seen = look(&name)?;
                // Without a key it was never set up.
                let is_whole = seen.private_key.is_some();
                Ok(is_whole.then(|| as_tunnel(&seen, &link, &path, &name)))
            })
        });
        job.await
    }
}

/// A device in the making.
struct Build {
    wanted: Wanted,
    tunnel: Tunnel,
    ports: Ports,
    random: u16,
}

impl Build {
    fn run(&self, home: &mut Home) -> Result<Device> {
        let netns = Netns::open(&self.tunnel.netns)?;
        let is_new = match home.netlink()?.create_wireguard(&self.wanted, &netns) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(refused(&aim(&self.tunnel), errno)),
        };
        let made = home.visit(&netns, || {
            let mut netlink = Netlink::open()?;
            let link = self.link(&mut netlink)?;
            let made = if is_new {
                self.set_up(&mut netlink, &link)
            } else {
                self.adopt(&mut netlink, &link)
            };
            if made.is_err() && is_new {
                let _ = netlink.remove(link.index);
            }
            made
        });
        Ok(Device {
            netns: netns.id(),
            made: made?,
        })
    }

    fn link(&self, netlink: &mut Netlink) -> Result<Link> {
        let aim = aim(&self.tunnel);
        let found = netlink
            .find(&self.tunnel.name)
            .map_err(|errno| refused(&aim, errno))?;
        found.ok_or_else(|| refused(&aim, Errno::NODEV))
    }

    /// Gives a new device, which is down, its key, its peers and a port that is free, and raises it.
    fn set_up(&self, netlink: &mut Netlink, link: &Link) -> Result<Made> {
        let Tunnel { listen_port, .. } = self.tunnel;
        let ports: Box<dyn Iterator<Item = u16>> = if listen_port == 0 {
            Box::new(self.ports.from(self.random))
        } else {
            Box::new(std::iter::once(listen_port))
        };
        let aim = aim(&self.tunnel);
        let mut update = whole(&self.tunnel);
        // While it is down the kernel takes any port; it binds it when it is raised.
        for port in ports {
            apply(netlink, link.index, &self.tunnel, update.set_listen_port(port))?;
            match netlink.raise(link.index, &self.wanted.alias) {
                Ok(()) => {
                    return Ok(Made {
                        index: link.index,
                        listen_port: port,
                    });
                }
                Err(Errno::ADDRINUSE) => update = DeviceUpdate::new(),
                Err(errno) => return Err(refused(&aim, errno)),
            }
        }
        Err(refused(&aim, Errno::ADDRINUSE))
    }

    /// Takes over a device that an earlier life made for the same tunnel: what is as it should be stays untouched.
    fn adopt(&self, netlink: &mut Netlink, link: &Link) -> Result<Made> {
        let Self { wanted, tunnel, .. } = self;
        if !link.is_wireguard || link.group != wanted.group || link.alias != wanted.alias {
            return Err(refused(&aim(tunnel), Errno::EXIST));
        }
        let before = as_tunnel(&look(&tunnel.name)?, link, &tunnel.netns, &tunnel.name);
        let mut after = tunnel.clone();
        if after.listen_port == 0 {
            after.listen_port = before.listen_port;
        }
        if before.mtu != after.mtu {
            netlink
                .set_mtu(link.index, after.mtu)
                .map_err(|errno| refused(&aim(tunnel), errno))?;
        }
        let port = (before.listen_port != after.listen_port).then_some(after.listen_port);
        apply(netlink, link.index, tunnel, difference(&before, &after, port))?;
        netlink
            .raise(link.index, &wanted.alias)
            .map_err(|errno| refused(&aim(tunnel), errno))?;
        Ok(Made {
            index: link.index,
            listen_port: after.listen_port,
        })
    }
}
