// SPDX-License-Identifier: Apache-2.0
use futures::FutureExt;
use futures::future::join_all;
use nsm_api::registry::{Match, NetworkService, NetworkServiceEndpoint, NetworkServiceLabels};

use super::*;
use crate::core::testing::{Probe, standard_cases};
use crate::core::{Chain, Component, Element, Error, NsRegistry, NseRegistry};
use crate::registry::testing::{
    Ns, Nse, before, component, endpoint, find, item, names, next, register, service, unregister, watch,
    within,
};

fn registry<A: Registry>() -> Chain<A> {
    registry_of(Limits::default())
}

fn registry_of<A: Registry>(limits: Limits) -> Chain<A> {
    Chain::new(vec![Arc::new(Memory::<A>::new(limits))])
}

fn all() -> NetworkServiceEndpoint {
    NetworkServiceEndpoint::default()
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

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NseRegistry, _>(|| Memory::new(Limits::default()), endpoint("nse", &["a"])).await;
    standard_cases::<NsRegistry, _>(|| Memory::new(Limits::default()), service("ns", "IP")).await;
}

#[tokio::test]
async fn c1_a_name_is_matched_as_a_whole() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    register(&chain, &component, endpoint("ab", &["s"])).await;
    assert!(names(&chain, &component, named("a")).await.is_empty());
    assert_eq!(names(&chain, &component, named("ab")).await, ["ab"]);
}

#[tokio::test]
async fn c2_an_empty_query_finds_everything_in_the_order_of_names() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    for name in ["c", "a", "b"] {
        register(&chain, &component, endpoint(name, &["s"])).await;
    }
    assert_eq!(names(&chain, &component, all()).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn c3_every_service_of_the_query_must_be_offered() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    register(&chain, &component, endpoint("both", &["x", "b", "a"])).await;
    register(&chain, &component, endpoint("one", &["a"])).await;
    let mut example = offering("a");
    example.network_service_names.push("b".into());
    assert_eq!(names(&chain, &component, example).await, ["both"]);
}

fn labelled(service: &str, labels: &[(&str, &str)]) -> NetworkServiceEndpoint {
    let labels = labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()));
    let labels = NetworkServiceLabels {
        labels: labels.collect(),
    };
    NetworkServiceEndpoint {
        network_service_labels: [(service.to_string(), labels)].into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn c4_labels_of_the_query_must_be_there() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    let mut stored = endpoint("nse", &["s"]);
    stored.entry.network_service_labels = labelled("s", &[("a", "1"), ("b", "2")]).network_service_labels;
    register(&chain, &component, stored).await;
    for (example, expected) in [
        (labelled("s", &[("a", "1")]), true),
        (labelled("s", &[("a", "2")]), false),
        (labelled("t", &[]), false),
        (labelled("s", &[]), true),
    ] {
        let found = names(&chain, &component, example.clone()).await;
        assert_eq!(!found.is_empty(), expected, "{example:?}");
    }
}

#[tokio::test]
async fn c5_a_url_is_matched_in_part() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    register(&chain, &component, endpoint("10.0.0.1:50011", &["s"])).await;
    let example = NetworkServiceEndpoint {
        url: "tcp://10.0.0.1:5001".into(),
        ..offering("s")
    };
    assert_eq!(names(&chain, &component, example).await.len(), 1);
}

#[tokio::test]
async fn c6_an_expiration_is_matched_by_its_second() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let mut stored = endpoint("nse", &["s"]);
    stored.entry.expiration_time = at(600, 5);
    register(&chain, &component, stored).await;
    register(&chain, &component, endpoint("without", &["s"])).await;
    for (wanted, expected) in [(at(600, 9), 1), (at(601, 5), 0)] {
        let mut example = all();
        example.expiration_time = wanted;
        assert_eq!(names(&chain, &component, example).await.len(), expected);
    }
}

