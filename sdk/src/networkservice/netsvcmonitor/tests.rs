// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use nsm_api::registry::{
    Destination, Match, NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse, NetworkServiceLabels, NetworkServiceQuery, NetworkServiceResponse,
};

use super::*;
use crate::core::testing::{Probe, request, standard_cases};
use crate::core::{Error, Found};
use crate::elements::begin::Begin;

const TIME: Duration = Duration::from_secs(10);
const SERVICE: &str = "icmp-responder";

/// A registry of one service, which tells its watchers what the test says, and of one endpoint.
#[derive(Default)]
struct Registered {
    watchers: Mutex<Vec<mpsc::UnboundedSender<Result<NetworkServiceResponse>>>>,
    opened: Mutex<usize>,
    endpoint: Mutex<Option<NetworkServiceEndpoint>>,
    lookups: Mutex<usize>,
    failures: Mutex<usize>,
}

#[derive(Clone)]
struct Services(Arc<Registered>);

#[async_trait]
impl Element<NsRegistry> for Services {
    fn name(&self) -> &'static str {
        "services"
    }
    async fn find(
        &self,
        _: &Ctx,
        query: NetworkServiceQuery,
        _: Next<'_, NsRegistry>,
    ) -> Result<Found<NsRegistry>> {
        assert!(
            query.watch
                && query
                    .network_service
                    .is_some_and(|service| service.name == SERVICE)
        );
        let (sender, receiver) = mpsc::unbounded();
        self.0.watchers.lock().push(sender);
        *self.0.opened.lock() += 1;
        Ok(receiver.boxed())
    }
}

#[derive(Clone)]
struct Endpoints(Arc<Registered>);

#[async_trait]
impl Element<NseRegistry> for Endpoints {
    fn name(&self) -> &'static str {
        "endpoints"
    }
    async fn find(
        &self,
        _: &Ctx,
        _: NetworkServiceEndpointQuery,
        _: Next<'_, NseRegistry>,
    ) -> Result<Found<NseRegistry>> {
        *self.0.lookups.lock() += 1;
        let left = self.0.failures.lock().checked_sub(1);
        if let Some(left) = left {
            *self.0.failures.lock() = left;
            return Err(Error::unavailable("told-so", "told to fail"));
        }
        let found = self.0.endpoint.lock().clone().map(|endpoint| {
            Ok(NetworkServiceEndpointResponse {
                network_service_endpoint: Some(endpoint),
                deleted: false,
            })
        });
        Ok(futures::stream::iter(found).boxed())
    }
}

/// A manager between its registry and what is behind it.
struct Manager {
    component: Component,
    chain: Chain<NetworkService>,
    probe: Arc<Probe<NetworkService>>,
    registered: Arc<Registered>,
}

fn element(component: &Component, registered: &Arc<Registered>) -> NetSvcMonitor {
    NetSvcMonitor::new(
        component,
        crate::chain![Services(Arc::clone(registered))],
        crate::chain![Endpoints(Arc::clone(registered))],
    )
}

fn manager() -> Manager {
    let (component, registered) = (Component::new("nsmgr"), Arc::<Registered>::default());
    let probe = Probe::answering(|request: &mut Request| {
        request.connection.network_service_endpoint_name = "nse-1".into();
        Ok(())
    });
    *registered.endpoint.lock() = Some(NetworkServiceEndpoint {
        name: "nse-1".into(),
        network_service_names: vec![SERVICE.into()],
        network_service_labels: [(SERVICE.into(), labels("v", "1"))].into(),
        ..Default::default()
    });
    let chain = crate::chain![
        Begin::server(&component),
        element(&component, &registered),
        Arc::clone(&probe)
    ];
    Manager {
        component,
        chain,
        probe,
        registered,
    }
}

fn labels(key: &str, value: &str) -> NetworkServiceLabels {
    NetworkServiceLabels {
        labels: [(key.into(), value.into())].into(),
    }
}

