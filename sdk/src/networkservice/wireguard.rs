// SPDX-License-Identifier: Apache-2.0
//! Offers and answers WireGuard tunnels between the forwarders of two nodes, for IP payloads.
//!
//! **Guarantees**: each connection has a key pair and a port of its own, which stay as long as it does, so that a refresh
//! interrupts nothing; keys and ports of a peer are checked before anything leads to it. The near device of a new
//! connection is made while the other node is being asked, and goes when nothing comes of it. The MTU of the mechanism
//! and of the connection is at most what fits through the underlay from here.
//! **Placement**: the client half among the preferences of a forwarder's client chain; the server half before
//! `xconnect`, among the elements of its mechanism.
//! **Reads / writes**: `src_ip`, `src_port`, `src_public_key`, `dst_ip`, `dst_port`, `dst_public_key`, `MTU` of the
//! mechanism; the connection's MTU.
//! **On failure**: key and port of a first request are released.
//! **On close**: key and port are released when the rest is closed.
//! **Cost**: one question to the underlay a request; one key pair a connection.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nsm_api::connection::Mechanism;
use nsm_api::mechanism::{REMOTE, WIREGUARD, Wireguard as View, key};
use nsm_api::payload;

use super::filtermechanisms::is_local;
use super::tunnel::{lowest, narrow, port, remote};
use super::wireid::wire_id;
use super::xconnect::Near;
use crate::core::{Ctx, Element, Error, NetworkService, Next, Request, Result};
use crate::dataplane::underlay::{Overhead, Underlay};
use crate::dataplane::wireguard::{End, Ends, PublicKey, Site, Towards, TunnelId};

/// What the tunnels of this node have in common. Clones share it.
#[derive(Clone)]
pub struct Ours {
    /// The address that tunnels go from and to.
    pub ip: IpAddr,
    /// The keys and ports of this node.
    pub ends: Arc<dyn Ends>,
    /// What tunnels go over.
    pub underlay: Arc<dyn Underlay>,
}

/// See the [module](self).
pub struct Wireguard {
    ours: Ours,
    towards: Towards,
}

/// The ends of the connection's tunnels, released when this is dropped.
#[derive(Default)]
struct Held {
    towards_client: Option<Lease>,
    towards_endpoint: Option<Lease>,
}

struct Lease {
    ends: Arc<dyn Ends>,
    tunnel: TunnelId,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ends.release(&self.tunnel);
    }
}

impl Wireguard {
    /// Offers tunnels to other nodes.
    pub fn client(ours: Ours) -> Self {
        let towards = Towards::Endpoint;
        Self { ours, towards }
    }

    /// Answers the offers of other nodes.
    pub fn server(ours: Ours) -> Self {
        let towards = Towards::Client;
        Self { ours, towards }
    }

    fn held<R>(&self, ctx: &Ctx, change: impl FnOnce(&mut Option<Lease>) -> R) -> R {
        ctx.store().update(|held: &mut Held| {
            change(match self.towards {
                Towards::Client => &mut held.towards_client,
                Towards::Endpoint => &mut held.towards_endpoint,
            })
        })
    }

    async fn mtu(&self, remote: Option<IpAddr>) -> Result<u32> {
        let mtu = self.ours.underlay.mtu(self.ours.ip, remote).await?;
        Ok(Overhead::WIREGUARD.leaves(self.ours.ip, mtu))
    }

    fn tunnel(&self, request: &Request) -> Result<TunnelId> {
        Ok(TunnelId {
            connection: wire_id(&request.connection)?,
            towards: self.towards,
        })
    }

    /// Our end, held for the connection.
    async fn end(&self, ctx: &Ctx, request: &Request) -> Result<End> {
        let tunnel = self.tunnel(request)?;
        let end = ctx.bounded("make a key", self.ours.ends.end(&tunnel)).await?;
        self.held(ctx, |held| {
            held.get_or_insert_with(|| Lease {
                ends: Arc::clone(&self.ours.ends),
                tunnel,
            });
        });
        Ok(end)
    }

