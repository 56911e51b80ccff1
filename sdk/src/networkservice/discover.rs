// SPDX-License-Identifier: Apache-2.0
//! Finds the endpoint that the request names, or those that serve what it asks for and fit its labels.
//!
//! **Guarantees**: behind it either the URL of the named endpoint is chosen, or at least one candidate is known.
//! Expired endpoints are none. An established connection is refreshed also while the registry is away. When the chosen
//! endpoint is a [supplier](super::supply) that has had another one started, the choice is made again, once.
//! **Placement**: before `roundrobin`, which chooses among the candidates, and `dial`.
//! **Reads / writes**: writes [`NextUrl`] for a named endpoint, unless an element before it has chosen already;
//! otherwise [`Candidates`] into [`Ctx::call`]. The service's payload into the connection, of a named endpoint if the
//! connection has none.
//! **On failure**: when the endpoint is gone that has answered before, and there is another one, the reason is [`LOST`].
//! **On close**: the endpoint is looked up only if no way to it is known; the close goes on without.
//! **Cost**: one or two look-ups in the registry a request; a copy of one that names no endpoint.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use nsm_api::connection::Connection;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::lookup::{Candidate, MAX_FOUND, Registries, can_do_without, lookup_time};
use super::supply::SUPPLIED;
use crate::core::{Backoff, Ctx, Element, Error, Message, NetworkService, Next, Request, Result, Way};
use crate::elements::clienturl::NextUrl;

/// The reason of an error that tells a client that its endpoint is gone and that there is another one: to reselect
/// helps, and to ask again does not.
pub const LOST: &str = "endpoint-lost";

/// How long it may take until we know of an endpoint that a supplier knows of, and how often we look meanwhile.
const TO_BE_KNOWN: Duration = Duration::from_secs(2);
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(200);

/// The endpoints among which `roundrobin` may choose, in order of preference. Lives in [`Ctx::call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates(pub(super) Vec<Candidate>);

/// See the [module](self).
pub struct Discover {
    registries: Registries,
    /// Whether it was told that there are more endpoints than are tried.
    is_told: AtomicBool,
}

impl Discover {
    /// Asks this registry.
    pub fn new(registries: Registries) -> Self {
        Self {
            registries,
            is_told: AtomicBool::new(false),
        }
    }

    /// Whether the service has an endpoint for this client besides the one that the request names.
    async fn has_another(&self, ctx: &Ctx, request: &Request) -> bool {
        let ctx = lookup_time(ctx);
        let found = async {
            let service = self.registries.service(&ctx, request).await?;
            let labels = &request.connection.labels;
            let named = &request.connection.network_service_endpoint_name;
            let chosen = self.registries.chosen(&ctx, labels, &service).await?;
            Ok::<_, Error>(chosen.endpoints.iter().any(|endpoint| endpoint.name != *named))
        };
        found.await.unwrap_or_default()
    }

    /// Says what the wire carries where the request, which names its endpoint, does not.
    async fn carry(&self, ctx: &Ctx, request: &mut Request) {
        if request.connection.payload.is_empty() {
            match self.registries.service(&lookup_time(ctx), request).await {
                Ok(service) => request.connection.payload = service.payload,
                Err(error) => debug!(%error, "nobody knows what the service carries"),
            }
        }
    }

    /// Chooses again, once others are there than `before`: a supplier has told so, and our registry may learn of it
    /// later than the supplier's. Errors: `told`, when it does not.
    async fn supplied(
        &self,
        ctx: &Ctx,
        request: &mut Request,
        before: Option<Candidates>,
        told: Error,
    ) -> Result<()> {
        let until = Instant::now() + TO_BE_KNOWN;
        let mut backoff = Backoff::new(FIRST_LOOK, LAST_LOOK);
        loop {
            self.choose(ctx, request).await?;
            if ctx.call().get::<Candidates>() != before {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(told);
            }
            let pause = backoff.next(ctx.component());
            let waited = async {
                sleep(pause).await;
                Ok(())
            };
            ctx.bounded("find the endpoint that was started", waited).await?;
        }
    }

