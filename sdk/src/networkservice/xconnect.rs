// SPDX-License-Identifier: Apache-2.0
//! Makes the wire between a client and an endpoint, or what of it is on this node, once both have said where and how.
//!
//! **Guarantees**: when a request succeeds, the wire is as the answered connection says. A refresh in which nothing
//! has changed is left to the data plane, which touches nothing then.
//! **Placement**: in a forwarder, before the server half of `mechanisms` and everything that calls the endpoint, so
//! that it acts when they have answered.
//! **Reads / writes**: reads the connection, its mechanism and [`Downstream`]; writes [`Near`] into [`Ctx::call`], and
//! the metrics of our path segment: the interface at each end, and what has gone through it as far as was read last,
//! seen from the wire (`rx` came from the pod). A refresh has the counters read anew for the next one, and does not wait
//! for it.
//! **On failure**: what is new is undone by the data plane, and what an earlier life of the program left of it goes too,
//! since the endpoint is told to close; a failed refresh leaves the wire as it was, unless it was
//! to lead to another endpoint: then the wire is gone, since the endpoint that the connection leaves may give its
//! addresses to others. Until the other endpoint has answered the wire to the former one carries packets, for at most
//! [`OVERLAP`].
//! **On close**: the wire is removed, then the rest is closed, also when the removal fails.
//! **Cost**: one call of the data plane; another in the background for each refresh, at most every 5 s.

mod counts;
mod plane;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nsm_api::mechanism::Kernel;
use tokio::time::timeout;
use tracing::debug;

use super::files;
use super::mechanismtranslation::Downstream;
use crate::core::{Ctx, Element, Error, Message, NetworkService, Next, Request, Result};
use crate::dataplane::Counters;
use counts::Counts;

pub use plane::{Part, Planes};
pub use wire::part;

/// How long a wire is kept to an endpoint that its connection has left, while another one is asked.
pub const OVERLAP: Duration = Duration::from_secs(1);

/// See the [module](self).
pub struct XConnect {
    planes: Planes,
    counts: Counts,
}

/// Left in [`Ctx::call`] for whoever can make something ahead: where the client's end of a first wire will be.
#[derive(Clone)]
pub(super) struct Near {
    /// A file from which the client's network namespace can be opened.
    pub(super) netns: PathBuf,
    /// The interface's name.
    pub(super) name: String,
}

impl Near {
    fn of(request: &Request) -> Option<Self> {
        let kernel = request.connection.mechanism.as_ref().and_then(Kernel::of)?;
        Some(Self {
            netns: files::path(kernel.netns_url())?,
            name: kernel.interface_name().to_string(),
        })
    }
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
        if done.is_err() && before.is_none() {
            self.forsake(ctx, &wire).await;
        }
        done.map(|()| wire)
    }

    /// Removes what an earlier life of this program may have left of a wire that could not be made: the endpoint is told
    /// to close, and may give its addresses to others.
    async fn forsake(&self, ctx: &Ctx, wire: &Part) {
        let ctx = ctx.postponed();
        let removed = ctx.bounded("remove what was left of the wire", self.planes.disconnect(wire));
        if let Err(error) = removed.await {
            debug!(%error, "what an earlier life left of a wire may stay until its time has passed");
        }
    }

    /// Asks the endpoint, and makes the wire to it.
    async fn lead(
        &self,
        ctx: &Ctx,
        request: &mut Request,
        next: Next<'_, NetworkService>,
    ) -> Result<Arc<Part>> {
        next.request(ctx, request).await?;
        self.make(ctx, request).await
    }

    /// The same when the connection goes on to another endpoint than that of its wire, at which it is closed meanwhile.
    async fn move_on(
        &self,
        ctx: &Ctx,
        request: &mut Request,
        next: Next<'_, NetworkService>,
    ) -> Result<Arc<Part>> {
        let answered = {
            let mut asked = std::pin::pin!(next.request(ctx, request));
            match timeout(OVERLAP, &mut asked).await {
                Ok(answered) => answered,
                Err(_) => {
                    self.leave(ctx).await?;
                    asked.await
                }
            }
        };
        let done = match answered {
            Ok(()) => self.make(ctx, request).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.leave(ctx).await?;
        }
        done
    }

    /// Removes the wire to an endpoint at which the connection is closed.
    async fn leave(&self, ctx: &Ctx) -> Result<()> {
        let Some(wire) = ctx.store().get::<Made>().and_then(|made| made.wire) else {
            return Ok(());
        };
        ctx.postponed()
            .bounded("remove the wire", self.planes.disconnect(&wire))
            .await?;
        ctx.store().take::<Made>();
        self.counts.forget(ctx);
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
        set(&mut segment.metrics, "server_interface", &client);
        set(&mut segment.metrics, "client_interface", &endpoint);
        let (client, endpoint) = self.counts.last(ctx);
        count(&mut segment.metrics, SERVER, &client);
        count(&mut segment.metrics, CLIENT, &endpoint);
        if ctx.is_established() {
            self.counts.renew(ctx, &self.planes, wire);
        }
    }
}

/// The names that the counters of each end have: what was received and sent, in bytes and packets, and what was lost.
const SERVER: [&str; 5] = [
    "server_rx_bytes",
    "server_tx_bytes",
    "server_rx_packets",
    "server_tx_packets",
    "server_drops",
];
const CLIENT: [&str; 5] = [
    "client_rx_bytes",
    "client_tx_bytes",
    "client_rx_packets",
    "client_tx_packets",
    "client_drops",
];

/// Tells the counters of a pod's end from the wire's point of view: what the pod has sent the wire has received.
fn count(metrics: &mut BTreeMap<String, String>, names: [&'static str; 5], pod: &Counters) {
    let values = [
        pod.tx_bytes,
        pod.rx_bytes,
        pod.tx_packets,
        pod.rx_packets,
        pod.drops,
    ];
    for (name, value) in names.into_iter().zip(values) {
        set(metrics, name, &value.to_string());
    }
}

/// Sets what the path may have already, as hops of others send it with each refresh.
fn set(metrics: &mut BTreeMap<String, String>, name: &str, value: &str) {
    match metrics.get_mut(name) {
        Some(told) if told == value => {}
        Some(told) => value.clone_into(told),
        None => drop(metrics.insert(name.into(), value.into())),
    }
}

#[async_trait]
impl Element<NetworkService> for XConnect {
    fn name(&self) -> &'static str {
        "xconnect"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let made = ctx.store().get::<Made>().filter(|made| made.wire.is_some());
        if made.is_none()
            && let Some(near) = Near::of(request)
        {
            ctx.call().insert(near);
        }
        let endpoint = &request.connection.network_service_endpoint_name;
        let wire = match made.is_some_and(|made| made.endpoint != *endpoint) {
            true => self.move_on(ctx, request, next).await?,
            false => self.lead(ctx, request, next).await?,
        };
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