/// The service whose only route leads to endpoints of this version.
fn service(version: &str) -> Service {
    Service {
        name: SERVICE.into(),
        matches: vec![Match {
            routes: vec![Destination {
                destination_selector: labels("v", version).labels,
                weight: 0,
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

impl Manager {
    async fn ask(&self, id: &str) {
        let mut message = request();
        message.connection.id = id.into();
        let ctx = Ctx::own(&self.component, TIME);
        self.chain.request(&ctx, &mut message).await.expect("established");
    }

    fn tell(&self, service: Service) {
        let response = NetworkServiceResponse {
            network_service: Some(service),
            deleted: false,
        };
        for watcher in self.registered.watchers.lock().iter() {
            let _may_be_gone = watcher.unbounded_send(Ok(response.clone()));
        }
    }

    async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    fn opened(&self) -> usize {
        *self.registered.opened.lock()
    }

    fn lookups(&self) -> usize {
        *self.registered.lookups.lock()
    }
}

#[tokio::test(start_paused = true)]
async fn passes_the_standard_cases() {
    let (component, registered) = (Component::new("nsmgr"), Arc::default());
    standard_cases::<NetworkService, _>(|| element(&component, &registered), request()).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_closed_when_its_service_stops_choosing_its_endpoint() {
    let manager = manager();
    manager.ask("a").await;
    manager.settle().await;
    manager.tell(service("1"));
    manager.settle().await;
    assert!(manager.probe.closes().is_empty());
    manager.tell(service("2"));
    manager.probe.arrived(2).await;
    assert_eq!(manager.probe.closes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_not_registered_is_left_alone() {
    let manager = manager();
    *manager.registered.endpoint.lock() = None;
    manager.ask("a").await;
    manager.settle().await;
    manager.tell(service("2"));
    manager.settle().await;
    assert_eq!((manager.probe.closes().len(), manager.lookups()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn connections_of_a_service_share_a_watch_that_ends_with_the_last() {
    let manager = manager();
    for id in ["a", "b", "c"] {
        manager.ask(id).await;
        manager.settle().await;
    }
    assert_eq!(manager.opened(), 1);
    manager.tell(service("2"));
    manager.probe.arrived(6).await;
    manager.settle().await;
    assert_eq!((manager.probe.closes().len(), manager.component.tasks()), (3, 0));
    manager.ask("d").await;
    manager.settle().await;
    assert_eq!(manager.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_known_before_the_request_and_what_is_repeated_needs_no_look() {
    let manager = manager();
    manager.ask("a").await;
    manager.settle().await;
    manager.tell(service("1"));
    manager.settle().await;
    assert_eq!(manager.lookups(), 1);
    manager.tell(service("1"));
    manager.ask("a").await;
    manager.ask("b").await;
    manager.settle().await;
    assert_eq!(manager.lookups(), 1);
    manager.tell(service("2"));
    manager.settle().await;
    assert_eq!((manager.lookups(), manager.probe.closes().len()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_opened_again_and_more_and_more_rarely() {
    let manager = manager();
    manager.ask("a").await;
    manager.settle().await;
    for round in 1..=20 {
        manager.registered.watchers.lock().clear();
        while manager.opened() == round {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let before = manager.opened();
    manager.registered.watchers.lock().clear();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(manager.opened(), before);
    tokio::time::sleep(Duration::from_secs(4)).await;
    manager.tell(service("2"));
    manager.probe.arrived(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_fails_is_repeated() {
    let manager = manager();
    *manager.registered.failures.lock() = 3;
    manager.ask("a").await;
    manager.settle().await;
    manager.tell(service("2"));
    manager.probe.arrived(2).await;
    assert_eq!(manager.lookups(), 4);
}

#[tokio::test(start_paused = true)]
async fn nobody_looks_after_the_promises_on_the_path_have_ended() {
    let manager = manager();
    let expires = manager.component.now() + Duration::from_secs(60);
    manager.probe.answer(move |request: &mut Request| {
        let path = request.connection.path.get_or_insert_default();
        path.path_segments[0].expires = Some(expires.into());
        Ok(())
    });
    manager.ask("a").await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    manager.tell(service("2"));
    manager.settle().await;
    assert_eq!((manager.probe.closes().len(), manager.lookups()), (0, 0));
}
