// SPDX-License-Identifier: Apache-2.0
//! Asks the registry for services and endpoints.

use std::collections::VecDeque;
use std::time::SystemTime;

use futures::StreamExt;
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceQuery,
};

use crate::core::{
    Api, Chain, Ctx, Error, NetworkService, NsRegistry, NseRegistry, Request, Result, Retry, Store, Way,
};

/// How many endpoints of one service are looked at.
pub const MAX_FOUND: usize = 4096;

/// How many look-ups of one connection stay as they were left: more than one request makes.
const HELD: usize = 8;

/// What the last look-ups of a connection hold for it: the sockets of found endpoints stay open there, for whoever
/// dials them.
#[derive(Default)]
struct Held(VecDeque<Store>);

/// The registry, as a component calls it.
#[derive(Clone)]
pub struct Registries {
    /// Knows services.
    pub services: Chain<NsRegistry>,
    /// Knows endpoints.
    pub endpoints: Chain<NseRegistry>,
}

/// What the other end of a URL is called, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) url: String,
}

impl Registries {
    /// The service that the request asks for, with its payload if it names one.
    ///
    /// Errors: `no-service`, and those of the registry.
    pub(super) async fn service(&self, ctx: &Ctx, request: &Request) -> Result<Service> {
        let name = &request.connection.network_service;
        let payload = request.connection.payload.clone();
        let network_service = Some(Service {
            name: name.clone(),
            payload,
            ..Default::default()
        });
        let query = NetworkServiceQuery {
            network_service,
            watch: false,
        };
        let found = find(ctx, &self.services, query, |found| {
            (
                found
                    .network_service
                    .filter(|service| service.name == *name && !found.deleted),
                true,
            )
        });
        let found = found
            .await
            .map_err(|error| error.context(format!("failed to find network service {name}")))?;
        found.into_iter().next().ok_or_else(|| {
            Error::not_found(
                "no-service",
                format!("network service {name} is not found; register it first"),
            )
        })
    }

    /// The endpoints that match and have not expired, in the registry's order.
    pub(super) async fn endpoints(
        &self,
        ctx: &Ctx,
        wanted: NetworkServiceEndpoint,
    ) -> Result<Vec<NetworkServiceEndpoint>> {
        let what = format!(
            "failed to find endpoints {:?} of {:?}",
            wanted.name, wanted.network_service_names
        );
        let now = ctx.component().now();
        let query = NetworkServiceEndpointQuery {
            network_service_endpoint: Some(wanted),
            watch: false,
        };
        let found = find(ctx, &self.endpoints, query, |found| {
            (
                found
                    .network_service_endpoint
                    .filter(|endpoint| is_alive(endpoint, now) && !found.deleted),
                false,
            )
        });
        found.await.map_err(|error| error.context(what))
    }

    /// The endpoint with exactly this name.
    ///
    /// Errors: `no-endpoint`, `bad-url`, and those of the registry.
    pub(super) async fn endpoint(&self, ctx: &Ctx, name: &str) -> Result<Candidate> {
        let wanted = NetworkServiceEndpoint {
            name: name.to_string(),
            ..Default::default()
        };
        let found = self
            .endpoints(ctx, wanted)
            .await?
            .into_iter()
            .find(|endpoint| endpoint.name == name);
        let found = found.ok_or_else(|| {
            Error::not_found(
                "no-endpoint",
                format!("network service endpoint {name} not found"),
            )
        })?;
        Candidate::of(&found)
    }
}

/// Whether the endpoint has not expired.
pub fn is_alive(endpoint: &NetworkServiceEndpoint, now: SystemTime) -> bool {
    let expires = endpoint.expiration_time;
    let expires = expires.and_then(|time| SystemTime::try_from(time).ok());
    expires.is_none_or(|expires| now < expires)
}

/// Whether the endpoint can be dialled. Errors: `bad-url`.
pub fn is_dialable(endpoint: &NetworkServiceEndpoint) -> Result<()> {
    Candidate::of(endpoint).map(drop)
}

impl Candidate {
    /// Errors: `bad-url`.
    pub(super) fn of(endpoint: &NetworkServiceEndpoint) -> Result<Self> {
        let (name, url) = (endpoint.name.clone(), endpoint.url.trim().to_string());
        if url.is_empty() {
            let text = format!(
                "failed to parse url of endpoint {name}: it is empty; register the endpoint with one"
            );
            return Err(Error::invalid("bad-url", text));
        }
        Ok(Self { name, url })
    }
}