    async fn offer(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let known = request.connection.mechanism.as_ref().and_then(View::of);
        let far = known.as_ref().and_then(View::dst_ip);
        let tunnel = self.tunnel(request)?;
        let end = self.end(ctx, request).await?;
        let mtu = self.mtu(far).await?;
        let complete = |mechanism: &mut Mechanism| {
            let Some(mut wireguard) = View::of(mechanism) else {
                return;
            };
            wireguard.set_src_ip(self.ours.ip);
            wireguard.set_src_port(end.port);
            wireguard.set_src_public_key(STANDARD.encode(end.public_key));
            wireguard.set_mtu(lowest(wireguard.mtu(), mtu));
        };
        request.connection.mechanism.as_mut().map(complete);
        let mut offered = Mechanism::new(REMOTE, WIREGUARD);
        complete(&mut offered);
        request.mechanism_preferences.push(offered);
        let ahead = self.ahead(ctx, tunnel, mtu);
        let (done, ()) = tokio::join!(next.request(ctx, request), ahead);
        request.mechanism_preferences.pop();
        done?;
        let answered = request.connection.mechanism.as_ref();
        match answered.filter(|answered| answered.r#type == WIREGUARD) {
            None => drop(self.held(ctx, Option::take)),
            Some(answered) => {
                port(answered, key::DST_PORT)?;
                remote(answered, key::DST_IP, self.ours.ip)?;
                public_key(answered, key::DST_PUBLIC_KEY)?;
            }
        }
        Ok(())
    }

    /// Makes the device of a new connection while the other node is being asked, if it is known where it will be.
    async fn ahead(&self, ctx: &Ctx, tunnel: TunnelId, mtu: u32) {
        let near = ctx.call().get().filter(|_| !ctx.is_established());
        let Some(Near { netns, name }) = near else {
            return;
        };
        let site = Site { netns, name, mtu };
        self.ours.ends.prepare(&tunnel, site, ctx.deadline()).await;
    }

    /// Fills in our side of the mechanism.
    async fn complete(&self, ctx: &Ctx, request: &mut Request) -> Result<()> {
        let Some(mechanism) = &request.connection.mechanism else {
            return Ok(());
        };
        port(mechanism, key::SRC_PORT)?;
        public_key(mechanism, key::SRC_PUBLIC_KEY)?;
        let far = remote(mechanism, key::SRC_IP, self.ours.ip)?;
        let mtu = self.mtu(Some(far)).await?;
        let end = self.end(ctx, request).await?;
        let Some(mut wireguard) = request.connection.mechanism.as_mut().and_then(View::of) else {
            return Ok(());
        };
        wireguard.set_dst_ip(self.ours.ip);
        wireguard.set_dst_port(end.port);
        wireguard.set_dst_public_key(STANDARD.encode(end.public_key));
        let mtu = lowest(wireguard.mtu(), mtu);
        wireguard.set_mtu(mtu);
        narrow(&mut request.connection, mtu);
        Ok(())
    }
}

/// The public key under `key`. Errors: `bad-key`.
pub(super) fn public_key(mechanism: &Mechanism, key: &str) -> Result<PublicKey> {
    let text = mechanism.parameter(key);
    let bytes = STANDARD.decode(text).ok();
    let public_key = bytes.and_then(|bytes| PublicKey::try_from(bytes).ok());
    public_key.filter(|key| *key != [0; 32]).ok_or_else(|| {
        let text =
            format!("{key} of the WireGuard tunnel is {text:?}, which is no public key: base64 of 32 bytes");
        Error::invalid("bad-key", text)
    })
}

#[async_trait]
impl Element<NetworkService> for Wireguard {
    fn name(&self) -> &'static str {
        "wireguard"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        match self.towards {
            Towards::Client => {
                self.complete(ctx, request).await?;
                next.request(ctx, request).await
            }
            Towards::Endpoint if request.connection.payload == payload::IP && is_local(ctx) != Some(true) => {
                self.offer(ctx, request, next).await
            }
            Towards::Endpoint => {
                next.request(ctx, request).await?;
                drop(self.held(ctx, Option::take));
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
