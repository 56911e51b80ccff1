// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::chain;
use crate::core::testing::{Probe, standard_cases};
use crate::core::{Chain, Component};
use crate::elements::begin::Begin;
use crate::registry::memory::{Limits, Memory};
use crate::registry::queries::Registry;
use crate::registry::testing::{Nse, component, endpoint, find, next, register, unregister, watch, within};

const PUBLIC: &str = "tcp://10.0.0.1:5001";

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NseRegistry, _>(|| LocalBypass::new(PUBLIC), endpoint("nse", &["s"])).await;
}

fn manager(component: &Component, url: &str, registry: &Chain<NseRegistry>) -> Nse {
    let manager: Nse = chain![Begin::server(component), LocalBypass::new(url)];
    manager.then(registry)
}

fn registry() -> Nse {
    chain![Memory::new(Limits::default())]
}

fn at(name: &str, url: &str) -> Registration<NetworkServiceEndpoint> {
    let mut message = endpoint(name, &["s"]);
    message.entry.url = url.into();
    message
}

async fn urls(chain: &Nse, component: &Component) -> Vec<String> {
    let found = find(chain, component, Default::default()).await;
    found.into_iter().map(|entry| entry.url).collect()
}

#[tokio::test]
async fn c60_the_registry_and_other_nodes_see_the_public_url_and_this_node_the_own_one() {
    let (component, registry) = (component(), registry());
    let here = manager(&component, PUBLIC, &registry);
    let other = manager(&component, "tcp://10.0.0.2:5001", &registry);
    let answer = register(&here, &component, at("nse", "unix:///nse")).await;
    assert_eq!(answer.entry.url, "unix:///nse");
    assert_eq!(urls(&registry, &component).await, [PUBLIC]);
    assert_eq!(urls(&here, &component).await, ["unix:///nse"]);
    assert_eq!(urls(&other, &component).await, [PUBLIC]);
    component.end().await;
}

#[tokio::test]
async fn c61_a_changed_url_is_found_and_a_failed_change_is_not() {
    let component = component();
    let probe = Probe::<NseRegistry>::new();
    let here = manager(&component, PUBLIC, &chain![Arc::clone(&probe)]);
    let stored = at("nse", PUBLIC).entry;
    Probe::find(&probe, vec![NseRegistry::found(stored, false)]);
    register(&here, &component, at("nse", "unix:///old")).await;
    register(&here, &component, at("nse", "unix:///new")).await;
    assert_eq!(urls(&here, &component).await, ["unix:///new"]);
    probe.answer(|_| Err(Error::unavailable("told-so", "no")));
    let failed = here
        .request(&within(&component, 1), &mut at("nse", "unix:///newer"))
        .await;
    failed.expect_err("fails");
    assert_eq!(urls(&here, &component).await, ["unix:///new"]);
    assert!(probe.requests().iter().all(|request| request.entry.url == PUBLIC));
    component.end().await;
}

#[tokio::test]
async fn c62_after_a_restart_endpoints_that_are_not_back_are_not_found_but_their_deletion_is() {
    let (component, registry) = (component(), registry());
    register(
        &manager(&component, PUBLIC, &registry),
        &component,
        at("a", "unix:///a"),
    )
    .await;
    let restarted = manager(&component, PUBLIC, &registry);
    assert!(urls(&restarted, &component).await.is_empty());
    let mut found = watch(&restarted, &component, Default::default()).await;
    unregister(&registry, &component, "a").await;
    assert_eq!(next::<NseRegistry>(&mut found).await, ("a".into(), true));
    register(&restarted, &component, at("a", "unix:///a")).await;
    assert_eq!(next::<NseRegistry>(&mut found).await, ("a".into(), false));
    assert_eq!(urls(&restarted, &component).await, ["unix:///a"]);
    component.end().await;
}

#[tokio::test]
async fn what_an_earlier_life_has_registered_can_be_unregistered() {
    let (component, registry) = (component(), registry());
    register(
        &manager(&component, PUBLIC, &registry),
        &component,
        at("a", "unix:///a"),
    )
    .await;
    let restarted = manager(&component, PUBLIC, &registry);
    unregister(&restarted, &component, "a").await;
    assert!(urls(&registry, &component).await.is_empty());
    component.end().await;
}

#[tokio::test]
async fn c55_an_unknown_name_is_no_error_and_a_failure_for_a_known_one_is() {
    let component = component();
    let probe = Probe::<NseRegistry>::new();
    let here = manager(&component, PUBLIC, &chain![Arc::clone(&probe)]);
    probe.fail_closes(Some(Error::not_found("unknown", "no such endpoint")));
    unregister(&here, &component, "nobody").await;
    register(&here, &component, at("nse", "unix:///nse")).await;
    let failed = here
        .close(&within(&component, 1), &mut at("nse", "unix:///nse"))
        .await;
    assert_eq!(failed.expect_err("fails").reason(), "unknown");
    assert!(probe.closes().iter().all(|close| close.entry.url == PUBLIC));
    component.end().await;
}

#[tokio::test]
async fn a_failed_first_registration_is_forgotten() {
    let component = component();
    let probe = Probe::<NseRegistry>::answering(|_| Err(Error::unavailable("told-so", "no")));
    let bypass = LocalBypass::new(PUBLIC);
    let here: Nse = chain![Begin::server(&component), bypass.clone(), Arc::clone(&probe)];
    let failed = here
        .request(&within(&component, 1), &mut at("nse", "unix:///nse"))
        .await;
    failed.expect_err("fails");
    assert!(bypass.own.lock().is_empty());
    probe.answer(|_| Ok(()));
    register(&here, &component, at("nse", "unix:///nse")).await;
    unregister(&here, &component, "nse").await;
    assert!(bypass.own.lock().is_empty());
    component.end().await;
}

#[tokio::test]
async fn an_endpoint_must_say_where_it_listens() {
    let (component, registry) = (component(), registry());
    let here = manager(&component, PUBLIC, &registry);
    for url in ["", "no url", "://"] {
        let refused = here.request(&within(&component, 1), &mut at("nse", url)).await;
        let refused = refused.expect_err("is refused");
        assert!(
            refused.text().contains("cannot register NSE with passed URL"),
            "{refused}"
        );
    }
    component.end().await;
}
