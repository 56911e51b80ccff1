// SPDX-License-Identifier: Apache-2.0
use nsm_sdk::core::{NsRegistry, NseRegistry};
use serde_json::json;

use super::*;

fn read<A: Kind>(object: Value) -> Object<A> {
    let object = serde_json::from_value(object).expect("has metadata");
    Object::read(object, &"home".into())
}

#[test]
fn later_states_have_larger_numbers_and_what_is_no_number_is_news() {
    let version = |text: &str| Version::new(text.into());
    assert!(version("10").is_after(&version("9")));
    assert!(!version("9").is_after(&version("10")));
    assert!(!version("9").is_after(&version("9")));
    assert!(version("b").is_after(&version("a")) && version("a").is_after(&version("b")));
    assert!(!version("a").is_after(&version("a")));
}

#[test]
fn our_objects_come_before_those_of_other_namespaces() {
    let object = |namespace: &str| {
        read::<NsRegistry>(json!({"metadata": {"name": "s", "namespace": namespace}, "spec": {}})).key
    };
    let mut keys = [object("a"), object("home"), object("z")];
    keys.sort();
    let namespaces: Vec<&str> = keys.iter().map(|key| &*key.namespace).collect();
    assert_eq!(namespaces, ["home", "a", "z"]);
}

#[test]
fn an_object_without_a_specification_is_an_empty_one() {
    let object = read::<NsRegistry>(json!({"metadata": {"name": "s", "namespace": "home"}}));
    assert_eq!(object.entry_name(), Some("s"));
    assert!(object.is_of_people());
}

#[test]
fn nonsense_is_a_fault_and_never_a_crash() {
    let long = "x".repeat(70_000);
    for (spec, reason) in [
        (json!("text"), "BadSpec"),
        (json!([1, 2]), "BadSpec"),
        (json!({"network_service_labels": {"s": 5}}), "BadSpec"),
        (json!({"expiration_time": {"seconds": "soon"}}), "BadSpec"),
        (
            json!({"expiration_time": {"seconds": i64::MAX, "nanos": -5}}),
            "BadTime",
        ),
        (json!({"url": "tcp://:99999"}), "BadURL"),
        (json!({"name": long.clone()}), "BadName"),
        (json!({"path_ids": [long]}), "TooLarge"),
    ] {
        let object = read::<NseRegistry>(json!({"metadata": {"name": "n"}, "spec": spec, "status": 3}));
        assert_eq!(object.entry.expect_err("is nonsense").reason, reason);
    }
}

#[test]
fn what_the_status_says_is_read() {
    let condition = json!({
        "type": "Accepted", "status": "False", "reason": "BadURL", "observedGeneration": 3,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let object = json!({"metadata": {"name": "n"}, "status": {"conditions": [condition]}});
    let told = Told {
        is_accepted: false,
        reason: "BadURL".into(),
        generation: 3,
    };
    assert_eq!(read::<NseRegistry>(object).told, Some(told));
}