#[tokio::test]
async fn c7_c8_payload_and_matches_of_a_service_are_compared_as_they_stand() {
    let (component, chain) = (component(), registry::<NsRegistry>());
    let to = |key: &str| Match {
        source_selector: [(key.to_string(), "1".to_string())].into(),
        ..Default::default()
    };
    let mut stored = service("ns", "");
    stored.entry.matches = vec![to("a"), to("b")];
    register(&chain, &component, stored).await;
    let example = |payload: &str, matches| NetworkService {
        payload: payload.into(),
        matches,
        ..Default::default()
    };
    for (example, expected) in [
        (example("IP", vec![]), 0),
        (example("", vec![to("a"), to("b")]), 1),
        (example("", vec![to("b"), to("a")]), 0),
    ] {
        assert_eq!(names(&chain, &component, example).await.len(), expected);
    }
}

#[tokio::test]
async fn c9_finding_nothing_is_an_empty_answer_and_an_absent_example_an_empty_one() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    assert!(names(&chain, &component, named("a")).await.is_empty());
    register(&chain, &component, endpoint("nse", &["s"])).await;
    let found = chain.find(&within(&component, 1), Default::default()).await;
    assert_eq!(found.expect("finds").count().await, 1);
}

#[tokio::test]
async fn c10_c14_a_watch_tells_what_is_there_and_then_every_change() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    register(&chain, &component, endpoint("a", &["s"])).await;
    let mut found = watch(&chain, &component, all()).await;
    let changed = endpoint("a", &["s", "t"]);
    register(&chain, &component, changed).await;
    register(&chain, &component, endpoint("b", &["s"])).await;
    assert_eq!(next::<NseRegistry>(&mut found).await, ("a".into(), false));
    assert_eq!(next::<NseRegistry>(&mut found).await, ("a".into(), false));
    assert_eq!(next::<NseRegistry>(&mut found).await, ("b".into(), false));
    unregister(&chain, &component, "a").await;
    let answer = found.next().await.expect("goes on").expect("an answer");
    let (entry, deleted) = NseRegistry::told(&answer).expect("an entry");
    assert!(deleted);
    assert_eq!(
        (entry.name.as_str(), entry.url.as_str()),
        ("a", "tcp://a"),
        "the last state"
    );
}

#[tokio::test]
async fn c11_a_dropped_watch_frees_its_place() {
    let limits = Limits {
        watchers: 1,
        ..Default::default()
    };
    let (component, chain) = (component(), registry_of::<NseRegistry>(limits));
    let first = watch(&chain, &component, all()).await;
    let query = NseRegistry::query(all(), true);
    let refused = chain
        .find(&within(&component, 1), query)
        .await
        .err()
        .expect("is full");
    assert_eq!(refused.reason(), "too-many-watchers");
    drop(first);
    let mut second = watch(&chain, &component, all()).await;
    register(&chain, &component, endpoint("a", &["s"])).await;
    assert_eq!(next::<NseRegistry>(&mut second).await, ("a".into(), false));
}

#[tokio::test]
async fn c12_one_who_does_not_read_delays_nobody_and_is_told_what_was_lost() {
    let limits = Limits {
        unread: 8,
        ..Default::default()
    };
    let (component, chain) = (component(), registry_of::<NseRegistry>(limits));
    register(&chain, &component, endpoint("early", &["s"])).await;
    let mut stalled = watch(&chain, &component, all()).await;
    let mut reader = watch(&chain, &component, all()).await;
    assert_eq!(next::<NseRegistry>(&mut reader).await.0, "early");
    for count in 0..20 {
        register(&chain, &component, endpoint(&format!("nse-{count}"), &["s"])).await;
        assert_eq!(next::<NseRegistry>(&mut reader).await.0, format!("nse-{count}"));
    }
    assert_eq!(next::<NseRegistry>(&mut stalled).await.0, "early");
    let lost = stalled
        .next()
        .await
        .expect("goes on")
        .expect_err("has lost changes");
    assert_eq!(lost.reason(), "lagged");
    assert!(stalled.next().await.is_none());
    let mut again = watch(&chain, &component, all()).await;
    for _ in 0..21 {
        next::<NseRegistry>(&mut again).await;
    }
    assert!(again.next().now_or_never().is_none(), "waits for the next change");
}

