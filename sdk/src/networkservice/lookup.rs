// SPDX-License-Identifier: Apache-2.0
//! Asks the registry for services and endpoints.

use std::collections::{HashSet, VecDeque};
use std::time::SystemTime;

use futures::StreamExt;
use nsm_api::matching::{self, Labels};
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceQuery,
};

use crate::core::{
    Api, Chain, Ctx, Error, NetworkService, NsRegistry, NseRegistry, Request, Result, Retry, Store, Way,
};

/// Of how many endpoints one client's is chosen. All are looked at; these are those that the service's matches choose.
pub const MAX_FOUND: usize = 16_384;

/// How many look-ups of one connection stay as they were left: more than one request makes.
const HELD: usize = 8;

/// A choice among more endpoints than are kept: whenever there are many, those stay that are chosen of them. What is
/// chosen of all is the same as if they had been looked at together, since the first match that chooses anybody of some
/// is never behind the one that does of all.
struct Choice<'c> {
    labels: &'c Labels,
    service: &'c Service,
    limit: usize,
    kept: Vec<NetworkServiceEndpoint>,
    found: usize,
    left_out: usize,
}

/// What was chosen.
pub(super) struct Chosen {
    /// In the registry's order, those of a service's first route before those of the next.
    pub(super) endpoints: Vec<NetworkServiceEndpoint>,
    /// Of how many.
    pub(super) found: usize,
    /// How many more would have been chosen, had there not been too many.
    pub(super) left_out: usize,
}

impl<'c> Choice<'c> {
    fn new(labels: &'c Labels, service: &'c Service, limit: usize) -> Self {
        Self {
            labels,
            service,
            limit,
            kept: Vec::new(),
            found: 0,
            left_out: 0,
        }
    }

    fn take(&mut self, endpoint: NetworkServiceEndpoint) {
        self.found += 1;
        self.kept.push(endpoint);
        // So many more than are kept that it is seldom done.
        if self.kept.len() >= self.limit * 2 {
            self.thin();
        }
    }

    /// Keeps what is chosen, as many as may be.
    fn thin(&mut self) {
        let chosen = matching::endpoints(self.labels, self.service, &self.kept);
        let chosen: HashSet<_> = chosen.into_iter().map(std::ptr::from_ref).collect();
        let is_chosen = |endpoint| chosen.contains(&std::ptr::from_ref(endpoint));
        let are_kept: Vec<_> = self.kept.iter().map(is_chosen).collect();
        if are_kept.first() == Some(&false) {
            // An earlier match has taken over: who was left out is not chosen, either.
            self.left_out = 0;
        }
        let mut are_kept = are_kept.into_iter();
        self.kept.retain(|_| are_kept.next().unwrap_or_default());
        self.left_out += self.kept.len().saturating_sub(self.limit);
        self.kept.truncate(self.limit);
    }

