// SPDX-License-Identifier: Apache-2.0
//! Finds the endpoint that the request names, or those that serve what it asks for and fit its labels.
//!
//! **Guarantees**: behind it either the URL of the named endpoint is chosen, or at least one candidate is known.
//! Expired endpoints are none. An established connection is refreshed also while the registry is away.
//! **Placement**: before `roundrobin`, which chooses among the candidates, and `dial`.
//! **Reads / writes**: writes [`NextUrl`] for a named endpoint, unless an element before it has chosen already;
//! otherwise [`Candidates`] into [`Ctx::call`] and the service's payload into the connection.
//! **On close**: the endpoint is looked up only if no way to it is known; the close goes on without.
//! **Cost**: one or two look-ups in the registry a request.

use async_trait::async_trait;
use nsm_api::matching;
use nsm_api::registry::NetworkServiceEndpoint;
use tracing::debug;

use super::lookup::{Candidate, Registries, can_do_without, lookup_time};
use crate::core::{Ctx, Element, Error, NetworkService, Next, Request, Result, Way};
use crate::elements::clienturl::NextUrl;

/// The endpoints among which `roundrobin` may choose, in order of preference. Lives in [`Ctx::call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates(pub(super) Vec<Candidate>);

/// See the [module](self).
pub struct Discover(Registries);

impl Discover {
    /// Asks this registry.
    pub fn new(registries: Registries) -> Self {
        Self(registries)
    }

    async fn choose(&self, ctx: &Ctx, request: &mut Request) -> Result<()> {
        let name = &request.connection.network_service_endpoint_name;
        if !name.is_empty() {
            let found = self.0.endpoint(&lookup_time(ctx), name).await;
            match found {
                Ok(endpoint) => drop(ctx.call().insert(NextUrl(endpoint.url))),
                Err(error) if can_do_without(ctx, &error) => debug!(%error, "refreshing without a look-up"),
                Err(error) => return Err(error),
            }
            return Ok(());
        }
        let service = self.0.service(ctx, request).await?;
        let wanted = NetworkServiceEndpoint {
            network_service_names: vec![service.name.clone()],
            ..Default::default()
        };
        let found = self.0.endpoints(ctx, wanted).await?;
        let labels = &request.connection.labels;
        let chosen = matching::endpoints(labels, &service, &found);
        let candidates: Vec<_> = chosen
            .iter()
            .filter_map(|endpoint| Candidate::of(endpoint).ok())
            .collect();
        if candidates.is_empty() {
            let text = format!(
                "network service endpoint candidates not found: of {} endpoints of {} none has a URL and fits a \
                 client labelled {labels:?}",
                found.len(),
                service.name
            );
            return Err(Error::not_found("no-endpoint", text));
        }
        request.connection.payload = service.payload;
        ctx.call().insert(Candidates(candidates));
        Ok(())
    }
}

#[async_trait]
impl Element<NetworkService> for Discover {
    fn name(&self) -> &'static str {
        "discover"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if !ctx.call().has::<NextUrl>() {
            self.choose(ctx, request).await?;
        }
        next.request(ctx, request).await
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let name = &request.connection.network_service_endpoint_name;
        let known = ctx.call().has::<NextUrl>() || ctx.store().has::<Way<NetworkService>>();
        if !known && !name.is_empty() {
            match self.0.endpoint(&lookup_time(ctx), name).await {
                Ok(endpoint) => drop(ctx.call().insert(NextUrl(endpoint.url))),
                Err(error) => debug!(%error, "closing without a look-up"),
            }
        }
        next.close(ctx, request).await
    }
}

#[cfg(test)]
mod tests;
