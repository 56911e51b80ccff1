// SPDX-License-Identifier: Apache-2.0
//! Has clients refresh when less fits through the network between nodes than their tunnels were made for.
//!
//! **Guarantees**: soon after a device or a route of this node has changed, every connection with a tunnel through it
//! for which the way has become narrower is told as [`State::RefreshRequested`], once for each change; its refresh then
//! agrees upon an MTU that fits. A way that has become wider changes nothing: what a client was told stays its own.
//! **Placement**: in a forwarder, behind `monitor` and before everything that offers, answers or makes tunnels.
//! **Reads / writes**: reads the mechanism, [`Downstream`] and the [`Announcer`] in [`Ctx::store`]; a place in the
//! element's list there.
//! **On close**: the connection leaves the list.
//! **Cost**: a question to the underlay for each other node when something changes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connection::{Mechanism, State};
use nsm_api::mechanism::{Vxlan, Wireguard, key};
use parking_lot::Mutex;
use tracing::{debug, info};

use super::mechanismtranslation::Downstream;
use super::monitor::Announcer;
use crate::core::{Component, Ctx, Element, NetworkService, Next, Request, Result, Task};
use crate::dataplane::underlay::{Overhead, Underlay};

/// See the [module](self).
pub struct PathMtu {
    ways: Arc<Ways>,
    _task: Task,
}

/// The ways to other nodes that connections go.
struct Ways {
    local: IpAddr,
    underlay: Arc<dyn Underlay>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    last: u64,
    ways: HashMap<u64, Vec<Way>>,
}

/// The way of one tunnel.
struct Way {
    remote: IpAddr,
    /// What it must carry in one packet, or has been told not to.
    mtu: u32,
    announcer: Announcer,
}

/// The connection's place in the list, which it leaves when this is dropped.
struct Listed {
    ways: Arc<Ways>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.ways.known.lock().ways.remove(&self.number);
    }
}

impl PathMtu {
    /// Looks after tunnels that go from `local`.
    pub fn new(component: &Component, local: IpAddr, underlay: &Arc<dyn Underlay>) -> Self {
        let ways = Arc::new(Ways {
            local,
            underlay: Arc::clone(underlay),
            known: Mutex::default(),
        });
        let watched = Arc::clone(&ways);
        let task = component.spawn("pathmtu", async move {
            let mut changes = watched.underlay.changes();
            while changes.changed().await.is_ok() {
                watched.look().await;
            }
        });
        Self { ways, _task: task }
    }
}

impl Ways {
    /// What fits on the way to `remote`; nothing is known of a way that is not there just now.
    async fn mtu(&self, remote: IpAddr) -> Option<u32> {
        let mtu = self.underlay.mtu(self.local, Some(remote)).await;
        mtu.inspect_err(|error| debug!(%error, %remote, "no MTU is known"))
            .ok()
    }

    /// Looks at every way again, and asks for a refresh of what has become too large.
    async fn look(&self) {
        let mut now = BTreeMap::new();
        for way in self.known.lock().ways.values().flatten() {
            now.insert(way.remote, None);
        }
        for (remote, mtu) in &mut now {
            *mtu = self.mtu(*remote).await;
        }
        let mut narrower = Vec::new();
        for way in self.known.lock().ways.values_mut().flatten() {
            let Some(mtu) = now.get(&way.remote).copied().flatten() else {
                continue;
            };
            if mtu < way.mtu {
                narrower.push(way.announcer.clone());
                way.mtu = mtu;
            }
        }
        if !narrower.is_empty() {
            info!(
                tunnels = narrower.len(),
                "the way to another node has become narrower"
            );
        }
        for announcer in narrower {
            announcer.announce(State::RefreshRequested);
        }
    }

    /// The way of the tunnel that `mechanism` is, whose other end it tells as `ip`.
    fn way(&self, mechanism: &Mechanism, ip: &str, announcer: &Announcer) -> Option<Way> {
        let (vxlan, wireguard) = (Vxlan::of(mechanism), Wireguard::of(mechanism));
        let vxlan = vxlan.map(|vxlan| (vxlan.mtu(), Overhead::VXLAN));
        let (mtu, overhead) =
            vxlan.or_else(|| wireguard.map(|wireguard| (wireguard.mtu(), Overhead::WIREGUARD)))?;
        Some(Way {
            remote: mechanism.parameter(ip).parse().ok()?,
            mtu: overhead.needs(self.local, mtu),
            announcer: announcer.clone(),
        })
    }

    /// Puts the connection into the list, with these ways.
    fn list(self: &Arc<Self>, ctx: &Ctx, ways: Vec<Way>) {
        drop(ctx.store().take::<Listed>());
        if ways.is_empty() {
            return;
        }
        let mut known = self.known.lock();
        known.last += 1;
        let number = known.last;
        known.ways.insert(number, ways);
        drop(known);
        let ways = Arc::clone(self);
        ctx.store().insert(Listed { ways, number });
    }
}

#[async_trait]
impl Element<NetworkService> for PathMtu {
    fn name(&self) -> &'static str {
        "pathmtu"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let changes = self.ways.underlay.changes();
        next.request(ctx, request).await?;
        let Some(announcer) = ctx.store().get::<Announcer>() else {
            return Ok(());
        };
        let downstream = ctx.store().get().map(|Downstream(mechanism)| mechanism);
        let tunnels = [
            (request.connection.mechanism.as_ref(), key::SRC_IP),
            (downstream.as_ref(), key::DST_IP),
        ];
        let way = |(mechanism, ip): (Option<&Mechanism>, _)| self.ways.way(mechanism?, ip, &announcer);
        let ways = tunnels.into_iter().filter_map(way).collect();
        self.ways.list(ctx, ways);
        // What has changed since the MTU was agreed upon was not seen of these ways.
        if changes.has_changed().is_ok_and(|has_changed| has_changed) {
            self.ways.look().await;
        }
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let done = next.close(ctx, request).await;
        if done.is_ok() {
            drop(ctx.store().take::<Listed>());
        }
        done
    }
}

#[cfg(test)]
mod tests;
