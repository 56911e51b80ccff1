// SPDX-License-Identifier: Apache-2.0
//! What of a wire is on this node, and who makes it.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::counts::Counted;
use crate::core::{Error, Result};
use crate::dataplane::tunnel::{RemoteWire, Transit, Tunnel, Tunnels};
use crate::dataplane::wireguard::Towards;
use crate::dataplane::{Counters, DataPlane, Wire};

/// A wire as far as it is on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Client and endpoint are both here.
    Whole(Wire),
    /// One of them is here, and a tunnel leads to the other.
    Half(RemoteWire),
    /// Neither is here: the wire comes by one tunnel and goes on by another.
    Transit(Box<Transit>),
}

impl Part {
    /// The interfaces of the part, as paths tell them: towards the client and towards the endpoint.
    pub(super) fn names(&self) -> [String; 2] {
        let kernel = |name: &str| format!("KERNEL/{name}");
        match self {
            Self::Whole(wire) => [kernel(&wire.client.name), kernel(&wire.endpoint.name)],
            Self::Half(wire) => {
                let (pod, tunnel) = (kernel(&wire.interface.name), name(&wire.tunnel));
                match wire.id.towards {
                    Towards::Client => [tunnel, pod],
                    Towards::Endpoint => [pod, tunnel],
                }
            }
            Self::Transit(transit) => transit.halves().map(|half| name(&half.tunnel)),
        }
    }
}

fn name(tunnel: &Tunnel) -> String {
    match tunnel {
        Tunnel::Vxlan(vxlan) => format!("VXLAN/{}", vxlan.vni),
        Tunnel::WireGuard(wireguard) => format!("WIREGUARD/{}", wireguard.remote),
    }
}

/// What the other end of a device has counted, as far as can be known here.
fn other(here: &Counters) -> Counters {
    Counters {
        rx_bytes: here.tx_bytes,
        tx_bytes: here.rx_bytes,
        rx_packets: here.tx_packets,
        tx_packets: here.rx_packets,
        drops: here.drops,
    }
}

/// Whether the device of `before` becomes that of `wire`, or has to go before there can be another.
fn becomes(before: &RemoteWire, wire: &RemoteWire) -> bool {
    let is_one = match (&before.tunnel, &wire.tunnel) {
        (Tunnel::WireGuard(_), Tunnel::WireGuard(_)) => true,
        (Tunnel::Vxlan(before), Tunnel::Vxlan(now)) => (before.port, before.vni) == (now.port, now.vni),
        _ => false,
    };
    is_one && wire.id == before.id
}

/// The same of both tunnels of a wire that passes through.
fn goes_on(before: &Transit, transit: &Transit) -> bool {
    becomes(&before.client, &transit.client) && becomes(&before.endpoint, &transit.endpoint)
}

/// Who makes the parts. Clones are the same.
#[derive(Clone)]
pub struct Planes {
    whole: Arc<dyn DataPlane>,
    half: Option<Arc<dyn Tunnels>>,
}

impl Planes {
    /// Makes wires on this node only.
    pub fn new(whole: Arc<dyn DataPlane>) -> Self {
        Self { whole, half: None }
    }

    /// Makes tunnels to other nodes as well.
    #[must_use]
    pub fn with_tunnels(self, half: Arc<dyn Tunnels>) -> Self {
        Self {
            half: Some(half),
            ..self
        }
    }

    fn tunnels(&self) -> Result<&Arc<dyn Tunnels>> {
        self.half.as_ref().ok_or_else(|| {
            let text =
                "unsupported mechanism: this forwarder makes no tunnels to other nodes; set NSM_TUNNEL_IP";
            Error::invalid("unsupported-mechanism", text)
        })
    }

