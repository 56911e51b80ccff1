// SPDX-License-Identifier: Apache-2.0

use super::*;

fn asked(node: &str) -> (Place, Request) {
    let mut request = Request::default();
    request.connection.network_service = "s".into();
    request.connection.labels = [("nodeName".to_string(), node.to_string())].into();
    (Place::of(&request).expect("a place"), request)
}

fn commands(folder: &Path, command: &str, most: usize) -> Commands {
    Commands::new(command, &[], folder, most).expect("good settings")
}

#[test]
fn a_line_is_split_as_people_expect_and_templates_stay_whole() {
    let cases: [(&str, &[&str]); 6] = [
        ("a b  c", &["a", "b", "c"]),
        ("a 'b c' \"d 'e'\"", &["a", "b c", "d 'e'"]),
        ("a '' x\"y\"z", &["a", "", "xyz"]),
        (
            "run --node={{ index .Labels \"nodeName\" }} {{ uuid }}",
            &["run", "--node={{ index .Labels \"nodeName\" }}", "{{ uuid }}"],
        ),
        (" ", &[]),
        ("a {{ open", &["a", "{{ open"]),
    ];
    for (line, expected) in cases {
        assert_eq!(words(line).expect(line), expected, "{line}");
    }
    assert!(words("a 'b").is_err());
}

#[test]
fn bad_settings_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let new = |command: &str, env: &str| Commands::new(command, &[env.to_string()], folder.path(), 1).err();
    assert!(new("", "").is_some_and(|error| error.contains("NSM_COMMAND")));
    assert!(new("a", "b").is_some_and(|error| error.contains("KEY=VALUE")));
    assert!(new("a", "B=c").is_none());
    let bad = commands(folder.path(), "a {{ open", 1).check("s");
    assert_eq!(bad.expect_err("no template").reason(), "bad-template");
}

#[tokio::test]
async fn whoever_comes_second_finds_the_process_of_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let (place, request) = asked("n1");
    let first = commands(folder.path(), "sleep 1000", 9);
    let mut started = first.start(&place, &request).await.expect("started");
    assert!(started.is_fresh());
    let second = commands(folder.path(), "sleep 1000", 9);
    let found = second.start(&place, &request).await.expect("found");
    assert!(!found.is_fresh());
    assert_eq!(found.name(), started.name());
    assert_eq!(second.left().await, std::slice::from_ref(&request));

    started.stop().await;
    assert!(started.ended().is_some_and(|ended| ended.contains("signal")));
    assert!(second.left().await.is_empty());
    let entries = std::fs::read_dir(folder.path()).expect("it is ours").count();
    assert_eq!(entries, 0, "nothing is left of it");
}

#[tokio::test]
async fn an_orphan_is_found_and_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let (place, request) = asked("n1");
    let first = commands(folder.path(), "sleep 1000", 9);
    drop(first.start(&place, &request).await.expect("started"));
    drop(first);
    let again = commands(folder.path(), "sleep 1000", 9);
    let mut found = again.start(&place, &request).await.expect("found");
    assert!(!found.is_fresh());
    found.stop().await;
    assert!(found.ended().is_some());
    let mut fresh = again.start(&place, &request).await.expect("started");
    assert!(fresh.is_fresh());
    fresh.stop().await;
}

#[tokio::test]
async fn endpoints_are_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let commands = commands(folder.path(), "sleep 1000", 1);
    let (place, request) = asked("n1");
    let mut started = commands.start(&place, &request).await.expect("started");
    let (other, request) = asked("n2");
    let refused = commands.start(&other, &request).await.err().expect("refused");
    assert_eq!(refused.reason(), "too-many-endpoints");
    started.stop().await;
    let mut started = commands.start(&other, &request).await.expect("there is room");
    started.stop().await;
}

#[tokio::test]
async fn a_command_that_ends_or_is_not_there_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let (place, request) = asked("n1");
    let mut started = commands(folder.path(), "sh -c 'exit 3'", 9)
        .start(&place, &request)
        .await
        .expect("started");
    started.changed().await;
    assert!(started.ended().is_some_and(|ended| ended.contains('3')));
    let missing = commands(folder.path(), "/nowhere/nse", 9)
        .start(&place, &request)
        .await;
    let error = missing.err().expect("it is not there");
    assert!(error.text().contains("/nowhere/nse"), "{error}");
}