    async fn choose(&self, ctx: &Ctx, request: &mut Request) -> Result<()> {
        let name = &request.connection.network_service_endpoint_name;
        if !name.is_empty() {
            let found = self.registries.endpoint(&lookup_time(ctx), name).await;
            match found {
                Ok(endpoint) => drop(ctx.call().insert(NextUrl(endpoint.url))),
                Err(error) if can_do_without(ctx, &error) => debug!(%error, "refreshing without a look-up"),
                Err(error) => return Err(error),
            }
            self.carry(ctx, request).await;
            return Ok(());
        }
        let service = self.registries.service(ctx, request).await?;
        let labels = &request.connection.labels;
        let chosen = self.registries.chosen(ctx, labels, &service).await?;
        if chosen.left_out > 0 && !self.is_told.swap(true, Ordering::Relaxed) {
            warn!(
                service = service.name,
                left_out = chosen.left_out,
                "more than {MAX_FOUND} endpoints fit one client; the rest gets no clients from here: let matches tell them apart"
            );
        }
        let candidates: Vec<_> = chosen
            .endpoints
            .iter()
            .filter_map(|endpoint| Candidate::of(endpoint).ok())
            .collect();
        if candidates.is_empty() {
            let text = format!(
                "network service endpoint candidates not found: of {} endpoints of {} none has a URL and fits a \
                 client labelled {labels:?}",
                chosen.found, service.name
            );
            return Err(Error::not_found("no-endpoint", text));
        }
        request.connection.payload = service.payload;
        ctx.call().insert(Candidates(candidates));
        Ok(())
    }
}

/// What of a request decides which endpoints it may have.
fn who_asks(request: &Request) -> Request {
    Request {
        connection: Connection {
            network_service: request.connection.network_service.clone(),
            network_service_endpoint_name: request.connection.network_service_endpoint_name.clone(),
            labels: request.connection.labels.clone(),
            payload: request.connection.payload.clone(),
            ..Default::default()
        },
        ..Default::default()
    }
}

/// Whether the request repeats one that an endpoint has answered before, which it names.
fn had_endpoint(request: &Request) -> bool {
    let (name, path) = (&request.connection.network_service_endpoint_name, request.path());
    let count = u32::try_from(path.path_segments.len()).unwrap_or(u32::MAX);
    !name.is_empty() && count > path.index.saturating_add(1)
}

/// Whether the named endpoint is gone: it is not registered any more, or nobody listens there.
fn is_lost(error: &Error) -> bool {
    let is_ours = error.place() != Some("connect");
    is_ours && matches!(error.reason(), "no-endpoint" | "peer-unreachable")
}

#[async_trait]
impl Element<NetworkService> for Discover {
    fn name(&self) -> &'static str {
        "discover"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if ctx.call().has::<NextUrl>() {
            return next.request(ctx, request).await;
        }
        let lost = had_endpoint(request).then(|| who_asks(request));
        let is_open = request.connection.network_service_endpoint_name.is_empty();
        let asked = is_open.then(|| request.clone());
        let chosen = self.choose(ctx, request).await;
        let before = ctx.call().get::<Candidates>();
        let done = match chosen {
            Ok(()) => next.request(ctx, request).await,
            Err(error) => Err(error),
        };
        let done = match (done, asked) {
            (Err(error), Some(asked)) if error.reason() == SUPPLIED => {
                *request = asked;
                match self.supplied(ctx, request, before, error).await {
                    Ok(()) => next.request(ctx, request).await,
                    Err(error) => Err(error),
                }
            }
            (done, _) => done,
        };
        match (done, lost) {
            (Err(error), Some(lost)) if is_lost(&error) && self.has_another(ctx, &lost).await => {
                Err(error.because(LOST))
            }
            (done, _) => done,
        }
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let name = &request.connection.network_service_endpoint_name;
        let known = ctx.call().has::<NextUrl>() || ctx.store().has::<Way<NetworkService>>();
        if !known && !name.is_empty() {
            match self.registries.endpoint(&lookup_time(ctx), name).await {
                Ok(endpoint) => drop(ctx.call().insert(NextUrl(endpoint.url))),
                Err(error) => debug!(%error, "closing without a look-up"),
            }
        }
        next.close(ctx, request).await
    }
}

#[cfg(test)]
mod tests;