#[tokio::test]
async fn changes_of_one_entry_that_are_not_read_yet_become_one() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    let mut found = watch(&chain, &component, all()).await;
    for count in 0..5000 {
        let mut changed = endpoint("a", &["s"]);
        changed.entry.url = format!("tcp://a:{count}");
        register(&chain, &component, changed).await;
    }
    let answer = found.next().await.expect("goes on").expect("an answer");
    assert_eq!(
        answer.network_service_endpoint.expect("an entry").url,
        "tcp://a:4999"
    );
    assert!(found.next().now_or_never().is_none());
}

#[tokio::test]
async fn c13_registering_the_same_again_succeeds_and_tells_nothing_new() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    register(&chain, &component, endpoint("a", &["s"])).await;
    let mut found = watch(&chain, &component, all()).await;
    register(&chain, &component, endpoint("a", &["s"])).await;
    assert_eq!(next::<NseRegistry>(&mut found).await.0, "a");
    assert!(found.next().now_or_never().is_none());
}

#[tokio::test]
async fn an_entry_that_stops_being_like_what_is_watched_is_told_as_deleted() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    register(&chain, &component, endpoint("a", &["s"])).await;
    let mut found = watch(&chain, &component, offering("s")).await;
    assert_eq!(next::<NseRegistry>(&mut found).await, ("a".into(), false));
    register(&chain, &component, endpoint("a", &["t"])).await;
    assert_eq!(next::<NseRegistry>(&mut found).await, ("a".into(), true));
    register(&chain, &component, endpoint("a", &["u"])).await;
    assert!(
        found.next().now_or_never().is_none(),
        "it is not concerned any more"
    );
    assert!(names(&chain, &component, offering("s")).await.is_empty());
    assert_eq!(names(&chain, &component, offering("u")).await, ["a"]);
}

#[tokio::test]
async fn a_watch_hears_only_of_what_it_asked_for() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    let mut by_name = watch(&chain, &component, named("a")).await;
    let mut by_service = watch(&chain, &component, offering("t")).await;
    register(&chain, &component, endpoint("b", &["s"])).await;
    register(&chain, &component, endpoint("a", &["s", "t"])).await;
    assert_eq!(next::<NseRegistry>(&mut by_name).await.0, "a");
    assert_eq!(next::<NseRegistry>(&mut by_service).await.0, "a");
    assert!(by_name.next().now_or_never().is_none());
    assert!(by_service.next().now_or_never().is_none());
}

#[tokio::test]
async fn services_are_kept_found_and_watched_like_endpoints() {
    let (component, chain): (Component, Ns) = (component(), registry::<NsRegistry>());
    let mut found = watch(&chain, &component, NetworkService::default()).await;
    register(&chain, &component, service("ns", "IP")).await;
    assert_eq!(next::<NsRegistry>(&mut found).await, ("ns".into(), false));
    unregister(&chain, &component, "ns").await;
    assert_eq!(next::<NsRegistry>(&mut found).await, ("ns".into(), true));
}

#[tokio::test]
async fn c53_what_fails_behind_is_not_stored_and_a_failed_refresh_changes_nothing() {
    let component = component();
    let probe = Probe::<NseRegistry>::answering(|_| Err(Error::unavailable("told-so", "no")));
    let chain: Nse = before(Memory::new(Limits::default()), &probe);
    let mut failed = endpoint("a", &["s"]);
    chain
        .request(&within(&component, 1), &mut failed)
        .await
        .expect_err("fails");
    assert!(names(&chain, &component, all()).await.is_empty());
    probe.answer(|_| Ok(()));
    register(&chain, &component, endpoint("a", &["s"])).await;
    probe.answer(|_| Err(Error::unavailable("told-so", "no")));
    let mut refresh = endpoint("a", &["t"]);
    chain
        .request(&within(&component, 1), &mut refresh)
        .await
        .expect_err("fails");
    assert_eq!(names(&chain, &component, offering("s")).await, ["a"]);
}

