// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nsm_api::registry::{Destination, Match, Metadata, NetworkServiceEndpoint};

use super::super::files::testing::{Silent, transport_peer};
use super::super::lookup::testing::{Registry, endpoint, service};
use super::*;
use crate::chain;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};
use crate::core::{Chain, NseRegistry};

const SERVICE: &str = "icmp-responder";

/// Routes clients with the label `app: <from>` to endpoints with the label `app: <to>`.
fn route(from: &str, to: &str) -> Match {
    Match {
        source_selector: [("app".to_string(), from.to_string())].into(),
        routes: vec![Destination {
            destination_selector: [("app".to_string(), to.to_string())].into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn labelled(label: &str, value: &str) -> Request {
    let mut request = request();
    request.connection.labels = [(label.to_string(), value.to_string())].into();
    request
}

/// The names of the candidates for a client with the label `app: client`.
async fn candidates(matches: Vec<Match>, client: Request) -> Result<Vec<String>> {
    let mut service = service();
    service.matches = matches;
    let endpoints = vec![
        endpoint("nse-a", SERVICE, ("app", "a")),
        endpoint("nse-b", SERVICE, ("app", "b")),
        endpoint("nse-node", SERVICE, ("nodeName", "node-1")),
    ];
    let registry = Registry::new(vec![service], endpoints);
    let ctx = Connection::new().first();
    let mut request = client;
    before(Discover::new(registry.chains()), &Probe::new())
        .request(&ctx, &mut request)
        .await?;
    assert_eq!(request.connection.payload, "IP", "the payload is the service's");
    let Candidates(candidates) = ctx.call().get().expect("there are candidates");
    assert!(
        candidates
            .iter()
            .all(|candidate| candidate.url == format!("unix:///{}", candidate.name))
    );
    Ok(candidates.into_iter().map(|candidate| candidate.name).collect())
}

#[tokio::test]
async fn passes_the_standard_cases() {
    let registry = Registry::new(vec![service()], vec![endpoint("nse", SERVICE, ("app", "a"))]);
    standard_cases::<NetworkService, _>(|| Discover::new(registry.chains()), request()).await;
}

#[tokio::test]
async fn g20_without_matches_every_endpoint_is_a_candidate() {
    assert_eq!(
        candidates(vec![], request()).await.unwrap(),
        ["nse-a", "nse-b", "nse-node"]
    );
}

#[tokio::test]
async fn g21_when_no_match_applies_there_are_no_candidates() {
    let error = candidates(vec![route("other", "a")], labelled("app", "client"))
        .await
        .unwrap_err();
    assert!(
        error
            .text()
            .contains("network service endpoint candidates not found"),
        "{error}"
    );
}

#[tokio::test]
async fn g22_the_first_match_that_applies_wins() {
    let general = Match {
        source_selector: [].into(),
        ..route("", "b")
    };
    let matches = vec![general, route("client", "a")];
    assert_eq!(
        candidates(matches, labelled("app", "client")).await.unwrap(),
        ["nse-b"]
    );
}

#[tokio::test]
async fn c102_an_empty_match_falls_through_only_if_it_says_so() {
    let empty = route("client", "nobody");
    let error = candidates(
        vec![empty.clone(), route("client", "a")],
        labelled("app", "client"),
    )
    .await;
    assert!(
        error
            .unwrap_err()
            .text()
            .contains("network service endpoint candidates not found")
    );
    let falls = Match {
        fallthrough: true,
        ..empty
    };
    assert_eq!(
        candidates(vec![falls, route("client", "a")], labelled("app", "client"))
            .await
            .unwrap(),
        ["nse-a"]
    );
}

#[tokio::test]
async fn g24_g25_a_match_without_routes_chooses_all_with_metadata_and_none_without() {
    let bare = Match::default();
    let with = Match {
        metadata: Some(Metadata::default()),
        ..Default::default()
    };
    assert!(candidates(vec![bare], request()).await.is_err());
    assert_eq!(candidates(vec![with], request()).await.unwrap().len(), 3);
}

#[tokio::test]
async fn c101_a_template_chooses_the_endpoint_on_the_clients_node() {
    let mut by_node = route("", "");
    by_node.source_selector.clear();
    by_node.routes[0].destination_selector = [("nodeName".to_string(), "{{.nodeName}}".to_string())].into();
    let client = labelled("nodeName", "node-1");
    assert_eq!(
        candidates(vec![by_node.clone()], client).await.unwrap(),
        ["nse-node"]
    );
    assert!(
        candidates(vec![by_node.clone()], labelled("nodeName", "node-2"))
            .await
            .is_err()
    );
    assert!(
        candidates(vec![by_node.clone()], request()).await.is_err(),
        "a client without the label gets none"
    );

    by_node.routes[0].destination_selector = [("app".to_string(), "{{.broken".to_string())].into();
    assert!(
        candidates(vec![by_node], labelled("app", "a")).await.is_err(),
        "what is no template is compared as it is"
    );
}

#[tokio::test]
async fn g32_expired_endpoints_are_no_candidates() {
    let expiring = |name: &str, at: SystemTime| NetworkServiceEndpoint {
        expiration_time: Some(at.into()),
        ..endpoint(name, SERVICE, ("app", "a"))
    };
    let connection = Connection::new();
    let ctx = connection.first();
    let now = ctx.component().now();
    let minute = Duration::from_secs(60);
    let endpoints = vec![expiring("dead", now - minute), expiring("alive", now + minute)];
    let registry = Registry::new(vec![service()], endpoints);
    before(Discover::new(registry.chains()), &Probe::new())
        .request(&ctx, &mut request())
        .await
        .unwrap();
    let Candidates(candidates) = ctx.call().get().unwrap();
    assert_eq!(candidates.len(), 1);
    assert_eq!(candidates[0].name, "alive");
}

#[tokio::test]
async fn a_named_endpoint_is_found_by_exactly_its_name() {
    let endpoints = vec![
        endpoint("nse-10", SERVICE, ("app", "a")),
        endpoint("nse-1", SERVICE, ("app", "a")),
    ];
    let registry = Registry::new(vec![], endpoints);
    let chain = before(Discover::new(registry.chains()), &Probe::new());
    let mut request = request();
    request.connection.network_service_endpoint_name = "nse-1".into();
    let ctx = Connection::new().first();
    chain.request(&ctx, &mut request).await.unwrap();
    assert_eq!(ctx.call().get(), Some(NextUrl("unix:///nse-1".into())));

    request.connection.network_service_endpoint_name = "nse-2".into();
    let error = chain
        .request(&Connection::new().first(), &mut request)
        .await
        .unwrap_err();
    assert!(
        error.text().contains("network service endpoint nse-2 not found"),
        "{error}"
    );
}

#[tokio::test]
async fn a_service_that_is_not_registered_is_named() {
    let registry = Registry::new(vec![], vec![]);
    let chain = before(Discover::new(registry.chains()), &Probe::new());
    let error = chain
        .request(&Connection::new().first(), &mut request())
        .await
        .unwrap_err();
    assert!(
        error
            .text()
            .contains("network service icmp-responder is not found"),
        "{error}"
    );
    assert_eq!(error.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn an_earlier_choice_stays() {
    let registry = Registry::new(vec![], vec![]);
    let ctx = Connection::new().first();
    ctx.call().insert(NextUrl("unix:///chosen".into()));
    let chain = before(Discover::new(registry.chains()), &Probe::new());
    chain
        .request(&ctx, &mut request())
        .await
        .expect("the registry is not asked");
}

/// A registry that never answers.
struct Away;

#[async_trait]
impl Element<NseRegistry> for Away {
    fn name(&self) -> &'static str {
        "away"
    }
    async fn find(
        &self,
        _: &Ctx,
        _: nsm_api::registry::NetworkServiceEndpointQuery,
        _: Next<'_, NseRegistry>,
    ) -> Result<crate::core::Found<NseRegistry>> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn an_established_connection_is_refreshed_and_closed_while_the_registry_hangs() {
    let registry = Registry::new(vec![], vec![]);
    let endpoints: Chain<NseRegistry> = chain![Away];
    let probe = Probe::new();
    let chain = before(
        Discover::new(Registries {
            endpoints,
            ..registry.chains()
        }),
        &probe,
    );
    let connection = Connection::new();
    let mut request = request();
    request.connection.network_service_endpoint_name = "nse".into();
    chain
        .request(&connection.first(), &mut request)
        .await
        .expect_err("a first request needs the answer");
    connection
        .store
        .insert(Way::<NetworkService>(Arc::new(Silent(transport_peer()))));
    let ctx = connection.again();
    chain
        .request(&ctx, &mut request)
        .await
        .expect("the known way is taken");
    assert_eq!(ctx.remaining(), Duration::from_secs(5));
    connection.store.take::<Way<NetworkService>>();
    chain
        .close(&connection.again(), &mut request)
        .await
        .expect("the close goes on without");
    assert_eq!((probe.requests().len(), probe.closes().len()), (1, 1));
}

/// The reason for which a request that names `nse-a` fails, when nobody listens there; `hops` are on its path.
async fn gone(endpoints: &[&str], hops: usize) -> String {
    let endpoints = endpoints.iter().map(|name| endpoint(name, SERVICE, ("app", "a")));
    let registry = Registry::new(vec![service()], endpoints.collect());
    let probe = Probe::answering(|_| Err(Error::unavailable("peer-unreachable", "nobody listens there")));
    let mut request = request();
    request.connection.network_service_endpoint_name = "nse-a".into();
    request.path_mut().path_segments.resize(hops, Default::default());
    let error = before(Discover::new(registry.chains()), &probe)
        .request(&Connection::new().first(), &mut request)
        .await
        .unwrap_err();
    error.reason().to_string()
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_told_to_be_lost_when_there_is_another() {
    assert_eq!(gone(&["nse-a", "nse-b"], 2).await, LOST);
    assert_eq!(gone(&["nse-b"], 2).await, LOST, "it is not registered either");
    assert_eq!(gone(&["nse-a"], 2).await, "peer-unreachable", "there is no other");
    assert_eq!(gone(&[], 2).await, "no-endpoint");
    assert_eq!(
        gone(&["nse-a", "nse-b"], 1).await,
        "peer-unreachable",
        "it has never answered"
    );
}

/// A registry to which an endpoint comes after so many look-ups.
fn supplied_after(looks: usize) -> (Registry, impl Fn(&mut Request) -> Result<()> + Send + Sync) {
    let mut service = service();
    service.matches = vec![
        Match {
            fallthrough: true,
            ..route_any("worker")
        },
        route_any("supplier"),
    ];
    let supplier = endpoint("supplier", SERVICE, ("app", "supplier"));
    let registry = Registry::new(vec![service], vec![supplier.clone()]);
    let endpoints = Arc::clone(&registry.endpoints);
    let answer = move |_: &mut Request| {
        if looks == 0 {
            let both = [supplier.clone(), endpoint("worker", SERVICE, ("app", "worker"))];
            let told = |endpoint| nsm_api::registry::NetworkServiceEndpointResponse {
                network_service_endpoint: Some(endpoint),
                deleted: false,
            };
            Probe::find(&endpoints, both.into_iter().map(told).collect());
        }
        Err(Error::unavailable(SUPPLIED, "the endpoint worker is there"))
    };
    (registry, answer)
}

fn route_any(to: &str) -> Match {
    Match {
        source_selector: Default::default(),
        ..route("", to)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_supplier_had_started_is_chosen_at_once() {
    let (registry, answer) = supplied_after(0);
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let probe = Probe::answering(move |request: &mut Request| {
        match is_first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            true => answer(request),
            false => Ok(()),
        }
    });
    let ctx = Connection::new().first();
    before(Discover::new(registry.chains()), &probe)
        .request(&ctx, &mut request())
        .await
        .expect("the second choice");
    let Candidates(candidates) = ctx.call().get().expect("there are candidates");
    assert_eq!(candidates.len(), 1);
    assert_eq!(candidates[0].name, "worker");
    assert_eq!(probe.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_never_found_is_told_as_the_supplier_did_and_soon() {
    let (registry, answer) = supplied_after(1);
    let ctx = Connection::new().first();
    let error = before(Discover::new(registry.chains()), &Probe::answering(answer))
        .request(&ctx, &mut request())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), SUPPLIED);
    assert!(ctx.remaining() > Duration::from_secs(5));
}
