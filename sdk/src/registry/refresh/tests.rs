// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use super::*;
use crate::chain;
use crate::core::Error;
use crate::core::testing::{Probe, standard_cases};
use crate::elements::begin::Begin;
use crate::registry::testing::{Nse, component, endpoint, register, unregister};

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NseRegistry, _>(|| Refresh, endpoint("nse", &["s"])).await;
}

/// A client of a registry that keeps endpoints for a minute.
fn setup() -> (Component, Arc<Probe<NseRegistry>>, Nse) {
    let (component, probe) = (component(), Probe::new());
    promise(&component, &probe);
    let chain = chain![Begin::client(&component), Refresh, Arc::clone(&probe)];
    (component, probe, chain)
}

fn promise(component: &Component, probe: &Probe<NseRegistry>) {
    let component = component.clone();
    probe.answer(move |message| {
        let end = component.now() + Duration::from_secs(60);
        message.entry.expiration_time = Some(end.into());
        Ok(())
    });
}

#[tokio::test(start_paused = true)]
async fn c49_a_registration_is_refreshed_at_two_thirds_of_its_time_until_it_is_closed() {
    let (component, probe, chain) = setup();
    register(&chain, &component, endpoint("nse", &["s"])).await;
    for round in 1..=5 {
        sleep(Duration::from_millis(35_900)).await;
        assert_eq!(probe.requests().len(), round, "not before");
        while probe.requests().len() == round {
            sleep(Duration::from_millis(10)).await;
        }
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(component.tasks(), 2, "one connection, one timer");
    let refresh = probe.requests().pop().expect("refreshed");
    assert_eq!(
        refresh.entry.expiration_time, None,
        "the old promise is not repeated"
    );
    unregister(&chain, &component, "nse").await;
    let requests = probe.requests().len();
    sleep(Duration::from_secs(600)).await;
    assert_eq!((probe.requests().len(), component.tasks()), (requests, 0));
}

#[tokio::test(start_paused = true)]
async fn those_who_registered_together_do_not_refresh_together() {
    let (component, probe, chain) = setup();
    for count in 0..100 {
        register(&chain, &component, endpoint(&format!("nse-{count}"), &["s"])).await;
    }
    sleep(Duration::from_secs(38)).await;
    let refreshed = probe.requests().len() - 100;
    assert!(
        (20..=80).contains(&refreshed),
        "{refreshed} of 100 have come in half of the time"
    );
    sleep(Duration::from_millis(2_010)).await;
    assert_eq!(probe.requests().len(), 200);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_is_tried_again_with_growing_pauses() {
    let (component, probe, chain) = setup();
    register(&chain, &component, endpoint("nse", &["s"])).await;
    probe.answer(|_| Err(Error::unavailable("told-so", "no")));
    sleep(Duration::from_secs(40 + 60)).await;
    let tries = probe.requests().len();
    assert!((8..=20).contains(&tries), "{tries} tries in a minute");
    promise(&component, &probe);
    sleep(Duration::from_secs(11)).await;
    let tries = probe.requests().len();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(probe.requests().len(), tries, "it is registered again");
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_is_over_already_does_not_make_a_storm() {
    let (component, probe, chain) = setup();
    probe.answer(|message| {
        message.entry.expiration_time = Some(std::time::SystemTime::UNIX_EPOCH.into());
        Ok(())
    });
    register(&chain, &component, endpoint("nse", &["s"])).await;
    sleep(Duration::from_secs(2)).await;
    assert!((9..=11).contains(&probe.requests().len()));
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_promise_there_is_nothing_to_refresh() {
    let (component, probe, chain) = setup();
    register(&chain, &component, endpoint("nse", &["s"])).await;
    probe.answer(|message| {
        message.entry.expiration_time = None;
        Ok(())
    });
    register(&chain, &component, endpoint("nse", &["s"])).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(probe.requests().len(), 2);
    component.end().await;
}

/// A registry of the Go implementation: it ends a registration before its time, by as much as its call had.
#[derive(Clone, Default)]
struct Early(Arc<parking_lot::Mutex<Vec<tokio::time::Instant>>>);

#[async_trait]
impl Element<NseRegistry> for Early {
    fn name(&self) -> &'static str {
        "early"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        let had = ctx.remaining();
        next.request(ctx, message).await?;
        let end = NseRegistry::expires(&message.entry).expect("it promises");
        let time = ctx.component().until(end).saturating_sub(had);
        self.0.lock().push(tokio::time::Instant::now() + time);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn c49_a_registry_that_ends_registrations_early_is_not_too_early_for_a_short_promise() {
    let (component, probe, ends) = (component(), Probe::<NseRegistry>::new(), Early::default());
    let now = component.clone();
    probe.answer(move |message| {
        message.entry.expiration_time = Some((now.now() + Duration::from_secs(12)).into());
        Ok(())
    });
    let chain = chain![
        Begin::client(&component),
        Refresh,
        ends.clone(),
        Arc::clone(&probe)
    ];
    register(&chain, &component, endpoint("nse", &["s"])).await;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        let end = ends.0.lock().last().copied();
        assert!(end.is_some_and(|end| end > tokio::time::Instant::now()));
    }
    assert!(probe.requests().len() <= 11, "no more often than it must");
    component.end().await;
}
