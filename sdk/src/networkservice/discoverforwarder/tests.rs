// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use nsm_api::connection::PathSegment;
use nsm_api::registry::{Match, Metadata};

use super::super::lookup::testing::{Registry, endpoint, service};
use super::*;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};

const URL: &str = "tcp://10.0.0.1:5001";

fn forwarder(name: &str, label: (&str, &str)) -> NetworkServiceEndpoint {
    endpoint(name, FORWARDER_SERVICE, label)
}

fn registry(matches: Vec<Match>) -> Registry {
    let service = nsm_api::registry::NetworkService { matches, ..service() };
    let forwarders = vec![
        forwarder("fwd-1", ("p2p", "true")),
        forwarder("fwd-2", ("p2p", "true")),
    ];
    Registry::new(vec![service], forwarders)
}

fn element(registry: &Registry) -> DiscoverForwarder {
    DiscoverForwarder::new(registry.chains(), FORWARDER_SERVICE, URL)
}

/// Notes where each request was sent, and fails those that go to `broken`.
struct Network {
    sent: parking_lot::Mutex<Vec<String>>,
    broken: parking_lot::Mutex<Vec<&'static str>>,
}

#[async_trait]
impl Element<NetworkService> for Arc<Network> {
    fn name(&self) -> &'static str {
        "network"
    }

    async fn request(&self, ctx: &Ctx, _: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        let NextUrl(url) = ctx.call().get().expect("a forwarder is chosen");
        let name = url.trim_start_matches("unix:///").to_string();
        self.sent.lock().push(name.clone());
        match self.broken.lock().contains(&&*name) {
            true => Err(Error::exhausted("told-so", format!("{name} is broken"))),
            false => Ok(()),
        }
    }
}

impl Network {
    fn new(broken: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            sent: Default::default(),
            broken: parking_lot::Mutex::new(broken.to_vec()),
        })
    }

    fn sent(&self) -> Vec<String> {
        std::mem::take(&mut self.sent.lock())
    }
}

#[tokio::test]
async fn passes_the_standard_cases() {
    let registry = registry(vec![]);
    registry.tell(vec![forwarder("fwd-1", ("p2p", "true"))]);
    standard_cases::<NetworkService, _>(|| element(&registry), request()).await;
}

#[tokio::test]
async fn forwarders_are_tried_in_order_and_the_one_that_works_is_remembered() {
    let (registry, network) = (registry(vec![]), Network::new(&["fwd-1"]));
    let chain = crate::chain![element(&registry), Arc::clone(&network)];
    let connection = Connection::new();
    chain.request(&connection.first(), &mut request()).await.unwrap();
    assert_eq!(network.sent(), ["fwd-1", "fwd-2"]);
    network.broken.lock().clear();
    chain.request(&connection.again(), &mut request()).await.unwrap();
    assert_eq!(network.sent(), ["fwd-2"]);

    let mut reselecting = request();
    reselecting.connection.set_state(State::ReselectRequested);
    chain
        .request(&connection.first(), &mut reselecting)
        .await
        .unwrap();
    assert_eq!(network.sent(), ["fwd-1"], "a reselection forgets it");
    registry.tell(vec![forwarder("fwd-2", ("p2p", "true"))]);
    chain.request(&connection.again(), &mut request()).await.unwrap();
    assert_eq!(
        network.sent(),
        ["fwd-2"],
        "one that has gone is followed by another"
    );
    registry.tell(vec![]);
    let error = chain
        .request(&connection.again(), &mut request())
        .await
        .unwrap_err();
    assert!(
        error.text().contains("forwarder fwd-2 is not available"),
        "{error}"
    );
}