    /// Makes `part` in place of `before`. One of another kind carries packets until `part` does, and again when that
    /// fails.
    pub(super) async fn connect(&self, part: &Part, before: Option<&Part>, deadline: Instant) -> Result<()> {
        match (part, before) {
            (Part::Whole(wire), Some(Part::Whole(before))) => {
                self.whole.connect(wire, Some(before), deadline).await
            }
            (Part::Half(wire), Some(Part::Half(before))) if becomes(before, wire) => {
                self.tunnels()?.connect(wire, Some(before), deadline).await
            }
            (Part::Transit(transit), Some(Part::Transit(before))) if goes_on(before, transit) => {
                self.pass(transit, Some(before), deadline).await
            }
            (Part::Transit(_), Some(before)) | (_, Some(before @ Part::Transit(_))) => {
                self.disconnect(before).await?;
                Box::pin(self.connect(part, None, deadline)).await
            }
            (_, Some(before)) => self.replace(part, before, deadline).await,
            (Part::Whole(wire), None) => self.whole.connect(wire, None, deadline).await,
            (Part::Half(wire), None) => self.tunnels()?.connect(wire, None, deadline).await,
            (Part::Transit(transit), None) => self.pass(transit, None, deadline).await,
        }
    }

    /// Makes both tunnels of a wire that passes through, and joins them. When that fails, nothing of what is new stays.
    async fn pass(&self, transit: &Transit, before: Option<&Transit>, deadline: Instant) -> Result<()> {
        let tunnels = self.tunnels()?;
        let made = async {
            let client = before.map(|before| &before.client);
            tunnels.connect(&transit.client, client, deadline).await?;
            let endpoint = before.map(|before| &before.endpoint);
            tunnels.connect(&transit.endpoint, endpoint, deadline).await?;
            tunnels.join(transit, deadline).await
        };
        let done = made.await;
        if done.is_err() && before.is_none() {
            for half in transit.halves() {
                if let Err(error) = tunnels.disconnect(half).await {
                    warn!(%error, tunnel = %half.id, "a device may stay behind");
                }
            }
        }
        done
    }

    /// Makes `part` beside `before`, and then removes that.
    async fn replace(&self, part: &Part, before: &Part, deadline: Instant) -> Result<()> {
        self.set_aside(before).await?;
        let Err(error) = Box::pin(self.connect(part, None, deadline)).await else {
            return self.disconnect(before).await;
        };
        let put_back = Box::pin(self.connect(before, Some(before), deadline)).await;
        if let Err(error) = put_back {
            debug!(%error, "a wire that could not be replaced is not put back");
        }
        Err(error)
    }

    async fn set_aside(&self, part: &Part) -> Result<()> {
        match part {
            Part::Whole(wire) => self.whole.set_aside(wire).await,
            Part::Half(wire) => self.tunnels()?.set_aside(wire).await,
            Part::Transit(_) => self.disconnect(part).await,
        }
    }

    pub(super) async fn disconnect(&self, part: &Part) -> Result<()> {
        match part {
            Part::Whole(wire) => self.whole.disconnect(wire).await,
            Part::Half(wire) => self.tunnels()?.disconnect(wire).await,
            Part::Transit(transit) => {
                let tunnels = self.tunnels()?;
                let client = tunnels.disconnect(&transit.client).await;
                let endpoint = tunnels.disconnect(&transit.endpoint).await;
                client.and(endpoint)
            }
        }
    }

    /// What the ends towards the client and towards the endpoint have counted. What one end has sent the other has
    /// received, as far as this node can know.
    pub(super) async fn counters(&self, part: &Part) -> Result<Counted> {
        match part {
            Part::Whole(wire) => self.whole.counters(wire).await,
            Part::Half(wire) => {
                let here = self.tunnels()?.counters(wire).await?;
                let there = other(&here);
                Ok(match wire.id.towards {
                    Towards::Client => (there, here),
                    Towards::Endpoint => (here, there),
                })
            }
            Part::Transit(transit) => {
                let tunnels = self.tunnels()?;
                let client = tunnels.counters(&transit.client).await?;
                let endpoint = tunnels.counters(&transit.endpoint).await?;
                Ok((other(&client), other(&endpoint)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
