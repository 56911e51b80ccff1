// SPDX-License-Identifier: Apache-2.0
//! Offers and answers VXLAN tunnels between the forwarders of two nodes, for Ethernet payloads (RFC 7348).
//!
//! **Guarantees**: the identifier of a tunnel is that of no other tunnel on this node, and stays as long as the
//! connection, also over a restart that left the device. A client half proposes one; the server half takes it if it is
//! free here and else draws another, of the parity that keeps two nodes from drawing the same. What a connection has it
//! keeps, whatever is proposed later: a client half that was replaced may not know it. Both devices use the port of the
//! client half, which the answer repeats. The MTU of the mechanism and of the connection is at most what fits through
//! the underlay from here.
//! **Placement**: the client half among the preferences of a forwarder's client chain; the server half before
//! `xconnect`, among the elements of its mechanism.
//! **Reads / writes**: `src_ip`, `src_port`, `dst_ip`, `dst_port`, `vni`, `MTU` of the mechanism; the connection's MTU.
//! **On failure**: when the kernel knows the identifier as somebody else's (`vni-taken`), the server half tries others;
//! an identifier that a first request took is free again.
//! **On close**: the identifier is free when the rest is closed.
//! **Cost**: one question to the underlay a request.

mod vnis;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connection::Mechanism;
use nsm_api::mechanism::{REMOTE, VXLAN, Vxlan as View, key};
use nsm_api::payload;
use rand::Rng;

use super::filtermechanisms::is_local;
use super::tunnel::{lowest, narrow, port, remote};
use super::wireid::wire_id;
use crate::core::{Ctx, Element, Error, NetworkService, Next, Request, Result};
use crate::dataplane::tunnel::Former;
use crate::dataplane::underlay::{Overhead, Underlay};
use crate::dataplane::wireguard::{Towards, TunnelId};

use vnis::Lease;
pub use vnis::Vnis;

/// The port of VXLAN (RFC 7348 section 8).
pub const PORT: u16 = 4789;

/// How many identifiers are tried that turn out to be somebody else's.
const REDRAWS: usize = 3;

/// What the tunnels of this node have in common. Clones share it.
#[derive(Clone)]
pub struct Ours {
    /// The address that tunnels go from and to.
    pub ip: IpAddr,
    /// The port of the tunnels that we offer.
    pub port: u16,
    /// The identifiers in use on this node.
    pub vnis: Vnis,
    /// What tunnels go over.
    pub underlay: Arc<dyn Underlay>,
    /// What was left.
    pub former: Arc<dyn Former>,
}

/// See the [module](self).
pub struct Vxlan {
    ours: Ours,
    is_client: bool,
}

/// The identifiers of the connection: of its tunnel towards the client and of the one towards the endpoint.
#[derive(Default)]
struct Held {
    towards_client: Option<Lease>,
    towards_endpoint: Option<Lease>,
}

impl Vxlan {
    /// Offers tunnels to other nodes.
    pub fn client(ours: Ours) -> Self {
        Self {
            ours,
            is_client: true,
        }
    }

    /// Answers the offers of other nodes.
    pub fn server(ours: Ours) -> Self {
        Self {
            ours,
            is_client: false,
        }
    }

    fn held<R>(&self, ctx: &Ctx, change: impl FnOnce(&mut Option<Lease>) -> R) -> R {
        ctx.store().update(|held: &mut Held| {
            change(match self.is_client {
                true => &mut held.towards_endpoint,
                false => &mut held.towards_client,
            })
        })
    }

    /// The identifier on `port` that the connection has had in an earlier life, if its device is still there.
    fn left(&self, port: u16, request: &Request) -> Option<u32> {
        let tunnel = TunnelId {
            connection: wire_id(&request.connection).ok()?,
            towards: match self.is_client {
                true => Towards::Endpoint,
                false => Towards::Client,
            },
        };
        let left = self.ours.former.vxlan(&tunnel)?;
        (left.port == port).then_some(left.vni)
    }

    /// The identifier that the connection holds on `port`, or has had there.
    fn known(&self, ctx: &Ctx, port: u16, request: &Request) -> Option<u32> {
        let held = self.held(ctx, |held| held.as_ref().and_then(|lease| lease.on(port)));
        held.or_else(|| self.left(port, request))
    }

    async fn mtu(&self, remote: Option<IpAddr>) -> Result<u32> {
        let mtu = self.ours.underlay.mtu(self.ours.ip, remote).await?;
        Ok(Overhead::VXLAN.leaves(self.ours.ip, mtu))
    }

    /// Makes sure that the connection holds an identifier on `port`: the `wanted` one if it is free, else one that is
    /// drawn.
    fn hold(&self, ctx: &Ctx, port: u16, wanted: u32, draw: impl Fn(u32) -> Option<u32>) -> Result<u32> {
        let random = || ctx.component().random(|random| draw(random.random()));
        self.held(ctx, |held| {
            let stays = |lease: &Lease| lease.is(port, if wanted == 0 { lease.vni() } else { wanted });
            if !held.as_ref().is_some_and(stays) {
                let lease = self.ours.vnis.take(port, wanted);
                let lease = lease.or_else(|| self.ours.vnis.draw(port, random));
                *held = Some(lease.ok_or_else(|| used_up(port))?);
            }
            Ok(held.as_ref().map_or(0, Lease::vni))
        })
    }

