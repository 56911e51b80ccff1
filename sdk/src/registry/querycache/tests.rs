// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::{AtomicUsize, Ordering};

use nsm_api::registry::{NetworkService, NetworkServiceEndpoint};
use tokio::sync::Notify;
use tokio::time::{advance, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::core::testing::standard_cases;
use crate::core::{Chain, Error, NsRegistry, NseRegistry};
use crate::registry::memory::{Limits, Memory};
use crate::registry::testing::{
    component, endpoint, find, names, next, register, service, unregister, watch,
};

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NseRegistry, _>(QueryCache::default, endpoint("nse", &["s"])).await;
    standard_cases::<NsRegistry, _>(QueryCache::default, service("ns", "IP")).await;
}

/// Counts what passes on its way to a registry, and can cut its watches.
struct Wire<A: Registry> {
    rest: Chain<A>,
    queries: AtomicUsize,
    watches: AtomicUsize,
    open: Arc<AtomicUsize>,
    cut: Mutex<CancellationToken>,
    /// While set, watches tell nothing until it fires.
    hold: Mutex<Option<Arc<Notify>>>,
}

impl<A: Registry> Wire<A> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            rest: crate::chain![Memory::new(Limits::default())],
            queries: AtomicUsize::new(0),
            watches: AtomicUsize::new(0),
            open: Arc::default(),
            cut: Mutex::default(),
            hold: Mutex::default(),
        })
    }

    /// How many queries and watches have passed.
    fn passed(&self) -> (usize, usize) {
        (
            self.queries.load(Ordering::Relaxed),
            self.watches.load(Ordering::Relaxed),
        )
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn cut(&self) {
        std::mem::take(&mut *self.cut.lock()).cancel();
    }
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl<A: Registry> Element<A> for Arc<Wire<A>> {
    fn name(&self) -> &'static str {
        "wire"
    }
    async fn find(&self, ctx: &Ctx, query: A::Query, _: Next<'_, A>) -> Result<Found<A>> {
        if !A::asked(query.clone()).1 {
            self.queries.fetch_add(1, Ordering::Relaxed);
            return self.rest.find(ctx, query).await;
        }
        self.watches.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        let (open, cut) = (Open(Arc::clone(&self.open)), self.cut.lock().clone());
        let found = self.rest.find(ctx, query).await?;
        let found: Found<A> = match self.hold.lock().clone() {
            None => found,
            Some(hold) => {
                let held = async move {
                    hold.notified().await;
                    found
                };
                Box::pin(stream::once(held).flatten())
            }
        };
        let broken = stream::once(std::future::ready(Err(Error::unavailable("told-so", "cut"))));
        let found = found.take_until(cut.cancelled_owned()).chain(broken);
        Ok(Box::pin(found.inspect(move |_| {
            let _open = &open;
        })))
    }
}

struct Setup<A: Registry> {
    component: Component,
    wire: Arc<Wire<A>>,
    cache: Arc<QueryCache<A>>,
    chain: Chain<A>,
}

fn setup<A: Registry>() -> Setup<A> {
    let (wire, cache) = (Wire::new(), Arc::new(QueryCache::new(4)));
    let chain = Chain::new(vec![
        Arc::clone(&cache) as Arc<dyn Element<A>>,
        Arc::new(Arc::clone(&wire)),
    ]);
    Setup {
        component: component(),
        wire,
        cache,
        chain,
    }
}

impl<A: Registry> Setup<A> {
    async fn register(&self, message: crate::core::Registration<A::Entry>) {
        register(&self.wire.rest, &self.component, message).await;
        settle().await;
    }

    async fn names(&self, example: A::Entry) -> Vec<String> {
        let found = names(&self.chain, &self.component, example).await;
        settle().await;
        found
    }
}

/// Lets the tasks do what they can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn offering(service: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        network_service_names: vec![service.into()],
        ..Default::default()
    }
}