#[tokio::test]
async fn when_all_fail_every_failure_is_told_and_the_code_survives() {
    let (registry, network) = (registry(vec![]), Network::new(&["fwd-1", "fwd-2"]));
    let chain = crate::chain![element(&registry), Arc::clone(&network)];
    let error = chain
        .request(&Connection::new().first(), &mut request())
        .await
        .unwrap_err();
    assert_eq!(
        error.text(),
        "0. An error during select forwarder fwd-1 --> network: fwd-1 is broken: 1. An error during select \
         forwarder fwd-2 --> network: fwd-2 is broken: all forwarders have failed"
    );
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::ResourceExhausted, "told-so")
    );
}

#[tokio::test]
async fn the_forwarder_that_has_made_the_wire_goes_first() {
    let (registry, network) = (registry(vec![]), Network::new(&[]));
    let chain = crate::chain![element(&registry), Arc::clone(&network)];
    let mut request = request();
    let segment = PathSegment {
        name: "fwd-2".into(),
        ..Default::default()
    };
    request.path_mut().path_segments.push(segment);
    chain
        .request(&Connection::new().first(), &mut request)
        .await
        .unwrap();
    request.connection.set_state(State::ReselectRequested);
    chain
        .request(&Connection::new().first(), &mut request)
        .await
        .unwrap();
    assert_eq!(network.sent(), ["fwd-2", "fwd-1"], "but not after a reselection");
}

#[tokio::test]
async fn g24_g29_matches_restrict_forwarders_by_metadata_or_to_p2p() {
    let tried = async |matches: Vec<Match>| {
        let (registry, network) = (registry(matches), Network::new(&[]));
        registry.tell(vec![
            forwarder("other", ("cap", "true")),
            NetworkServiceEndpoint {
                network_service_labels: [].into(),
                ..forwarder("bare", ("", ""))
            },
            forwarder("p2p", ("p2p", "true")),
        ]);
        let chain = crate::chain![element(&registry), Arc::clone(&network)];
        let done = chain.request(&Connection::new().first(), &mut request()).await;
        done.map(|()| network.sent())
    };
    assert_eq!(
        tried(vec![]).await.unwrap(),
        ["other"],
        "without matches any forwarder may be tried"
    );
    assert_eq!(tried(vec![Match::default()]).await.unwrap(), ["p2p"]);
    let labels = [("cap".to_string(), "true".to_string())].into();
    let wants = Match {
        metadata: Some(Metadata { labels }),
        ..Default::default()
    };
    assert_eq!(tried(vec![wants]).await.unwrap(), ["other"]);
    let other = Match {
        source_selector: [("a".to_string(), "b".to_string())].into(),
        ..Default::default()
    };
    let error = tried(vec![other]).await.unwrap_err();
    assert!(error.text().contains("no candidates found"), "{error}");
}

#[tokio::test]
async fn a_forwarder_of_a_manager_with_a_longer_url_is_not_ours() {
    let (registry, network) = (registry(vec![]), Network::new(&[]));
    let theirs = NetworkServiceEndpoint {
        url: "tcp://10.0.0.1:50010".into(),
        ..forwarder("theirs", ("p2p", "true"))
    };
    registry.tell(vec![theirs, forwarder("ours", ("p2p", "true"))]);
    let chain = crate::chain![element(&registry), Arc::clone(&network)];
    chain
        .request(&Connection::new().first(), &mut request())
        .await
        .unwrap();
    assert_eq!(network.sent(), ["ours"]);
}

#[tokio::test]
async fn a_close_finds_the_forwarder_again() {
    let registry = registry(vec![]);
    let chain = before(element(&registry), &Probe::new());
    let connection = Connection::new();
    connection.store.insert(Remembered("fwd-2".into()));
    let ctx = connection.again();
    chain.close(&ctx, &mut request()).await.unwrap();
    assert_eq!(ctx.call().get(), Some(NextUrl("unix:///fwd-2".into())));

    registry.tell(vec![]);
    let ctx = connection.again();
    chain
        .close(&ctx, &mut request())
        .await
        .expect("the close goes on without");
    assert_eq!(ctx.call().get::<NextUrl>(), None);
}
