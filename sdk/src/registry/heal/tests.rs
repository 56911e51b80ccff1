// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nsm_api::registry::NetworkServiceEndpoint;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::chain;
use crate::core::testing::{Probe, Seen, standard_cases};
use crate::core::{Error, NsRegistry, NseRegistry};
use crate::elements::begin::Begin;
use crate::registry::memory::{Limits, Memory};
use crate::registry::testing::{
    Ns, Nse, component, endpoint, names, next, register, service, unregister, watch, within,
};

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NseRegistry, _>(|| Heal, endpoint("nse", &["s"])).await;
    standard_cases::<NsRegistry, _>(|| Heal, service("ns", "IP")).await;
}

/// A registry that can be restarted: it then has forgotten everything, and its streams break.
struct Remote<A: Registry>(Arc<Mutex<Life<A>>>, Arc<AtomicUsize>);

impl<A: Registry> Clone for Remote<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), Arc::clone(&self.1))
    }
}

struct Life<A: Registry> {
    chain: Option<Chain<A>>,
    ended: CancellationToken,
}

impl<A: Registry> Remote<A> {
    fn new() -> Self {
        let remote = Self(
            Arc::new(Mutex::new(Life {
                chain: None,
                ended: CancellationToken::new(),
            })),
            Arc::default(),
        );
        remote.start();
        remote
    }

    fn stop(&self) {
        let mut life = self.0.lock();
        life.chain = None;
        std::mem::take(&mut life.ended).cancel();
    }

    fn start(&self) {
        self.0.lock().chain = Some(chain![Memory::new(Limits::default())]);
    }

    fn chain(&self) -> Result<Chain<A>> {
        let gone = || Error::unavailable("peer-unreachable", "it is down");
        self.0.lock().chain.clone().ok_or_else(gone)
    }