fn named(name: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: name.into(),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_first_query_asks_the_registry() {
    let setup = setup::<NseRegistry>();
    for name in ["a", "b"] {
        setup.register(endpoint(name, &["s"])).await;
    }
    for _ in 0..100 {
        assert_eq!(setup.names(offering("s")).await, ["a", "b"]);
        assert_eq!(setup.names(named("a")).await, ["a"]);
    }
    assert_eq!(setup.wire.passed(), (2, 2));
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn services_are_looked_up_by_name_and_compared_by_payload() {
    let setup = setup::<NsRegistry>();
    setup.register(service("ns", "IP")).await;
    let example = |payload: &str| NetworkService {
        name: "ns".into(),
        payload: payload.into(),
        ..Default::default()
    };
    for _ in 0..10 {
        assert_eq!(setup.names(example("IP")).await, ["ns"]);
        assert_eq!(setup.names(example("")).await, ["ns"]);
    }
    assert_eq!(setup.wire.passed(), (1, 1));
    assert!(setup.names(example("ETHERNET")).await.is_empty());
    setup.register(service("ns", "ETHERNET")).await;
    assert_eq!(
        setup.names(example("ETHERNET")).await,
        ["ns"],
        "a change is followed"
    );
    assert_eq!(setup.wire.passed(), (2, 1));
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_is_followed() {
    let setup = setup::<NseRegistry>();
    setup.register(endpoint("a", &["s"])).await;
    setup.names(offering("s")).await;
    setup.register(endpoint("b", &["s"])).await;
    assert_eq!(setup.names(offering("s")).await, ["a", "b"]);
    unregister(&setup.wire.rest, &setup.component, "a").await;
    settle().await;
    assert_eq!(setup.names(offering("s")).await, ["b"]);
    setup.register(endpoint("b", &["t"])).await;
    assert!(setup.names(offering("s")).await.is_empty());
    assert_eq!(setup.wire.passed(), (2, 1), "only the empty answer was asked for");
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_found_is_always_asked_for_and_not_watched() {
    let setup = setup::<NseRegistry>();
    for _ in 0..3 {
        assert!(setup.names(offering("s")).await.is_empty());
    }
    assert_eq!(setup.wire.passed(), (3, 0));
    setup.register(endpoint("a", &["s"])).await;
    assert_eq!(setup.names(offering("s")).await, ["a"]);
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn queries_of_different_urls_are_different() {
    let setup = setup::<NseRegistry>();
    for name in ["n1", "n2"] {
        setup.register(endpoint(name, &["forwarder"])).await;
    }
    let on = |url: &str| NetworkServiceEndpoint {
        url: url.into(),
        ..offering("forwarder")
    };
    for _ in 0..10 {
        assert_eq!(setup.names(on("tcp://n1")).await, ["n1"]);
        assert_eq!(setup.names(on("tcp://n2")).await, ["n2"]);
        assert_eq!(setup.names(offering("forwarder")).await, ["n1", "n2"]);
    }
    assert_eq!(setup.wire.passed(), (3, 3));
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_not_answered() {
    let setup = setup::<NseRegistry>();
    let mut message = endpoint("a", &["s"]);
    message.entry.expiration_time = Some((setup.component.now() + Duration::from_secs(30)).into());
    setup.register(message).await;
    setup.names(offering("s")).await;
    advance(Duration::from_secs(29)).await;
    setup.names(offering("s")).await;
    assert_eq!(setup.wire.passed(), (1, 1));
    advance(Duration::from_secs(1)).await;
    setup.names(offering("s")).await;
    assert_eq!(setup.wire.passed(), (2, 1), "the registry must know better");
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_answers_only_when_it_has_told_everything_that_was_found() {
    let setup = setup::<NseRegistry>();
    let hold = Arc::new(Notify::new());
    *setup.wire.hold.lock() = Some(Arc::clone(&hold));
    for name in ["a", "b"] {
        setup.register(endpoint(name, &["s"])).await;
    }
    for passed in 1..=3 {
        assert_eq!(setup.names(offering("s")).await, ["a", "b"]);
        assert_eq!(setup.wire.passed(), (passed, 1));
    }
    hold.notify_one();
    settle().await;
    assert_eq!(setup.names(offering("s")).await, ["a", "b"]);
    assert_eq!(setup.wire.passed(), (3, 1));
    setup.component.end().await;
}

/// An endpoint that goes between the query and the opening of the watch is never told: the next query says so.
#[tokio::test(start_paused = true)]
async fn what_went_before_the_watch_was_open_is_not_waited_for() {
    let setup = setup::<NseRegistry>();
    for name in ["a", "b"] {
        setup.register(endpoint(name, &["s"])).await;
    }
    names(&setup.chain, &setup.component, offering("s")).await;
    unregister(&setup.wire.rest, &setup.component, "a").await;
    for _ in 0..5 {
        settle().await;
        assert_eq!(setup.names(offering("s")).await, ["b"]);
    }
    assert_eq!(setup.wire.passed(), (2, 1));
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_forgotten_and_opened_again_by_the_next_query() {
    let setup = setup::<NseRegistry>();
    setup.register(endpoint("a", &["s"])).await;
    setup.names(offering("s")).await;
    setup.wire.cut();
    settle().await;
    assert_eq!(
        (setup.cache.mirrors(), setup.component.tasks(), setup.wire.open()),
        (0, 0, 0)
    );
    setup.register(endpoint("b", &["s"])).await;
    for _ in 0..5 {
        assert_eq!(setup.names(offering("s")).await, ["a", "b"]);
    }
    assert_eq!(setup.wire.passed(), (2, 2));
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_closed_a_minute_after_the_last_query() {
    let setup = setup::<NseRegistry>();
    setup.register(endpoint("a", &["s"])).await;
    for _ in 0..5 {
        setup.names(offering("s")).await;
        sleep(IDLE - Duration::from_secs(1)).await;
        assert_eq!((setup.cache.mirrors(), setup.wire.open()), (1, 1));
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        (setup.cache.mirrors(), setup.wire.open(), setup.component.tasks()),
        (0, 0, 0)
    );
    setup.names(offering("s")).await;
    assert_eq!(setup.wire.passed(), (2, 2));
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_watch_that_was_least_lately_asked_for_makes_room() {
    let setup = setup::<NseRegistry>();
    for count in 0..5 {
        setup.register(endpoint(&format!("nse-{count}"), &["s"])).await;
    }
    for count in [0, 1, 2, 3, 0, 4] {
        setup.names(named(&format!("nse-{count}"))).await;
    }
    assert_eq!((setup.cache.mirrors(), setup.wire.open()), (4, 4));
    assert_eq!(setup.wire.passed(), (5, 5));
    for count in [0, 2, 3, 4] {
        setup.names(named(&format!("nse-{count}"))).await;
    }
    assert_eq!(setup.wire.passed(), (5, 5), "the others are still there");
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_with_too_many_endpoints_is_asked_for_each_time() {
    let setup = setup::<NseRegistry>();
    for count in 0..MAX_ENTRIES {
        setup.register(endpoint(&format!("nse-{count}"), &["s"])).await;
    }
    setup.names(offering("s")).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.names(offering("s")).await.len(), MAX_ENTRIES);
    assert_eq!(setup.wire.passed(), (1, 1), "this is still followed");
    setup.register(endpoint("one-more", &["s"])).await;
    sleep(Duration::from_secs(1)).await;
    for passed in 2..5 {
        assert_eq!(setup.names(offering("s")).await.len(), MAX_ENTRIES + 1);
        assert_eq!((setup.wire.passed(), setup.wire.open()), ((passed, 1), 0));
    }
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn many_first_queries_open_one_watch() {
    let setup = setup::<NseRegistry>();
    setup.register(endpoint("a", &["s"])).await;
    let queries = (0..50).map(|_| find(&setup.chain, &setup.component, offering("s")));
    let found = futures::future::join_all(queries).await;
    assert!(found.iter().all(|found| found.len() == 1));
    settle().await;
    assert_eq!((setup.wire.passed().1, setup.wire.open()), (1, 1));
    setup.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn watches_and_wide_queries_are_passed() {
    let setup = setup::<NseRegistry>();
    setup.register(endpoint("a", &["s"])).await;
    assert_eq!(setup.names(NetworkServiceEndpoint::default()).await, ["a"]);
    let mut found = watch(&setup.chain, &setup.component, offering("s")).await;
    assert_eq!(next::<NseRegistry>(&mut found).await, ("a".into(), false));
    assert_eq!((setup.wire.passed(), setup.cache.mirrors()), ((1, 1), 0));
}

#[tokio::test(start_paused = true)]
async fn everything_ends_with_the_component() {
    let setup = setup::<NseRegistry>();
    setup.register(endpoint("a", &["s"])).await;
    setup.names(offering("s")).await;
    setup.component.end().await;
    assert_eq!((setup.cache.mirrors(), setup.wire.open()), (0, 0));
}

/// Answers with a stream that panics when it is polled after its end, as an `unfold` does.
struct Unfused;

#[async_trait]
impl Element<NseRegistry> for Unfused {
    fn name(&self) -> &'static str {
        "unfused"
    }

    async fn find(
        &self,
        _: &Ctx,
        _: <NseRegistry as crate::core::Api>::Query,
        _: Next<'_, NseRegistry>,
    ) -> Result<Found<NseRegistry>> {
        let found = NseRegistry::found(endpoint("nse", &["s"]).entry, false);
        Ok(Box::pin(stream::unfold(Some(found), |found| async {
            Some((Ok(found?), None))
        })))
    }
}

#[tokio::test]
async fn a_stream_is_not_polled_after_its_end() {
    let (component, chain) = (component(), crate::chain![QueryCache::default(), Unfused]);
    let example = NetworkServiceEndpoint {
        network_service_names: vec!["s".into()],
        ..Default::default()
    };
    assert_eq!(names::<NseRegistry>(&chain, &component, example).await, ["nse"]);
}
