// SPDX-License-Identifier: Apache-2.0

use std::sync::atomic::{AtomicUsize, Ordering};

use nsm_api::registry::{Destination, Match, NetworkServiceEndpointResponse};
use tokio_util::sync::CancellationToken;

use super::super::lookup::testing::{endpoint, service};
use super::*;
use crate::core::testing::{Connection, Probe, before, request};
use crate::core::{Api, Chain, Found, NseRegistry};

const SERVICE: &str = "icmp-responder";

/// A registry of endpoints that is filled while somebody watches.
#[derive(Clone, Default)]
struct Endpoints(Arc<watch::Sender<Vec<NetworkServiceEndpoint>>>);

#[async_trait]
impl Element<NseRegistry> for Endpoints {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    async fn find(
        &self,
        _: &Ctx,
        query: <NseRegistry as Api>::Query,
        _: Next<'_, NseRegistry>,
    ) -> Result<Found<NseRegistry>> {
        use futures::StreamExt;
        let told = |endpoint| {
            Ok(NetworkServiceEndpointResponse {
                network_service_endpoint: Some(endpoint),
                deleted: false,
            })
        };
        let now = self.0.borrow().clone();
        let now = futures::stream::iter(now.into_iter().map(told));
        if !query.watch {
            return Ok(now.boxed());
        }
        let later = tokio_stream::wrappers::WatchStream::from_changes(self.0.subscribe());
        let later = later.flat_map(move |all| futures::stream::iter(all.into_iter().map(told)));
        Ok(now.chain(later).boxed())
    }
}

/// Counts what it starts.
#[derive(Default)]
struct Counting {
    starts: AtomicUsize,
    /// What the next starts fail with.
    fails: Mutex<Option<Error>>,
    /// How each thing that is started ends, if it does.
    end: watch::Sender<Option<String>>,
    /// Whether what it starts was there before.
    found: std::sync::atomic::AtomicBool,
    stopped: CancellationToken,
    left: Mutex<Vec<Request>>,
}

struct Thing {
    is_fresh: bool,
    end: watch::Receiver<Option<String>>,
    stopped: CancellationToken,
}

#[async_trait]
impl Starter for Arc<Counting> {
    async fn start(&self, _: &Place, _: &Request) -> Result<Box<dyn Started>> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.fails.lock().clone() {
            return Err(error);
        }
        let is_fresh = !self.found.swap(false, Ordering::Relaxed);
        let end = match is_fresh {
            true => self.end.subscribe(),
            false => watch::channel(Some("done".to_string())).1,
        };
        Ok(Box::new(Thing {
            is_fresh,
            end,
            stopped: self.stopped.clone(),
        }))
    }

    async fn left(&self) -> Vec<Request> {
        self.left.lock().clone()
    }
}

#[async_trait]
impl Started for Thing {
    fn name(&self) -> String {
        "thing 1".into()
    }
    fn is_fresh(&self) -> bool {
        self.is_fresh
    }
    fn state(&self) -> String {
        "pulling its image".into()
    }
    async fn changed(&mut self) {
        if self.end.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    fn ended(&self) -> Option<String> {
        self.end.borrow().clone()
    }
    async fn stop(&mut self) {
        self.stopped.cancel();
    }
}

struct World {
    component: Component,
    endpoints: Endpoints,
    starter: Arc<Counting>,
    supply: Supply,
    chain: Chain<NetworkService>,
}

/// Workers on the client's node first, and the supplier otherwise.
fn from_zero() -> Service {
    let route = |selector: &[(&str, &str)]| Destination {
        destination_selector: selector
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        ..Default::default()
    };
    let workers = Match {
        fallthrough: true,
        routes: vec![route(&[("app", "worker"), ("nodeName", "{{.nodeName}}")])],
        ..Default::default()
    };
    let supplier = Match {
        routes: vec![route(&[("app", "supplier")])],
        ..Default::default()
    };
    Service {
        matches: vec![workers, supplier],
        ..service()
    }
}

fn supplier() -> NetworkServiceEndpoint {
    endpoint("supplier", SERVICE, ("app", "supplier"))
}

fn worker(node: &str) -> NetworkServiceEndpoint {
    let mut worker = endpoint(&format!("worker-{node}"), SERVICE, ("app", "worker"));
    for offered in worker.network_service_labels.values_mut() {
        offered.labels.insert(NODE.into(), node.into());
    }
    worker
}

fn asks(node: &str) -> Request {
    let mut request = request();
    request.connection.network_service = SERVICE.into();
    request.connection.labels = [(NODE.to_string(), node.to_string())].into();
    request
}

impl World {
    fn new() -> Self {
        let component = Component::new("test");
        let endpoints = Endpoints::default();
        endpoints.0.send_replace(vec![supplier()]);
        let services = super::super::lookup::testing::Registry::new(vec![from_zero()], vec![]);
        let registries = Registries {
            services: services.chains().services,
            endpoints: Chain::new(vec![Arc::new(endpoints.clone())]),
        };
        let settings = Settings {
            name: "supplier".into(),
            labels: [("app".to_string(), "supplier".to_string())].into(),
            start_timeout: Duration::from_secs(30),
        };
        let starter = Arc::new(Counting::default());
        let supply = Supply::new(&component, settings, registries, Arc::new(Arc::clone(&starter)));
        Self {
            chain: before(supply.clone(), &Probe::new()),
            component,
            endpoints,
            starter,
            supply,
        }
    }