    /// How often a watch was opened.
    fn watches(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl<A: Registry> Element<A> for Remote<A> {
    fn name(&self) -> &'static str {
        "remote"
    }
    async fn request(&self, ctx: &Ctx, message: &mut A::Message, _: Next<'_, A>) -> Result<()> {
        self.chain()?.request(ctx, message).await
    }
    async fn close(&self, ctx: &Ctx, message: &mut A::Message, _: Next<'_, A>) -> Result<()> {
        self.chain()?.close(ctx, message).await
    }
    async fn find(&self, ctx: &Ctx, query: A::Query, _: Next<'_, A>) -> Result<Found<A>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let ended = self.0.lock().ended.clone();
        let found = self.chain()?.find(ctx, query).await?;
        Ok(Box::pin(found.take_until(ended.cancelled_owned())))
    }
}

fn client<A: Registry>(component: &Component, remote: &Remote<A>) -> Chain<A> {
    chain![Begin::client(component), Heal, remote.clone()]
}

fn all() -> NetworkServiceEndpoint {
    NetworkServiceEndpoint::default()
}

#[tokio::test(start_paused = true)]
async fn c54_after_a_restart_of_the_registry_endpoints_and_services_are_back_within_seconds() {
    let component = component();
    let (endpoints, services) = (Remote::<NseRegistry>::new(), Remote::<NsRegistry>::new());
    let (nse, ns): (Nse, Ns) = (client(&component, &endpoints), client(&component, &services));
    register(&nse, &component, endpoint("nse", &["s"])).await;
    register(&ns, &component, service("ns", "IP")).await;
    sleep(Duration::from_secs(60)).await;
    endpoints.stop();
    services.stop();
    sleep(Duration::from_secs(1)).await;
    endpoints.start();
    services.start();
    sleep(Duration::from_secs(3)).await;
    let there = names(&endpoints.chain().expect("is up"), &component, all()).await;
    assert_eq!(there, ["nse"]);
    let there = names(&services.chain().expect("is up"), &component, Default::default()).await;
    assert_eq!(there, ["ns"]);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_somebody_deleted_is_registered_again_without_a_storm() {
    let (component, remote) = (component(), Remote::<NseRegistry>::new());
    let client = client(&component, &remote);
    register(&client, &component, endpoint("nse", &["s"])).await;
    let direct = remote.chain().expect("is up");
    for _ in 0..20 {
        sleep(Duration::from_secs(1)).await;
        unregister(&direct, &component, "nse").await;
    }
    assert!(remote.watches() <= 12, "pauses grow: {}", remote.watches());
    sleep(Duration::from_secs(11)).await;
    assert_eq!(names(&direct, &component, all()).await, ["nse"]);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_somebody_deleted_stays_so() {
    let (component, remote) = (component(), Remote::<NsRegistry>::new());
    register(&client(&component, &remote), &component, service("ns", "IP")).await;
    let direct = remote.chain().expect("is up");
    sleep(Duration::from_secs(1)).await;
    unregister(&direct, &component, "ns").await;
    sleep(Duration::from_secs(60)).await;
    assert!(names(&direct, &component, Default::default()).await.is_empty());
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_unregistered_stays_so_and_leaves_no_task() {
    let (component, remote) = (component(), Remote::<NseRegistry>::new());
    let client = client(&component, &remote);
    for _ in 0..5 {
        register(&client, &component, endpoint("nse", &["s"])).await;
    }
    tokio::task::yield_now().await;
    assert_eq!(component.tasks(), 2, "one connection, one monitor");
    unregister(&client, &component, "nse").await;
    remote.stop();
    remote.start();
    sleep(Duration::from_secs(60)).await;
    assert!(
        names(&remote.chain().expect("is up"), &component, all())
            .await
            .is_empty()
    );
    assert_eq!(component.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_registration_succeeds_even_when_it_cannot_be_watched() {
    let (component, probe) = (component(), Probe::<NseRegistry>::new());
    let chain: Nse = chain![Begin::client(&component), Heal, NoWatch, Arc::clone(&probe)];
    register(&chain, &component, endpoint("nse", &["s"])).await;
    sleep(Duration::from_secs(60)).await;
    let tries = probe.seen().len();
    assert!(tries <= 20, "pauses grow: {tries}");
    assert!(probe.seen().iter().all(|seen| matches!(seen, Seen::Request(_))));
    component.end().await;
}

struct NoWatch;

#[async_trait]
impl<A: Registry> Element<A> for NoWatch {
    fn name(&self) -> &'static str {
        "nowatch"
    }
    async fn find(&self, _: &Ctx, _: A::Query, _: Next<'_, A>) -> Result<Found<A>> {
        Err(Error::unavailable("told-so", "no"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_after_a_restart_without_a_storm() {
    let (component, remote) = (component(), Remote::<NseRegistry>::new());
    let chain: Nse = chain![Heal, remote.clone()];
    let direct = remote.chain().expect("is up");
    register(&direct, &component, endpoint("a", &["s"])).await;
    let mut found = watch(&chain, &component, all()).await;
    assert_eq!(next::<NseRegistry>(&mut found).await.0, "a");
    remote.stop();
    let down = async {
        sleep(Duration::from_secs(60)).await;
        assert!(remote.watches() <= 25, "pauses grow: {}", remote.watches());
        remote.start();
        let direct = remote.chain().expect("is up");
        register(&direct, &component, endpoint("b", &["s"])).await;
    };
    let (told, ()) = futures::join!(next::<NseRegistry>(&mut found), down);
    assert_eq!(told, ("b".into(), false));
    component.end().await;
    assert!(found.next().await.is_none(), "it ends with the component");
}

#[tokio::test]
async fn a_watch_that_cannot_be_opened_is_an_error_and_a_query_is_passed() {
    let (component, remote) = (component(), Remote::<NseRegistry>::new());
    let chain: Nse = chain![Heal, remote.clone()];
    assert!(names(&chain, &component, all()).await.is_empty());
    remote.stop();
    let query = NseRegistry::query(all(), true);
    let failed = chain
        .find(&within(&component, 1), query)
        .await
        .err()
        .expect("fails");
    assert_eq!(failed.reason(), "peer-unreachable");
}
