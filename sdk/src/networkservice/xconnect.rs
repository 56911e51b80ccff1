// SPDX-License-Identifier: Apache-2.0
//! Makes the wire between a client and an endpoint, or what of it is on this node, once both have said where and how.
//!
//! **Guarantees**: when a request succeeds, the wire is as the answered connection says. A refresh in which nothing
//! has changed is left to the data plane, which touches nothing then.
//! **Placement**: in a forwarder, before the server half of `mechanisms` and everything that calls the endpoint, so
//! that it acts when they have answered.
//! **Reads / writes**: reads the connection, its mechanism and [`Downstream`]; writes the metrics of our path
//! segment: the interface at each end, and what has gone through it as far as was read last, seen from the wire (`rx`
//! came from the pod). A refresh has the counters read anew for the next one, and does not wait for it.
//! **On failure**: what is new is undone by the data plane; a failed refresh leaves the wire as it was, unless it was
//! to lead to another endpoint: then the wire is gone.
//! **On close**: the wire is removed, then the rest is closed, also when the removal fails.
//! **Cost**: one call of the data plane; another in the background for each refresh, at most every 5 s.

mod counts;
mod plane;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::mechanismtranslation::Downstream;
use crate::core::{Ctx, Element, Error, Message, NetworkService, Next, Request, Result};
use crate::dataplane::Counters;
use counts::Counts;

pub use plane::{Part, Planes};
pub use wire::part;

/// See the [module](self).
pub struct XConnect {
    planes: Planes,
    counts: Counts,
}

/// The wire of the connection.
#[derive(Clone, Default)]
struct Made {
    /// The endpoint that it leads to.
    endpoint: String,
    /// As the last successful request made it.
    wire: Option<Arc<Part>>,
    /// As a request that has not ended wants it.
    wanted: Option<Arc<Part>>,
}

impl XConnect {
    /// Lets `planes` make the wires.
    pub fn new(planes: &Planes) -> Self {
        Self {
            planes: planes.clone(),
            counts: Counts::new(),
        }
    }

    async fn make(&self, ctx: &Ctx, request: &Request) -> Result<Arc<Part>> {
        let Some(Downstream(downstream)) = ctx.store().get() else {
            let text = "the endpoint has answered without a mechanism, so that no wire can be made to it";
            return Err(Error::invalid("unsupported-mechanism", text));
        };
        let wire = Arc::new(part(&request.connection, &downstream)?);
        let before = ctx.store().update(|made: &mut Made| {
            made.wanted = Some(Arc::clone(&wire));
            made.wire.clone()
        });
        let done = self
            .planes
            .connect(&wire, before.as_deref(), ctx.deadline())
            .await;
        ctx.store().update(|made: &mut Made| {
            made.wanted = None;
            if done.is_ok() {
                made.wire = Some(Arc::clone(&wire));
                made.endpoint
                    .clone_from(&request.connection.network_service_endpoint_name);
            }
        });
        done.map(|()| wire)
    }

    /// Removes the wire when the connection goes on to another endpoint: the elements behind close it at the one that
    /// it leaves, which may then give its addresses to others, whatever becomes of the request.
    async fn leave(&self, ctx: &Ctx, endpoint: &str) -> Result<()> {
        let made = ctx.store().get::<Made>().unwrap_or_default();
        if let Some(wire) = made.wire.filter(|_| made.endpoint != endpoint) {
            ctx.bounded("remove the wire", self.planes.disconnect(&wire))
                .await?;
            ctx.store().take::<Made>();
            self.counts.forget(ctx);
        }
        Ok(())
    }

    /// Tells in our segment of the path which interfaces there are and what went through them.
    fn tell(&self, ctx: &Ctx, request: &mut Request, wire: &Arc<Part>) {
        let path = request.path_mut();
        let at = usize::try_from(path.index).unwrap_or(usize::MAX);
        let Some(segment) = path.path_segments.get_mut(at) else {
            return;
        };
        let [client, endpoint] = wire.names();
        segment.metrics.insert("server_interface".into(), client);
        segment.metrics.insert("client_interface".into(), endpoint);
        let (client, endpoint) = self.counts.last(ctx);
        count(&mut segment.metrics, "server", &client);
        count(&mut segment.metrics, "client", &endpoint);
        if ctx.is_established() {
            self.counts.renew(ctx, &self.planes, wire);
        }
    }
}

/// Tells the counters of a pod's end from the wire's point of view: what the pod has sent the wire has received.
fn count(metrics: &mut BTreeMap<String, String>, side: &str, pod: &Counters) {
    for (name, value) in [
        ("rx_bytes", pod.tx_bytes),
        ("tx_bytes", pod.rx_bytes),
        ("rx_packets", pod.tx_packets),
        ("tx_packets", pod.rx_packets),
        ("drops", pod.drops),
    ] {
        metrics.insert(format!("{side}_{name}"), value.to_string());
    }
}

#[async_trait]
impl Element<NetworkService> for XConnect {
    fn name(&self) -> &'static str {
        "xconnect"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.leave(ctx, &request.connection.network_service_endpoint_name)
            .await?;
        next.request(ctx, request).await?;
        let wire = self.make(ctx, request).await?;
        self.tell(ctx, request, &wire);
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let made = ctx.store().get::<Made>().unwrap_or_default();
        let mut removed = Ok(());
        for wire in [made.wanted, made.wire].into_iter().flatten() {
            let share = ctx.within(ctx.remaining() / 2);
            let done = share
                .bounded("remove the wire", self.planes.disconnect(&wire))
                .await;
            removed = removed.and(done);
        }
        self.counts.forget(ctx);
        if removed.is_ok() {
            ctx.store().take::<Made>();
        }
        let closed = next.close(ctx, request).await;
        removed.and(closed)
    }
}

#[cfg(test)]
mod tests;