    fn end(mut self) -> Chosen {
        if self.found > self.limit {
            self.thin();
        }
        let chosen = matching::endpoints(self.labels, self.service, &self.kept);
        Chosen {
            endpoints: chosen.into_iter().cloned().collect(),
            found: self.found,
            left_out: self.left_out,
        }
    }
}

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
        let mut service = None;
        let finding = find(ctx, &self.services, query, |found| {
            let told = found.network_service;
            service = told.filter(|service| service.name == *name && !found.deleted);
            service.is_some()
        });
        let text = || format!("failed to find network service {name}");
        finding.await.map_err(|error| error.context(text()))?;
        service.ok_or_else(|| {
            Error::not_found(
                "no-service",
                format!("network service {name} is not found; register it first"),
            )
        })
    }

    /// The endpoints that match and have not expired, in the registry's order; [`MAX_FOUND`] at most.
    pub(super) async fn endpoints(
        &self,
        ctx: &Ctx,
        wanted: NetworkServiceEndpoint,
    ) -> Result<Vec<NetworkServiceEndpoint>> {
        let mut all = Vec::new();
        let take = |endpoint| {
            all.push(endpoint);
            all.len() >= MAX_FOUND
        };
        self.each(ctx, wanted, take).await?;
        Ok(all)
    }

    /// The endpoints that `service` chooses for a client with `labels`, of all that it has.
    pub(super) async fn chosen(&self, ctx: &Ctx, labels: &Labels, service: &Service) -> Result<Chosen> {
        let wanted = NetworkServiceEndpoint {
            network_service_names: vec![service.name.clone()],
            ..Default::default()
        };
        let mut choice = Choice::new(labels, service, MAX_FOUND);
        let take = |endpoint| {
            choice.take(endpoint);
            false
        };
        self.each(ctx, wanted, take).await?;
        Ok(choice.end())
    }

    /// Gives the endpoints that match and have not expired to `take`, until it has enough.
    async fn each(
        &self,
        ctx: &Ctx,
        wanted: NetworkServiceEndpoint,
        mut take: impl FnMut(NetworkServiceEndpoint) -> bool,
    ) -> Result<()> {
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
            let endpoint = found.network_service_endpoint;
            match endpoint.filter(|endpoint| is_alive(endpoint, now) && !found.deleted) {
                Some(endpoint) => take(endpoint),
                None => false,
            }
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

/// Gives everything that is found to `take`, until it says that this is enough.
async fn find<A: Api>(
    ctx: &Ctx,
    registry: &Chain<A>,
    query: A::Query,
    mut take: impl FnMut(A::Found) -> bool,
) -> Result<()> {
    // The look-up is a call of its own: what its elements tell each other does not concern the connection, and what
    // they keep is only held for it.
    let own = ctx.aside();
    let oldest = ctx.store().update(|held: &mut Held| {
        held.0.push_back(own.store().clone());
        held.0.len().gt(&HELD).then(|| held.0.pop_front())
    });
    drop(oldest);
    let found = async {
        let mut stream = registry.find(&own, query).await?;
        while let Some(item) = stream.next().await {
            if take(item?) {
                break;
            }
        }
        Ok(())
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
mod tests {
    use nsm_api::registry::{Destination, Match};

    use super::testing::endpoint;
    use super::*;

    /// A service that prefers endpoints of one label to those of another, and to none.
    fn preferring() -> Service {
        let of = |value: &str| Match {
            routes: vec![Destination {
                destination_selector: [("on".to_string(), value.to_string())].into(),
                ..Default::default()
            }],
            fallthrough: true,
            ..Default::default()
        };
        Service {
            name: "s".into(),
            matches: vec![of("here"), of("there")],
            ..Default::default()
        }
    }

    fn chosen(limit: usize, places: &[&str]) -> (Vec<String>, usize, usize) {
        let (labels, service) = (Labels::new(), preferring());
        let mut choice = Choice::new(&labels, &service, limit);
        for (number, place) in places.iter().enumerate() {
            choice.take(endpoint(&format!("{place}-{number}"), "s", ("on", place)));
        }
        let Chosen {
            endpoints,
            found,
            left_out,
        } = choice.end();
        let names = endpoints.into_iter().map(|endpoint| endpoint.name);
        (names.collect(), found, left_out)
    }

    #[test]
    fn who_fits_best_is_chosen_however_many_others_come_before() {
        let mut places = ["there"; 1000];
        assert_eq!(chosen(10, &places).1, 1000);
        places[999] = "here";
        assert_eq!(chosen(10, &places), (vec!["here-999".to_string()], 1000, 0));
        places[500] = "here";
        let both = vec!["here-500".to_string(), "here-999".to_string()];
        assert_eq!(chosen(10, &places), (both, 1000, 0));
    }

    #[test]
    fn who_does_not_fit_takes_no_place_of_those_who_do() {
        let mut places = ["nowhere"; 1000];
        (places[998], places[999]) = ("there", "there");
        let both = vec!["there-998".to_string(), "there-999".to_string()];
        assert_eq!(chosen(10, &places), (both, 1000, 0));
    }

    #[test]
    fn how_many_are_left_out_is_counted() {
        for count in [9, 10, 11, 19, 20, 21, 200, 205] {
            let (names, found, left_out) = chosen(10, &vec!["there"; count]);
            let wanted: Vec<_> = (0..count.min(10))
                .map(|number| format!("there-{number}"))
                .collect();
            assert_eq!(
                (names, found, left_out),
                (wanted, count, count.saturating_sub(10))
            );
        }
        let mixed: Vec<_> = [["there"; 50], ["here"; 50]].concat();
        assert_eq!(chosen(10, &mixed).2, 40, "those that the better match has chosen");
    }
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
