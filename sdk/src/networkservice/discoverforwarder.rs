// SPDX-License-Identifier: Apache-2.0
//! Chooses the forwarder of this node that makes the wire, and tries the next when one fails.
//!
//! **Guarantees**: only forwarders that registered through this manager and that the service's matches allow are
//! tried, each with at least half of the time that is left. A connection stays with its forwarder until it is
//! reselected, or that one is registered no more: then another takes the wire over, as pods of a DaemonSet follow one
//! another under names of their own. An established connection is refreshed also while the registry is away.
//! **Placement**: in a manager, behind `clientinfo`, before `dial`.
//! **Reads / writes**: writes [`NextUrl`]. Reads the name of the next path segment: who has made the wire already
//! goes first.
//! **On failure**: the failures of all forwarders in one error.
//! **On close**: the forwarder is looked up only if no way to it is known; the close goes on without.
//! **Cost**: two look-ups in the registry a request; a copy of the request a forwarder.

use async_trait::async_trait;
use nsm_api::connection::State;
use nsm_api::matching;
use nsm_api::registry::{NetworkService as RegisteredService, NetworkServiceEndpoint};
use tracing::debug;

use super::attempts::{Failures, share};
use super::lookup::{Candidate, Registries, can_do_without, lookup_time};
use crate::core::{Ctx, Element, Error, Message, NetworkService, Next, Request, Result, Way};
use crate::elements::clienturl::NextUrl;

/// The service under which forwarders register, unless configured otherwise.
pub const FORWARDER_SERVICE: &str = "forwarder";

/// See the [module](self).
pub struct DiscoverForwarder {
    registries: Registries,
    service: String,
    url: String,
}

/// The forwarder of the connection.
#[derive(Clone)]
struct Remembered(String);

impl DiscoverForwarder {
    /// Asks `registries` for forwarders that serve `service` and registered through the manager at `url`.
    pub fn new(registries: Registries, service: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            registries,
            service: service.into(),
            url: url.into(),
        }
    }

    /// The forwarders that may be tried, in order.
    async fn candidates(&self, ctx: &Ctx, request: &Request, remembered: &str) -> Result<Vec<Candidate>> {
        let service = self.registries.service(ctx, request).await?;
        let (mut found, mut candidates) = self.allowed(ctx, request, &service, remembered).await?;
        if candidates.is_empty() && !remembered.is_empty() {
            (found, candidates) = self.allowed(ctx, request, &service, "").await?;
        }
        if candidates.is_empty() {
            return Err(match remembered.is_empty() {
                true => self.none(found, &service.name),
                false => {
                    let text = format!("forwarder {remembered} is not available");
                    Error::not_found("no-forwarder", text)
                }
            });
        }
        if remembered.is_empty() && request.connection.state() != State::ReselectRequested {
            let before = following(request);
            if let Some(at) = candidates
                .iter()
                .position(|candidate| Some(&*candidate.name) == before)
            {
                candidates.swap(0, at);
            }
        }
        Ok(candidates)
    }

    /// How many forwarders there are, and those that the service allows; only the one of this name, if there is one.
    async fn allowed(
        &self,
        ctx: &Ctx,
        request: &Request,
        service: &RegisteredService,
        name: &str,
    ) -> Result<(usize, Vec<Candidate>)> {
        let wanted = NetworkServiceEndpoint {
            name: name.to_string(),
            network_service_names: vec![self.service.clone()],
            url: self.url.clone(),
            ..Default::default()
        };
        let mut found = self.registries.endpoints(ctx, wanted).await?;
        // Registries match a part of the URL, and who registered through us is found under a URL of its own: what
        // still has ours in its URL is of another manager, or lost.
        found.retain(|forwarder| !forwarder.url.contains(&self.url));
        found.retain(|forwarder| name.is_empty() || forwarder.name == name);
        let allowed = matching::forwarders(&request.connection.labels, service, &self.service, &found);
        let candidates = allowed
            .iter()
            .filter_map(|forwarder| Candidate::of(forwarder).ok())
            .collect();
        Ok((found.len(), candidates))
    }

    fn none(&self, found: usize, service: &str) -> Error {
        let text = format!(
            "no candidates found: of {found} forwarders that registered as {} through {} none is allowed by the \
             matches of network service {service}",
            self.service, self.url
        );
        Error::not_found("no-forwarder", text)
    }

    async fn attempt(
        &self,
        ctx: &Ctx,
        request: &mut Request,
        next: Next<'_, NetworkService>,
        candidates: &[Candidate],
    ) -> Result<()> {
        let mut failures = Failures::default();
        for (at, candidate) in candidates.iter().enumerate() {
            let more = candidates.len() - at - 1;
            let Some(ctx) = share(ctx, more) else {
                break;
            };
            let ctx = ctx.attempt();
            ctx.call().insert(NextUrl(candidate.url.clone()));
            let asked = (more > 0).then(|| request.clone());
            match next.request(&ctx, request).await {
                Ok(()) => {
                    ctx.store().insert(Remembered(candidate.name.clone()));
                    return Ok(());
                }
                Err(error) => {
                    let told = format!(
                        "{at}. An error during select forwarder {} --> {error}",
                        candidate.name
                    );
                    failures.add(told, error);
                    if let Some(asked) = asked {
                        *request = asked;
                    }
                }
            }
        }
        let none = || {
            Error::unavailable(
                "no-forwarder",
                "all forwarders have failed: there was no time to try one",
            )
        };
        Err(failures
            .into_error("all forwarders have failed")
            .unwrap_or_else(none))
    }
}

/// The name of the hop behind ours, as an earlier request has left it in the path.
fn following(request: &Request) -> Option<&str> {
    let path = request.path();
    let at = usize::try_from(path.index).ok()?.checked_add(1)?;
    path.path_segments.get(at).map(|segment| &*segment.name)
}

#[async_trait]
impl Element<NetworkService> for DiscoverForwarder {
    fn name(&self) -> &'static str {
        "discoverforwarder"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if ctx.call().has::<NextUrl>() {
            return next.request(ctx, request).await;
        }
        let remembered = match request.connection.state() {
            State::ReselectRequested => None,
            _ => ctx.store().get::<Remembered>(),
        };
        let name = remembered.map(|Remembered(name)| name).unwrap_or_default();
        match self.candidates(&lookup_time(ctx), request, &name).await {
            Ok(candidates) => self.attempt(ctx, request, next, &candidates).await,
            Err(error) if !name.is_empty() && can_do_without(ctx, &error) => {
                debug!(%error, forwarder = name, "refreshing without a look-up");
                next.request(ctx, request).await
            }
            Err(error) => Err(error),
        }
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if !ctx.call().has::<NextUrl>() && !ctx.store().has::<Way<NetworkService>>() {
            let remembered = ctx.store().get::<Remembered>().map(|Remembered(name)| name);
            let name = remembered.or_else(|| following(request).map(str::to_string));
            if let Some(name) = name.filter(|name| !name.is_empty()) {
                match self.registries.endpoint(&lookup_time(ctx), &name).await {
                    Ok(forwarder) => drop(ctx.call().insert(NextUrl(forwarder.url))),
                    Err(error) => debug!(%error, "closing without a look-up"),
                }
            }
        }
        next.close(ctx, request).await
    }
}

#[cfg(test)]
mod tests;