/// Everything that `pick` picks from what is found, until it says that this is enough.
async fn find<A: Api, T>(
    ctx: &Ctx,
    registry: &Chain<A>,
    query: A::Query,
    pick: impl Fn(A::Found) -> (Option<T>, bool),
) -> Result<Vec<T>> {
    // The look-up is a call of its own: what its elements tell each other does not concern the connection, and what
    // they keep is only held for it.
    let own = Ctx::own(ctx.component(), ctx.remaining());
    let oldest = ctx.store().update(|held: &mut Held| {
        held.0.push_back(own.store().clone());
        held.0.len().gt(&HELD).then(|| held.0.pop_front())
    });
    drop(oldest);
    let found = async {
        let mut stream = registry.find(&own, query).await?;
        let mut all = Vec::new();
        while let Some(item) = stream.next().await {
            let (picked, enough) = pick(item?);
            let enough = enough && picked.is_some();
            all.extend(picked);
            if enough || all.len() >= MAX_FOUND {
                break;
            }
        }
        Ok(all)
    };
    ctx.bounded("ask the registry", found).await
}

/// Time for a look-up of a connection: an established one does without when the registry hangs.
pub(super) fn lookup_time(ctx: &Ctx) -> Ctx {
    match ctx.is_established() {
        true => ctx.within(ctx.remaining() / 2),
        false => ctx.clone(),
    }
}

/// Whether the connection can be refreshed although the registry gave no answer: the way that it has taken is still
/// known.
pub(super) fn can_do_without(ctx: &Ctx, error: &Error) -> bool {
    let unanswered = error.retry() != Retry::Never && error.code() != tonic::Code::NotFound;
    unanswered && ctx.is_established() && ctx.store().has::<Way<NetworkService>>()
}

#[cfg(test)]
pub(super) mod testing {
    use std::sync::Arc;

    use nsm_api::registry::{NetworkServiceEndpointResponse, NetworkServiceLabels, NetworkServiceResponse};

    use super::*;
    use crate::core::testing::Probe;

    /// A registry that answers every query with everything that it has.
    pub(crate) struct Registry {
        pub(crate) services: Arc<Probe<NsRegistry>>,
        pub(crate) endpoints: Arc<Probe<NseRegistry>>,
    }

    impl Registry {
        pub(crate) fn new(services: Vec<Service>, endpoints: Vec<NetworkServiceEndpoint>) -> Self {
            let registry = Self {
                services: Probe::new(),
                endpoints: Probe::new(),
            };
            registry
                .services
                .find(services.into_iter().map(told_service).collect());
            registry.tell(endpoints);
            registry
        }

        pub(crate) fn tell(&self, endpoints: Vec<NetworkServiceEndpoint>) {
            let told = |endpoint| NetworkServiceEndpointResponse {
                network_service_endpoint: Some(endpoint),
                deleted: false,
            };
            self.endpoints.find(endpoints.into_iter().map(told).collect());
        }

        pub(crate) fn chains(&self) -> Registries {
            Registries {
                services: Chain::new(vec![Arc::new(Arc::clone(&self.services))]),
                endpoints: Chain::new(vec![Arc::new(Arc::clone(&self.endpoints))]),
            }
        }
    }

    fn told_service(service: Service) -> NetworkServiceResponse {
        NetworkServiceResponse {
            network_service: Some(service),
            deleted: false,
        }
    }

    pub(crate) fn service() -> Service {
        Service {
            name: "icmp-responder".into(),
            payload: "IP".into(),
            ..Default::default()
        }
    }

    /// An endpoint of `service` with a label.
    pub(crate) fn endpoint(name: &str, service: &str, label: (&str, &str)) -> NetworkServiceEndpoint {
        let labels = NetworkServiceLabels {
            labels: [(label.0.into(), label.1.into())].into(),
        };
        NetworkServiceEndpoint {
            name: name.into(),
            network_service_names: vec![service.into()],
            network_service_labels: [(service.into(), labels)].into(),
            url: format!("unix:///{name}"),
            ..Default::default()
        }
    }
}
