// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use nsm_sdk::core::NseRegistry;
use nsm_sdk::registry::queries::Registry as _;
use serde_json::json;

use super::*;
use crate::registry::object::Told;

fn object(namespace: &str, name: &str, uid: &str, version: u64) -> Object<NseRegistry> {
    let object = json!({
        "metadata": { "name": name, "namespace": namespace, "uid": uid, "resourceVersion": version.to_string() },
        "spec": { "url": format!("tcp://{version}:1"), "expiration_time": { "seconds": 1000 } },
    });
    Object::read(
        serde_json::from_value(object).expect("has metadata"),
        &"home".into(),
    )
}

fn ours(name: &str, uid: &str, version: u64) -> Object<NseRegistry> {
    object("home", name, uid, version)
}

fn url(cache: &Cache<NseRegistry>, name: &str) -> Option<String> {
    Some(cache.found(name)?.entry?.url.clone())
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn only_a_later_state_counts_whoever_tells_it() {
    let cache = Cache::new("home");
    cache.is_now(ours("a", "1", 7));
    cache.tells(ours("a", "1", 5));
    assert_eq!(url(&cache, "a").as_deref(), Some("tcp://7:1"));
    cache.tells(ours("a", "1", 8));
    cache.is_now(ours("a", "1", 7));
    assert_eq!(url(&cache, "a").as_deref(), Some("tcp://8:1"));
}

#[test]
fn what_we_have_deleted_does_not_come_back_by_older_news() {
    let cache = Cache::new("home");
    cache.is_now(ours("a", "1", 7));
    cache.was_deleted(&cache.key("a"), &"1".into());
    cache.tells(ours("a", "1", 6));
    cache.tells(ours("a", "1", 7));
    assert_eq!(url(&cache, "a"), None);
    cache.is_gone(&ours("a", "1", 8));
    cache.tells(ours("a", "2", 9));
    assert_eq!(url(&cache, "a").as_deref(), Some("tcp://9:1"));
}

#[test]
fn an_answer_that_the_watch_has_overtaken_is_not_news() {
    let cache = Cache::new("home");
    cache.tells(ours("a", "1", 5));
    cache.is_gone(&ours("a", "1", 8));
    cache.is_now(ours("a", "1", 7));
    assert_eq!(url(&cache, "a"), None);
    cache.is_now(ours("a", "2", 9));
    assert_eq!(url(&cache, "a").as_deref(), Some("tcp://9:1"));
}

#[test]
fn the_end_of_an_earlier_life_ends_no_later_one() {
    let cache = Cache::new("home");
    cache.is_now(ours("a", "2", 9));
    cache.is_gone(&ours("a", "1", 8));
    assert!(url(&cache, "a").is_some());
}

#[test]
fn a_list_takes_away_what_it_does_not_name_but_not_what_we_have_written_meanwhile() {
    let cache = Cache::new("home");
    for name in ["gone", "same", "deleted"] {
        cache.tells(ours(name, name, 5));
    }
    cache.list_begins();
    cache.tells(ours("same", "same", 5));
    cache.is_now(ours("new", "new", 9));
    cache.was_deleted(&cache.key("deleted"), &"deleted".into());
    cache.tells(ours("deleted", "deleted", 5));
    cache.list_ends();
    let found = ["gone", "same", "deleted", "new"].map(|name| url(&cache, name).is_some());
    assert_eq!(found, [false, true, false, true]);
    assert_eq!(cache.len(), 2);
}

#[test]
fn what_is_due_is_kept_or_over_as_long_as_it_is_what_we_know() {
    let cache = Cache::new("home");
    cache.tells(ours("a", "1", 5));
    assert_eq!(cache.next_due(), Some(at(1000)));
    assert!(cache.due(at(999), 9).is_empty());
    let due = cache.due(at(1000), 9).pop().expect("is due");
    cache.keep(&due.key, &due.version, at(2000));
    let kept = cache.found("a").and_then(|known| known.entry).expect("is found");
    assert_eq!(NseRegistry::expires(&kept), Some(at(2000)));
    assert_eq!(cache.found("a").expect("is found").stored, Some(at(1000)));
    cache.is_over(&due.key, &due.version, Some(at(3000)));
    assert_eq!((url(&cache, "a"), cache.next_due()), (None, Some(at(3000))));
    assert!(cache.own("a").expect("is still there").is_over);
    cache.tells(ours("a", "1", 6));
    assert!(url(&cache, "a").is_some());
    cache.is_over(&due.key, &due.version, None);
    assert!(url(&cache, "a").is_some(), "that was about an earlier state");
}

#[test]
fn one_of_several_of_a_name_is_found_and_the_others_are_told() {
    let cache = Cache::new("home");
    cache.tells(object("b", "a", "1", 5));
    cache.tells(object("a", "a", "2", 6));
    assert_eq!(url(&cache, "a").as_deref(), Some("tcp://6:1"));
    let wrong = cache.next_wrong().expect("one is told");
    assert_eq!(&*wrong.key.namespace, "b");
    let told = Told {
        is_accepted: false,
        reason: "NameTaken".into(),
        generation: 0,
    };
    assert_eq!(wrong.told, told);
    assert!(cache.next_wrong().is_none());
    cache.tells(ours("a", "3", 7));
    assert_eq!(url(&cache, "a").as_deref(), Some("tcp://7:1"));
    cache.is_gone(&ours("a", "3", 8));
    assert_eq!(url(&cache, "a").as_deref(), Some("tcp://6:1"));
}
