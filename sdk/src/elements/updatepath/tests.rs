// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use nsm_api::connection::Path;

use super::*;
use crate::core::testing::{Connection as Tested, Probe, before, request, standard_cases};
use crate::core::{Chain, Component};

/// A hop named `name`.
fn hop(name: &str) -> Tested {
    Tested::of(&Component::new(name))
}

fn path(message: &Request) -> &Path {
    message.connection.path.as_ref().expect("a path")
}

fn names(message: &Request) -> Vec<&str> {
    path(message)
        .path_segments
        .iter()
        .map(|segment| segment.name.as_str())
        .collect()
}

async fn ask(tested: &Tested, probe: &Arc<Probe<NetworkService>>, message: &mut Request) -> Result<()> {
    before(UpdatePath, probe).request(&tested.first(), message).await
}

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NetworkService, _>(|| UpdatePath, request()).await;
}

#[tokio::test]
async fn c01_a_new_connection_gets_an_id_of_this_hop() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let mut message = request();
    ask(&tested, &probe, &mut message).await.expect("passes");
    let inside = &probe.requests()[0];
    assert_eq!((path(inside).index, names(inside)), (1, vec!["nsc", "nsmgr"]));
    assert_eq!(inside.connection.id, path(inside).path_segments[1].id);
    assert_eq!(inside.connection.id.len(), 36, "a UUID");
    assert_eq!(
        (message.connection.id.as_str(), path(&message).index),
        ("nsc-0", 0)
    );
}

#[tokio::test]
async fn c02_a_repeated_request_keeps_the_id() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let mut message = request();
    ask(&tested, &probe, &mut message).await.expect("passes");
    ask(&tested, &probe, &mut message).await.expect("passes again");
    let inside = probe.requests();
    assert_eq!(inside[0].connection.id, inside[1].connection.id);
    assert_eq!(names(&inside[1]), ["nsc", "nsmgr"]);
}

#[tokio::test]
async fn a_new_segment_has_the_id_that_the_caller_suggests_if_it_is_a_uuid() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let suggested = "3f0f1f6e-6c5b-4a8e-9a53-6f0a0b6e4f11";
    for (suggestion, is_taken) in [(suggested, true), ("1", false), ("", false)] {
        let ctx = tested.first();
        ctx.call().insert(SegmentId(suggestion.into()));
        let mut message = request();
        let chain = before(UpdatePath, &probe);
        chain.request(&ctx, &mut message).await.expect("passes");
        let inside = probe.requests().pop().expect("passed");
        assert_eq!(inside.connection.id == suggestion, is_taken, "{suggestion:?}");
        assert!(!ctx.call().has::<SegmentId>(), "it is of this hop alone");
        ctx.call().insert(SegmentId(suggestion.into()));
        chain.request(&ctx, &mut message).await.expect("passes again");
        let again = probe.requests().pop().expect("passed");
        assert_eq!(again.connection.id, inside.connection.id);
    }
}

#[tokio::test]
async fn c03_a_segment_of_another_hop_is_taken_over_with_a_new_id() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let mut message = request();
    ask(&tested, &probe, &mut message).await.expect("passes");
    let segments = &mut message.connection.path.as_mut().expect("a path").path_segments;
    segments[1].name = "other".into();
    let old = segments[1].id.clone();
    segments.push(PathSegment::default());
    ask(&tested, &probe, &mut message).await.expect("passes again");
    let inside = &probe.requests()[1];
    assert_ne!(inside.connection.id, old);
    assert_eq!(names(inside), ["nsc", "nsmgr", ""]);
}

#[tokio::test]
async fn c04_an_empty_path_begins_here() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let mut message = Request::default();
    ask(&tested, &probe, &mut message).await.expect("passes");
    let inside = &probe.requests()[0];
    assert_eq!((path(inside).index, names(inside)), (0, vec!["nsmgr"]));
    assert_eq!(inside.connection.id.len(), 36, "a UUID");
}

#[tokio::test]
async fn c05_an_index_behind_the_path_is_refused() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    for index in [1, 2, u32::MAX] {
        let mut message = request();
        message.connection.path.as_mut().expect("a path").index = index;
        let error = ask(&tested, &probe, &mut message).await.expect_err("refused");
        let text = format!(
            "Path.Index+1=={} should be less or equal len(Path.PathSegments)==1",
            u64::from(index) + 1
        );
        assert_eq!(error.text(), text);
    }
    assert!(probe.seen().is_empty());
}

