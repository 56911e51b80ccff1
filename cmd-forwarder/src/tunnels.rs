// SPDX-License-Identifier: Apache-2.0
//! The node's tunnels: VXLAN devices by the kernel, WireGuard devices by an engine; what is on them is the kernel's.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_sdk::app::Failure;
use nsm_sdk::chains::forwarder;
use nsm_sdk::core::{Component, Error, Result};
use nsm_sdk::dataplane::Counters;
use nsm_sdk::dataplane::tunnel::{RemoteWire, Transit, Tunnel, Tunnels, WireGuard};
use nsm_sdk::dataplane::underlay::Underlay;
use nsm_sdk::dataplane::wireguard::{Towards, TunnelId};
use nsm_sdk::networkservice::{vxlan, wireguard};
use nsm_sdk_kernel::Kernel;
use nsm_sdk_wireguard::{Choice, Config, Device, Engine, Former, Keys, Peer, PublicKey};
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use crate::settings::Settings;

/// How long the other node may take to answer the first handshake, which is sent again after 5 s only.
const TO_SHAKE_HANDS: Duration = Duration::from_secs(6);

/// See the [module](self).
pub(crate) struct NodeTunnels {
    kernel: Arc<Kernel>,
    keys: Option<Arc<Keys>>,
}

/// What a forwarder offers and answers of tunnels from `ip`, and who makes them.
pub(crate) async fn start(
    component: &Component,
    settings: &Settings,
    kernel: &Arc<Kernel>,
    ip: IpAddr,
) -> Result<(forwarder::Tunnels, Arc<NodeTunnels>), Failure> {
    let mtu = kernel.mtu(ip, None).await?;
    info!(%ip, mtu, "tunnels go from here");
    let keys = keys(component, settings, kernel).await?;
    let vxlan = vxlan::Ours {
        ip,
        port: if settings.vxlan_port == 0 {
            vxlan::PORT
        } else {
            settings.vxlan_port
        },
        vnis: vnis(component, kernel).await,
        underlay: kernel.clone(),
        former: kernel.clone(),
    };
    let wireguard = keys.clone().map(|ends| wireguard::Ours {
        ip,
        ends,
        underlay: kernel.clone(),
    });
    let makers = NodeTunnels {
        kernel: kernel.clone(),
        keys,
    };
    Ok((forwarder::Tunnels { vxlan, wireguard }, Arc::new(makers)))
}

/// The identifiers that others on this node have. Those that come later the kernel tells when we ask for the same.
async fn vnis(component: &Component, kernel: &Kernel) -> vxlan::Vnis {
    let vnis = vxlan::Vnis::new(component.meters());
    match kernel.numbers().await {
        Ok(numbers) => numbers.into_iter().for_each(|(port, vni)| vnis.avoid(port, vni)),
        Err(error) => warn!(%error, "VXLAN devices of others are not known"),
    }
    vnis
}

/// The keys of the engine that the settings choose; none where `auto` finds none that works.
async fn keys(
    component: &Component,
    settings: &Settings,
    kernel: &Arc<Kernel>,
) -> Result<Option<Arc<Keys>>, Failure> {
    let config = Config {
        ports: settings.wireguard_port_range,
        group: settings.link_group,
        ..Config::default()
    };
    match nsm_sdk_wireguard::start(component, settings.wireguard_engine, &config).await {
        Ok(engine) => {
            let keys = Keys::new(engine, config.ports).with_former(Before(kernel.clone()));
            Ok(Some(Arc::new(keys)))
        }
        Err(error) if settings.wireguard_engine == Choice::Auto => {
            warn!(%error, "no WireGuard: services of IP on other nodes cannot be reached from here");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// What an earlier life of this forwarder left.
struct Before(Arc<Kernel>);

#[async_trait]
impl Former for Before {
    async fn tunnel(&self, id: &TunnelId, engine: &dyn Engine) -> Result<Option<nsm_sdk_wireguard::Tunnel>> {
        match self.0.left(id).await? {
            Some(left) => engine.left(&left.netns(), left.name()).await,
            None => Ok(None),
        }
    }
}

impl NodeTunnels {
    fn keys(&self) -> Result<&Keys> {
        let none = || {
            Error::unavailable(
                "no-wireguard",
                "this node makes no WireGuard tunnels; its log says why",
            )
        };
        self.keys.as_deref().ok_or_else(none)
    }

    /// Makes the device in the pod; when something has its name, after that has made room.
    async fn new_device(&self, wire: &RemoteWire, to: &WireGuard, deadline: Instant) -> Result<()> {
        match self.device(wire, to, deadline).await {
            Err(error) if error.reason() == "interface-taken" => {
                self.kernel.make_room(wire, deadline).await?;
                self.device(wire, to, deadline).await
            }
            done => done,
        }
    }

    async fn device(&self, wire: &RemoteWire, to: &WireGuard, deadline: Instant) -> Result<()> {
        let device = Device {
            netns: &wire.interface.netns,
            name: &wire.interface.name,
            mtu: wire.mtu,
        };
        let peer = Peer::only(PublicKey::from(to.public_key), to.remote);
        self.keys()?.make(&wire.id, device, peer, deadline).await
    }

    /// Waits for the first handshake at the client's end: the other end is there already.
    async fn handshake(&self, wire: &RemoteWire, to: &WireGuard, deadline: Instant) -> Result<()> {
        if wire.id.towards == Towards::Client {
            return Ok(());
        }
        let deadline = deadline.min(Instant::now() + TO_SHAKE_HANDS);
        let done = self.keys()?.established(&wire.id, deadline).await;
        done.map_err(|error| {
            error.context(format!(
                "{} has not answered by WireGuard within {TO_SHAKE_HANDS:?}: does the network between the nodes let \
                 UDP packets through?",
                to.remote
            ))
        })
    }
}

#[async_trait]
impl Tunnels for NodeTunnels {
    async fn connect(&self, wire: &RemoteWire, before: Option<&RemoteWire>, deadline: Instant) -> Result<()> {
        let Tunnel::WireGuard(to) = &wire.tunnel else {
            return Tunnels::connect(&*self.kernel, wire, before, deadline).await;
        };
        match before {
            None => self.new_device(wire, to, deadline).await?,
            Some(_) => self.device(wire, to, deadline).await?,
        }
        let mut done = Tunnels::connect(&*self.kernel, wire, before, deadline).await;
        if done.is_ok() && before.is_none() {
            done = self.handshake(wire, to, deadline).await;
        }
        if done.is_err()
            && before.is_none()
            && let Err(error) = self.disconnect(wire).await
        {
            warn!(%error, tunnel = %wire.id, "a device may stay behind");
        }
        done
    }

    async fn join(&self, transit: &Transit, deadline: Instant) -> Result<()> {
        self.kernel.join(transit, deadline).await
    }

    async fn disconnect(&self, wire: &RemoteWire) -> Result<()> {
        let done = Tunnels::disconnect(&*self.kernel, wire).await;
        match &wire.tunnel {
            Tunnel::Vxlan(_) => done,
            Tunnel::WireGuard(_) => {
                self.keys()?.dismiss(&wire.id);
                done
            }
        }
    }

    async fn set_aside(&self, wire: &RemoteWire) -> Result<()> {
        self.kernel.set_aside(wire).await
    }

    async fn counters(&self, wire: &RemoteWire) -> Result<Counters> {
        Tunnels::counters(&*self.kernel, wire).await
    }
}