#[tokio::test]
async fn c55_unregistering_what_is_unknown_succeeds() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    unregister(&chain, &component, "nobody").await;
}

#[tokio::test]
async fn a_full_registry_refuses_new_names_and_refreshes_known_ones() {
    let limits = Limits {
        entries: 1,
        ..Default::default()
    };
    let (component, chain) = (component(), registry_of::<NseRegistry>(limits));
    register(&chain, &component, endpoint("a", &["s"])).await;
    let mut more = endpoint("b", &["s"]);
    let refused = chain
        .request(&within(&component, 1), &mut more)
        .await
        .expect_err("is full");
    assert_eq!(refused.reason(), "registry-full");
    register(&chain, &component, endpoint("a", &["t"])).await;
    unregister(&chain, &component, "a").await;
    register(&chain, &component, endpoint("b", &["s"])).await;
}

#[tokio::test]
async fn ten_thousand_endpoints_are_found_by_service_and_by_name() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    for count in 0..10_000 {
        let service = format!("service-{}", count % 1000);
        register(&chain, &component, endpoint(&format!("nse-{count}"), &[&service])).await;
    }
    for count in [0, 999, 5000, 9999] {
        let name = format!("nse-{count}");
        assert_eq!(find(&chain, &component, named(&name)).await[0].name, name);
        let service = format!("service-{}", count % 1000);
        let found = names(&chain, &component, offering(&service)).await;
        assert_eq!((found.len(), found.contains(&name)), (10, true));
    }
}

#[tokio::test]
async fn five_thousand_watchers_hear_of_one_registration() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    let watches = join_all((0..5000).map(|_| watch(&chain, &component, offering("s"))));
    let mut watches = watches.await;
    let waiting = join_all(watches.iter_mut().map(|found| async {
        let answer = found.next().await.expect("goes on").expect("an answer");
        item::<NseRegistry>(&answer)
    }));
    let registered = register(&chain, &component, endpoint("a", &["s"]));
    let (heard, _) = futures::join!(waiting, registered);
    assert!(heard.iter().all(|told| *told == ("a".to_string(), false)));
    assert_eq!(heard.len(), 5000);
}

#[tokio::test(start_paused = true)]
async fn watches_end_with_the_component() {
    let (component, chain) = (component(), registry::<NseRegistry>());
    let mut found = watch(&chain, &component, all()).await;
    component.end().await;
    let ended = found.next().await.expect("goes on").expect_err("ends");
    assert_eq!(ended.reason(), "shutdown");
    assert!(found.next().await.is_none());
}

/// Memory answers with its own entries and with those behind it.
#[tokio::test]
async fn what_is_behind_is_found_as_well() {
    let component = component();
    let (front, back) = (
        Memory::<NseRegistry>::new(Limits::default()),
        Memory::new(Limits::default()),
    );
    back.0
        .put(Arc::new(endpoint("back", &["s"]).entry))
        .expect("fits");
    let chain = Chain::new(vec![
        Arc::new(front) as Arc<dyn Element<NseRegistry>>,
        Arc::new(back),
    ]);
    register(&chain, &component, endpoint("both", &["s"])).await;
    assert_eq!(names(&chain, &component, all()).await, ["both", "back", "both"]);
    let mut found = watch(&chain, &component, named("late")).await;
    register(&chain, &component, endpoint("late", &["s"])).await;
    assert_eq!(next::<NseRegistry>(&mut found).await, ("late".into(), false));
}
