// SPDX-License-Identifier: Apache-2.0
use std::time::SystemTime;

use nsm_api::registry::NetworkServiceEndpoint;
use nsm_sdk::core::Registration;
use serde_json::json;
use tokio::time::sleep;

use super::*;
use crate::registry::testing::{MINUTE, Model, Replica, endpoint, next, service};

const NSE: &str = "networkserviceendpoints";
const NS: &str = "networkservices";

async fn one() -> (Model, Replica) {
    let model = Model::new();
    let replica = Replica::start(&model, 1).await;
    (model, replica)
}

/// Two replicas.
async fn two() -> (Model, Replica, Replica) {
    let (model, one) = one().await;
    let two = Replica::start(&model, 2).await;
    (model, one, two)
}

fn time(of: SystemTime) -> serde_json::Value {
    let time = prost_types::Timestamp::from(of);
    json!({ "seconds": time.seconds, "nanos": time.nanos })
}

fn offer(url: &str, until: SystemTime) -> serde_json::Value {
    json!({ "network_service_names": ["s"], "url": url, "expiration_time": time(until), "path_ids": ["spiffe://t/a"] })
}

#[tokio::test(start_paused = true)]
async fn c101_an_endpoint_is_written_into_our_namespace_and_changed_by_the_next_registration() {
    let (model, replica) = one().await;
    let answer = replica.registers("nse", "a").await.expect("registers");
    assert_eq!(replica.left(&answer), MINUTE);
    let stored = model.stored(NSE, "nse").expect("is stored");
    assert_eq!(stored["spec"]["network_service_names"], json!(["s"]));
    assert!(stored["spec"]["expiration_time"]["seconds"].is_i64());
    let changed = NetworkServiceEndpoint {
        url: "tcp://10.0.0.2:5001".into(),
        ..endpoint("nse", "a")
    };
    replica.puts(&replica.nse, changed).await.expect("registers");
    let again = model.stored(NSE, "nse").expect("is stored");
    assert_eq!(again["spec"]["url"], json!("tcp://10.0.0.2:5001"));
    assert_eq!(again["metadata"]["uid"], stored["metadata"]["uid"]);
    assert_eq!(replica.finds(&replica.nse).await[0].url, "tcp://10.0.0.2:5001");
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_registered_or_unregistered_is_found_or_not_at_once() {
    let (model, replica) = one().await;
    replica.registers("nse", "a").await.expect("registers");
    assert_eq!(replica.names().await, ["nse"]);
    replica
        .unregisters(&replica.nse, "nse")
        .await
        .expect("unregisters");
    assert!(replica.names().await.is_empty());
    assert_eq!(model.stored(NSE, "nse"), None);
    replica
        .unregisters(&replica.nse, "nse")
        .await
        .expect("an unknown name is fine");
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn most_refreshes_are_not_written() {
    let (model, replica) = one().await;
    replica.registers("nse", "a").await.expect("registers");
    assert_eq!(model.writes().len(), 1);
    let mut written = 0;
    for _ in 0..36 {
        sleep(Duration::from_secs(40)).await;
        let answer = replica.registers("nse", "a").await.expect("registers");
        assert_eq!(
            replica.left(&answer),
            MINUTE,
            "what is promised is what is asked for"
        );
        written += model.writes().len();
    }
    assert_eq!(written, 9, "every fourth of 36 refreshes");
    assert_eq!(replica.names().await, ["nse"]);
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c102_what_has_expired_is_not_found_and_deleted_unless_it_is_renewed_meanwhile() {
    let model = Model::new();
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
    model.put(NSE, "home", "old", offer("tcp://old:1", past));
    model.put(NSE, "home", "renewed", offer("tcp://renewed:1", past));
    model.put(NSE, "elsewhere", "foreign", offer("tcp://foreign:1", past));
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000);
    model.put(NSE, "home", "valid", offer("tcp://valid:1", far));
    let replica = Replica::start(&model, 1).await;
    replica.shows(&["valid"]).await;
    model.put(NSE, "home", "renewed", offer("tcp://renewed:2", far));
    replica.shows(&["renewed", "valid"]).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(model.stored(NSE, "old"), None);
    assert!(model.stored(NSE, "renewed").is_some());
    let deletions = model.writes();
    assert!(
        deletions
            .iter()
            .any(|what| what.ends_with("elsewhere/networkserviceendpoints/foreign")),
        "{deletions:?}"
    );
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c103_a_timer_of_one_replica_does_not_delete_what_the_other_has_refreshed() {
    let (model, one, two) = two().await;
    one.registers("nse", "a").await.expect("registers");
    two.shows(&["nse"]).await;
    sleep(Duration::from_secs(40)).await;
    two.registers("nse", "a").await.expect("registers");
    sleep(Duration::from_secs(40)).await;
    assert!(
        model.stored(NSE, "nse").is_some(),
        "the timer of the first has fired"
    );
    assert_eq!(
        (one.names().await, two.names().await),
        (vec!["nse".into()], vec!["nse".to_string()])
    );
    sleep(MINUTE).await;
    assert_eq!(
        model.stored(NSE, "nse"),
        None,
        "the timer of the second has fired"
    );
    one.component.end().await;
    two.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_that_died_has_registered_is_deleted_by_the_others_within_three_times_its_time() {
    let (model, one, two) = two().await;
    one.registers("nse", "a").await.expect("registers");
    two.shows(&["nse"]).await;
    one.component.end().await;
    sleep(3 * MINUTE - Duration::from_secs(1)).await;
    assert_eq!(two.names().await, ["nse"]);
    sleep(Duration::from_secs(5)).await;
    assert!(two.names().await.is_empty());
    assert_eq!(model.stored(NSE, "nse"), None);
    two.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c104_what_one_replica_registered_the_other_unregisters() {
    let (model, one, two) = two().await;
    one.registers("nse", "a").await.expect("registers");
    two.shows(&["nse"]).await;
    let mut watch = one.watches().await;
    assert_eq!(next(&mut watch).await, ("nse".into(), false));
    two.unregisters(&two.nse, "nse").await.expect("unregisters");
    assert_eq!(model.stored(NSE, "nse"), None);
    assert_eq!(next(&mut watch).await, ("nse".into(), true));
    sleep(2 * MINUTE).await;
    assert!(one.names().await.is_empty());
    one.component.end().await;
    two.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c105_changes_by_others_reach_those_who_watch() {
    let (model, replica) = one().await;
    let mut watch = replica.watches().await;
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000);
    model.put(NSE, "elsewhere", "nse", offer("tcp://a:1", far));
    assert_eq!(next(&mut watch).await, ("nse".into(), false));
    model.put(NSE, "elsewhere", "nse", offer("tcp://a:2", far));
    assert_eq!(next(&mut watch).await, ("nse".into(), false));
    model.delete(NSE, "elsewhere", "nse");
    assert_eq!(next(&mut watch).await, ("nse".into(), true));
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c106_a_name_that_kubernetes_refuses_leaves_nothing() {
    let (model, replica) = one().await;
    let refused = replica.registers("NSE", "a").await.expect_err("is refused");
    assert_eq!(refused.reason(), "refused-by-kubernetes");
    assert!(refused.text().contains("RFC 1123"), "{refused}");
    assert!(replica.names().await.is_empty());
    assert_eq!(model.stored(NSE, "NSE"), None);
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c107_a_watch_that_ends_floods_nobody_and_misses_nothing() {
    let (model, replica) = one().await;
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000);
    for name in ["gone", "same", "changed"] {
        model.put(NSE, "home", name, offer("tcp://a:1", far));
    }
    replica.shows(&["changed", "gone", "same"]).await;
    let mut watch = replica.watches().await;
    for _ in 0..3 {
        next(&mut watch).await;
    }
    model.goes();
    model.delete(NSE, "home", "gone");
    model.put(NSE, "home", "changed", offer("tcp://a:2", far));
    model.forgets();
    model.comes_back();
    replica.shows(&["changed", "same"]).await;
    let told = [next(&mut watch).await, next(&mut watch).await];
    assert_eq!(told, [("changed".into(), false), ("gone".into(), true)]);
    model.put(NSE, "home", "last", offer("tcp://a:1", far));
    assert_eq!(
        next(&mut watch).await,
        ("last".into(), false),
        "and nothing between"
    );
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c108_finding_asks_nobody() {
    let (model, replica) = one().await;
    for name in 0..100 {
        replica
            .registers(&format!("nse-{name}"), "a")
            .await
            .expect("registers");
    }
    let _before = model.requests();
    for _ in 0..100 {
        assert_eq!(replica.names().await.len(), 100);
    }
    assert_eq!(model.requests(), 0);
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_others_cross_is_made_on_top_of_theirs() {
    let (model, replica) = one().await;
    replica.registers("nse", "a").await.expect("registers");
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000);
    model.before_write(move |model| model.put(NSE, "home", "nse", offer("tcp://other:1", far)));
    let changed = NetworkServiceEndpoint {
        url: "tcp://10.0.0.2:5001".into(),
        ..endpoint("nse", "a")
    };
    replica.puts(&replica.nse, changed).await.expect("registers");
    let stored = model.stored(NSE, "nse").expect("is stored");
    assert_eq!(stored["spec"]["url"], json!("tcp://10.0.0.2:5001"));
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_changes_hands_before_the_write_is_not_taken() {
    let (model, replica) = one().await;
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000);
    model.before_write(move |model| model.put(NSE, "home", "nse", offer("tcp://a:1", far)));
    let refused = replica
        .registers("nse", "b")
        .await
        .expect_err("somebody else was faster");
    assert_eq!(refused.reason(), "conflict");
    assert_eq!(replica.names().await, ["nse"], "and whoever judges knows now");
    let stored = model.stored(NSE, "nse").expect("is stored");
    assert_eq!(stored["spec"]["path_ids"], json!(["spiffe://t/a"]));
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_changes_hands_after_it_was_judged_is_not_taken_and_not_deleted() {
    let (model, one, replica) = two().await;
    one.registers("nse", "a").await.expect("registers");
    replica.shows(&["nse"]).await;
    let judged = |owner: Option<&str>| {
        let ctx = replica.ctx();
        ctx.call().insert(Judged(owner.map(String::from)));
        ctx
    };
    let mut message = Registration {
        entry: endpoint("nse", "b"),
        path: Default::default(),
    };
    for refused in [
        replica.nse.request(&judged(None), &mut message.clone()).await,
        replica.nse.close(&judged(None), &mut message.clone()).await,
    ] {
        assert_eq!(refused.expect_err("it is another's").reason(), "conflict");
    }
    let stored = model.stored(NSE, "nse").expect("is stored");
    assert_eq!(stored["spec"]["path_ids"][0], json!("spiffe://t/a"));
    let known = judged(Some("spiffe://t/a"));
    let done = replica.nse.request(&known, &mut message).await;
    done.expect("whose it is, whoever judged knew, and has allowed it");
    let stored = model.stored(NSE, "nse").expect("is stored");
    assert_eq!(stored["spec"]["path_ids"][0], json!("spiffe://t/b"));
    one.component.end().await;
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_others_delete_is_made_again_by_the_next_registration() {
    let (model, replica) = one().await;
    replica.registers("nse", "a").await.expect("registers");
    model.delete(NSE, "home", "nse");
    replica.shows(&[]).await;
    replica.registers("nse", "a").await.expect("registers");
    assert!(model.stored(NSE, "nse").is_some());
    assert_eq!(replica.names().await, ["nse"]);
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_survived_in_what_was_known() {
    let (model, replica) = one().await;
    let mut is_up = replica.api.is_up();
    for name in ["comes-back", "stays-away"] {
        replica.registers(name, "a").await.expect("registers");
    }
    sleep(Duration::from_secs(25)).await;
    model.goes();
    is_up.wait_for(|is_up| !is_up).await.expect("is told");
    let refused = replica
        .registers("new", "a")
        .await
        .expect_err("cannot be written");
    assert_eq!(refused.reason(), "api-server-unreachable");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    let refused = replica
        .unregisters(&replica.nse, "stays-away")
        .await
        .expect_err("cannot be written");
    assert_eq!(refused.reason(), "api-server-unreachable");
    for _ in 0..15 {
        sleep(Duration::from_secs(40)).await;
        replica
            .registers("comes-back", "a")
            .await
            .expect("is renewed in memory");
        let found = replica.finds(&replica.nse).await;
        assert_eq!(found.len(), 2, "nothing expires");
        assert!(
            found.iter().all(|entry| !replica.left(entry).is_zero()),
            "and nothing looks expired"
        );
    }
    model.comes_back();
    is_up.wait_for(|is_up| *is_up).await.expect("is told");
    for _ in 0..4 {
        sleep(Duration::from_secs(40)).await;
        replica.registers("comes-back", "a").await.expect("registers");
    }
    assert_eq!(replica.names().await, ["comes-back"]);
    assert_eq!(model.stored(NSE, "stays-away"), None);
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_first_registration_stays_whichever_replica_is_visited() {
    let (_model, one, two) = two().await;
    let first = NetworkServiceEndpoint {
        initial_registration_time: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
        ..endpoint("nse", "a")
    };
    one.puts(&one.nse, first.clone()).await.expect("registers");
    two.shows(&["nse"]).await;
    let later = NetworkServiceEndpoint {
        initial_registration_time: Some(prost_types::Timestamp { seconds: 9, nanos: 0 }),
        ..endpoint("nse", "a")
    };
    let answer = two.puts(&two.nse, later).await.expect("registers");
    assert_eq!(answer.initial_registration_time, first.initial_registration_time);
    one.component.end().await;
    two.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c100_a_service_that_people_wrote_is_found_by_the_name_of_its_object_and_stays_as_they_wrote_it() {
    let (model, replica) = one().await;
    let written = json!({ "payload": "ETHERNET", "matches": [{ "routes": [{}] }] });
    model.put(NS, "elsewhere", "s", written);
    let found = async {
        while replica.finds(&replica.ns).await.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    found.await;
    replica
        .puts(&replica.ns, service("s", "a"))
        .await
        .expect("is fine");
    replica.unregisters(&replica.ns, "s").await.expect("is fine");
    let found = replica.finds(&replica.ns).await;
    assert_eq!(
        (
            found[0].name.as_str(),
            found[0].payload.as_str(),
            found[0].matches.len()
        ),
        ("s", "ETHERNET", 1)
    );
    assert_eq!(model.stored(NS, "s"), None, "no other one is made");
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_is_written_once_and_again_when_it_changes() {
    let (model, replica) = one().await;
    replica
        .puts(&replica.ns, service("s", "a"))
        .await
        .expect("registers");
    sleep(Duration::from_secs(1)).await;
    let _status_too = model.writes();
    replica
        .puts(&replica.ns, service("s", "a"))
        .await
        .expect("registers");
    assert!(model.writes().is_empty());
    let mut changed = service("s", "a");
    changed.payload = "ETHERNET".into();
    replica.puts(&replica.ns, changed).await.expect("registers");
    let stored = model.stored(NS, "s").expect("is stored");
    assert_eq!(stored["spec"]["payload"], json!("ETHERNET"));
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_told_in_the_status_and_hinders_nobody() {
    let (model, replica) = one().await;
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000);
    model.put(NSE, "home", "number", json!(7));
    model.put(
        NSE,
        "home",
        "types",
        json!({ "network_service_names": { "a": 1 } }),
    );
    model.put(NSE, "home", "url", offer("gopher://x", far));
    model.put(NSE, "home", "good", offer("tcp://a:1", far));
    replica.shows(&["good"]).await;
    sleep(Duration::from_secs(1)).await;
    for (name, reason) in [("number", "BadSpec"), ("types", "BadSpec"), ("url", "BadURL")] {
        let stored = model.stored(NSE, name).expect("is there");
        let condition = &stored["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("Accepted"), &json!("False"))
        );
        assert_eq!(condition["reason"], json!(reason));
    }
    assert_eq!(
        model.stored(NSE, "good").expect("is there")["status"],
        json!(null),
        "all is well with it"
    );
    model.put(NSE, "home", "url", offer("tcp://mended:1", far));
    replica.shows(&["good", "url"]).await;
    sleep(Duration::from_secs(1)).await;
    let mended = model.stored(NSE, "url").expect("is there");
    assert_eq!(mended["status"]["conditions"][0]["status"], json!("True"));
    replica
        .registers("number", "a")
        .await
        .expect("takes the place of nonsense");
    assert_eq!(replica.names().await, ["good", "number", "url"]);
    replica.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_several_objects_of_one_name_ours_counts_and_the_others_are_told() {
    let (model, replica) = one().await;
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000);
    model.put(NSE, "b", "nse", offer("tcp://b:1", far));
    model.put(NSE, "a", "nse", offer("tcp://a:1", far));
    replica.shows(&["nse"]).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(replica.finds(&replica.nse).await[0].url, "tcp://a:1");
    replica.registers("nse", "a").await.expect("registers");
    assert_eq!(replica.finds(&replica.nse).await[0].url, "tcp://10.0.0.1:5001");
    replica
        .unregisters(&replica.nse, "nse")
        .await
        .expect("unregisters");
    assert_eq!(replica.finds(&replica.nse).await[0].url, "tcp://a:1");
    replica.component.end().await;
}