    async fn asks(&self, node: &str) -> Error {
        let ctx = Connection::new().first();
        let asked = self.chain.request(&ctx, &mut asks(node)).await;
        asked.expect_err("a supplier serves nobody")
    }

    fn starts(&self) -> usize {
        self.starter.starts.load(Ordering::Relaxed)
    }

    async fn has_started(&self, count: usize) {
        while self.starts() < count {
            tokio::task::yield_now().await;
        }
    }

    fn registers(&self, endpoints: Vec<NetworkServiceEndpoint>) {
        self.endpoints.0.send_modify(|all| all.extend(endpoints));
    }
}

#[tokio::test(start_paused = true)]
async fn c130_a_request_waits_until_the_endpoint_is_registered() {
    let world = World::new();
    let began = Instant::now();
    let (error, ()) = tokio::join!(world.asks("n1"), async {
        world.has_started(1).await;
        sleep(Duration::from_secs(3)).await;
        world.registers(vec![worker("n2"), worker("n1")]);
    });
    assert_eq!(error.reason(), SUPPLIED);
    assert!(error.text().contains("worker-n1"), "{error}");
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    assert_eq!(world.asks("n1").await.reason(), SUPPLIED, "nobody waits any more");
    assert_eq!(world.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn c131_a_hundred_clients_of_a_node_have_one_started() {
    let world = World::new();
    let all = (0..100).map(|at| world.asks(["n1", "n2"][at % 2]));
    let (errors, ()) = tokio::join!(futures::future::join_all(all), async {
        world.has_started(2).await;
        world.registers(vec![worker("n1")]);
        sleep(Duration::from_secs(1)).await;
        world.registers(vec![worker("n2")]);
    });
    assert!(errors.iter().all(|error| error.reason() == SUPPLIED));
    assert_eq!(world.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_learns_in_time_what_it_waits_for() {
    let world = World::new();
    let ctx = Connection::new().first();
    let error = world.chain.request(&ctx, &mut asks("n1")).await.unwrap_err();
    assert_eq!(error.reason(), "endpoint-not-ready");
    assert!(error.text().contains("thing 1 is pulling its image"), "{error}");
    assert!(!ctx.remaining().is_zero(), "it hears of it");
    assert_eq!(world.asks("n1").await.reason(), "endpoint-not-ready");
    assert_eq!(world.starts(), 1, "it is still waited for");
}

#[tokio::test(start_paused = true)]
async fn what_never_registers_is_stopped_and_started_again_after_a_pause() {
    let world = World::new();
    let errors = [
        world.asks("n1").await,
        world.asks("n1").await,
        world.asks("n1").await,
        world.asks("n1").await,
    ];
    let last = &errors[3];
    assert_eq!(last.reason(), "endpoint-not-started");
    assert!(
        last.text().contains("thing 1 was not registered within 30"),
        "{last}"
    );
    assert!(world.starter.stopped.is_cancelled());
    let resting = world.asks("n1").await;
    assert!(resting.text().contains("the next start is in"), "{resting}");
    assert_eq!(world.starts(), 1);
    sleep(FIRST_WAIT).await;
    world.asks("n1").await;
    assert_eq!(world.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_told_to_all_and_pauses_grow() {
    let world = World::new();
    *world.starter.fails.lock() = Some(Error::unavailable("bad-template", "pod.yaml is no pod"));
    let (one, other) = tokio::join!(world.asks("n1"), world.asks("n1"));
    assert_eq!([one.reason(), other.reason()], ["bad-template"; 2]);
    let mut waits = Vec::new();
    for starts in 2..5 {
        let began = Instant::now();
        while world.starts() < starts {
            sleep(Duration::from_millis(100)).await;
            assert!(world.asks("n1").await.text().contains("pod.yaml is no pod"));
        }
        waits.push(began.elapsed());
    }
    assert!(waits.is_sorted(), "{waits:?}");
    assert_eq!(
        world.asks("n2").await.reason(),
        "bad-template",
        "each place for itself"
    );
}

#[tokio::test(start_paused = true)]
async fn what_ends_before_it_registers_is_a_failure_with_its_end() {
    let world = World::new();
    let (error, ()) = tokio::join!(world.asks("n1"), async {
        world.has_started(1).await;
        sleep(Duration::from_secs(1)).await;
        world.starter.end.send_replace(Some("exit code 64".into()));
    });
    assert!(
        error
            .text()
            .contains("thing 1 has ended before it was registered: exit code 64"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn c133_one_that_was_about_to_end_is_followed_by_another_one() {
    let world = World::new();
    world.starter.found.store(true, Ordering::Relaxed);
    let (error, ()) = tokio::join!(world.asks("n1"), async {
        world.has_started(2).await;
        world.registers(vec![worker("n1")]);
    });
    assert_eq!(error.reason(), SUPPLIED);
    assert_eq!(world.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_started_is_waited_for_and_stopped_if_it_never_registers() {
    let world = World::new();
    *world.starter.left.lock() = vec![asks("n1")];
    world.supply.adopt().await;
    world.has_started(1).await;
    let (error, ()) = tokio::join!(world.asks("n1"), async {
        sleep(Duration::from_secs(1)).await;
        world.registers(vec![worker("n1")]);
    });
    assert_eq!(error.reason(), SUPPLIED);
    assert_eq!(world.starts(), 1, "it is the same start");
    *world.starter.left.lock() = vec![asks("n2")];
    world.supply.adopt().await;
    world.starter.stopped.cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn other_suppliers_are_no_endpoints() {
    let world = World::new();
    let mut other = supplier();
    other.name = "supplier-of-another-node".into();
    world.registers(vec![other]);
    assert_eq!(world.asks("n1").await.reason(), "endpoint-not-ready");
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_name_is_none_is_refused() {
    let world = World::new();
    for node in ["../n1", "n 1", "-n1", "a..b", &"n".repeat(MAX_NODE + 1)] {
        assert_eq!(world.asks(node).await.reason(), "bad-node", "{node}");
    }
    assert_eq!(world.starts(), 0);
}

#[tokio::test(start_paused = true)]
async fn starts_are_bounded_and_failures_of_long_ago_make_room() {
    let world = World::new();
    *world.starter.fails.lock() = Some(Error::unavailable("told-so", "told to fail"));
    for at in 0..MAX_FLIGHTS {
        assert_eq!(world.asks(&format!("n{at}")).await.reason(), "told-so");
    }
    assert_eq!(world.asks("one-more").await.reason(), "too-many-starts");
    sleep(LONGEST_WAIT).await;
    assert_eq!(world.asks("one-more").await.reason(), "told-so");
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_on_when_the_supplier_ends() {
    let world = World::new();
    let ctx = Connection::new().first();
    let (chain, gone) = (world.chain.clone(), ctx.cancelled().clone());
    let mut message = asks("n1");
    let (done, ()) = tokio::join!(chain.request(&ctx, &mut message), async {
        world.has_started(1).await;
        gone.cancel();
    });
    assert_eq!(done.unwrap_err().reason(), "endpoint-not-ready");
    let World {
        component,
        supply,
        chain: ours,
        ..
    } = world;
    drop((chain, ours, supply));
    component.end().await;
}