#[tokio::test]
async fn c06_an_id_that_is_not_the_callers_is_refused() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let mut message = request();
    message.connection.id = "other".into();
    let error = ask(&tested, &probe, &mut message).await.expect_err("refused");
    let text = "Current PathSegment.Id==nsc-0 should be equal Connection.Id==other";
    assert_eq!(error.text(), text);
}

#[tokio::test]
async fn c07_our_own_segment_decides_the_id() {
    let (tested, probe) = (hop("nsc"), Probe::new());
    let mut message = request();
    message.connection.id = "other".into();
    ask(&tested, &probe, &mut message).await.expect("passes");
    assert_eq!(probe.requests()[0].connection.id, "nsc-0");
    assert_eq!(names(&message), ["nsc"]);
}

#[tokio::test]
async fn c08_a_close_arrives_with_our_id() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let mut message = request();
    let chain = before(UpdatePath, &probe);
    chain
        .request(&tested.first(), &mut message)
        .await
        .expect("passes");
    chain.close(&tested.again(), &mut message).await.expect("passes");
    assert_eq!(probe.closes()[0].connection.id, probe.requests()[0].connection.id);
    assert_eq!(path(&probe.closes()[0]).index, 1);
}

#[tokio::test]
async fn c11_an_answer_without_the_callers_segment_is_an_error_and_closed() {
    let tested = hop("nsmgr");
    for (left, renamed) in [(0, false), (1, true)] {
        let probe = Probe::answering(move |request: &mut Request| {
            let path = request.connection.path.get_or_insert_default();
            path.path_segments.truncate(left);
            request.connection.id = "wrong".into();
            if renamed {
                path.path_segments[0].id = "wrong".into();
            }
            Ok(())
        });
        let error = ask(&tested, &probe, &mut request()).await.expect_err("refused");
        assert_eq!(error.reason(), "bad-answer-path");
        assert_eq!(probe.closes()[0].connection.id, probe.requests()[0].connection.id);
    }
}

#[tokio::test]
async fn both_halves_of_a_hop_share_a_segment() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let chain: Chain<NetworkService> = crate::chain![UpdatePath, UpdatePath, Arc::clone(&probe)];
    let mut message = request();
    chain
        .request(&tested.first(), &mut message)
        .await
        .expect("passes");
    let sent = &probe.requests()[0];
    assert_eq!((path(sent).index, names(sent)), (1, vec!["nsc", "nsmgr"]));
    assert_eq!(
        (message.connection.id.as_str(), path(&message).index),
        ("nsc-0", 0)
    );
}

#[tokio::test]
async fn sizes_are_bounded_at_the_limit_and_not_before() {
    let (tested, probe) = (hop("nsmgr"), Probe::new());
    let with = |change: &dyn Fn(&mut Connection)| {
        let mut message = request();
        change(&mut message.connection);
        message
    };
    let segments = |connection: &mut Connection, count: usize| {
        let path = connection.path.get_or_insert_default();
        path.path_segments.resize(count, PathSegment::default());
    };
    let first = |connection: &mut Connection, change: &dyn Fn(&mut PathSegment)| {
        change(&mut connection.path.get_or_insert_default().path_segments[0]);
    };
    let long = "x".repeat(MAX_NAME + 1);
    let cases = [
        (with(&|c| segments(c, MAX_SEGMENTS)), None),
        (with(&|c| segments(c, MAX_SEGMENTS + 1)), Some("path-too-long")),
        (with(&|c| first(c, &|s| s.name = "x".repeat(MAX_NAME))), None),
        (
            with(&|c| first(c, &|s| s.name.clone_from(&long))),
            Some("path-too-large"),
        ),
        (
            with(&|c| first(c, &|s| s.id.clone_from(&long))),
            Some("path-too-large"),
        ),
        (with(&|c| c.id.clone_from(&long)), Some("path-too-large")),
        (
            with(&|c| first(c, &|s| s.token = "x".repeat(MAX_TOKEN + 1))),
            Some("path-too-large"),
        ),
        (
            with(&|c| first(c, &|s| drop(s.metrics.insert("m".into(), long.clone())))),
            Some("path-too-large"),
        ),
    ];
    for (mut message, expected) in cases {
        let done = ask(&tested, &probe, &mut message).await;
        let reason = done.as_ref().err().map(|error| error.reason().to_string());
        assert_eq!(reason.as_deref(), expected);
    }
    let mut full = with(&|c| {
        segments(c, MAX_SEGMENTS);
        let last = u32::try_from(MAX_SEGMENTS - 1).expect("small");
        c.path.get_or_insert_default().index = last;
        c.id.clear();
    });
    let error = ask(&tested, &probe, &mut full).await.expect_err("no place left");
    assert_eq!(error.reason(), "path-too-long");
}