    async fn offer(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let known = request.connection.mechanism.as_ref().and_then(View::of);
        let far = known.as_ref().and_then(View::dst_ip);
        let wanted = match known.as_ref().map_or(0, View::vni) {
            0 => self.known(ctx, self.ours.port, request).unwrap_or(0),
            answered => answered,
        };
        let any = |random: u32| Some((random & 0x00FF_FFFF).max(1));
        let vni = self.hold(ctx, self.ours.port, wanted, any)?;
        let mtu = self.mtu(far).await?;
        let complete = |mechanism: &mut Mechanism| {
            let Some(mut vxlan) = View::of(mechanism) else {
                return;
            };
            vxlan.set_src_ip(self.ours.ip);
            vxlan.set_src_port(self.ours.port);
            vxlan.set_vni(vni);
            vxlan.set_mtu(lowest(vxlan.mtu(), mtu));
        };
        request.connection.mechanism.as_mut().map(complete);
        let mut offered = Mechanism::new(REMOTE, VXLAN);
        complete(&mut offered);
        request.mechanism_preferences.push(offered);
        let done = next.request(ctx, request).await;
        request.mechanism_preferences.pop();
        done?;
        self.settle(ctx, request)
    }

    /// Holds the identifier that was answered, or none when another mechanism was.
    fn settle(&self, ctx: &Ctx, request: &Request) -> Result<()> {
        let Some(answered) = request.connection.mechanism.as_ref().and_then(View::of) else {
            self.held(ctx, Option::take);
            return Ok(());
        };
        let vni = answered.vni();
        if vni == 0 {
            let text = format!(
                "the answer has the VNI {:?}",
                answered.mechanism().parameter(key::VNI)
            );
            return Err(Error::invalid("bad-vni", text));
        }
        self.held(ctx, |held| {
            if held.as_ref().is_some_and(|lease| lease.is(self.ours.port, vni)) {
                return Ok(());
            }
            *held = Some(self.ours.vnis.take(self.ours.port, vni).ok_or_else(|| {
                let text = format!(
                    "the VNI {vni} that was answered is in use on this node; another is proposed next"
                );
                Error::unavailable("vni-taken", text)
            })?);
            Ok(())
        })
    }

    async fn answer(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        for _ in 0..REDRAWS {
            let mut attempt = request.clone();
            self.complete(ctx, &mut attempt).await?;
            match next.request(ctx, &mut attempt).await {
                Err(error) if error.reason() == "vni-taken" => {
                    if let Some(lease) = self.held(ctx, Option::take) {
                        lease.give_up();
                    }
                }
                done => {
                    *request = attempt;
                    return done;
                }
            }
        }
        let text = format!("{REDRAWS} VNIs in turn were in use on this node by others");
        Err(Error::unavailable("vni-taken", text))
    }

    /// Fills in our side of the mechanism.
    async fn complete(&self, ctx: &Ctx, request: &mut Request) -> Result<()> {
        let Some(vxlan) = request.connection.mechanism.as_ref().and_then(View::of) else {
            return Ok(());
        };
        let port = port(vxlan.mechanism(), key::SRC_PORT)?;
        let before = self.known(ctx, port, request);
        let Some(mut vxlan) = request.connection.mechanism.as_mut().and_then(View::of) else {
            return Ok(());
        };
        let far = remote(vxlan.mechanism(), key::SRC_IP, self.ours.ip)?;
        proposed(&vxlan)?;
        let mtu = self.mtu(Some(far)).await?;
        vxlan.set_dst_ip(self.ours.ip);
        vxlan.set_dst_port(port);
        let wanted = before.unwrap_or_else(|| vxlan.vni());
        let vni = self.hold(ctx, port, wanted, |random| vxlan.vni_from(random))?;
        vxlan.set_vni(vni);
        let mtu = lowest(vxlan.mtu(), mtu);
        vxlan.set_mtu(mtu);
        narrow(&mut request.connection, mtu);
        Ok(())
    }
}

/// The identifier that a peer proposes, if it proposes one.
fn proposed(vxlan: &View<&mut Mechanism>) -> Result<()> {
    let text = vxlan.mechanism().parameter(key::VNI);
    if vxlan.vni() == 0 && !matches!(text, "" | "0") {
        let text = format!("the peer proposes the VNI {text:?}, which is no number of 24 bits");
        return Err(Error::invalid("bad-vni", text));
    }
    Ok(())
}

fn used_up(port: u16) -> Error {
    let text = format!("no VNI could be found that is free on port {port} of this node");
    Error::exhausted("no-vni", text)
}

#[async_trait]
impl Element<NetworkService> for Vxlan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        match self.is_client {
            false => self.answer(ctx, request, next).await,
            true if request.connection.payload == payload::ETHERNET && is_local(ctx) != Some(true) => {
                self.offer(ctx, request, next).await
            }
            true => {
                next.request(ctx, request).await?;
                self.held(ctx, Option::take);
                Ok(())
            }
        }
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let done = next.close(ctx, request).await;
        if done.is_ok() {
            self.held(ctx, Option::take);
        }
        done
    }
}

#[cfg(test)]
mod tests;
