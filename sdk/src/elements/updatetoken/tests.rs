// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use nsm_api::connection::{Path, PathSegment};

use super::*;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};
use crate::core::{NetworkService, Peer, Request};
use crate::identity::jwt::{Claims, verify_es256};
use crate::identity::testing::{Party, now, parties};

fn element(party: &Party) -> UpdateToken {
    UpdateToken::new(&party.tokens, &party.identity())
}

/// A request at `index` of a path of two segments without tokens.
fn at(index: u32) -> Request {
    let mut request = request();
    let segment = |name: &str| PathSegment {
        name: name.into(),
        id: name.into(),
        ..Default::default()
    };
    request.connection.path = Some(Path {
        index,
        path_segments: vec![segment("nsc"), segment("nsmgr")],
    });
    request
}

fn segments(request: &Request) -> &[PathSegment] {
    &request.connection.path.as_ref().unwrap().path_segments
}

#[tokio::test]
async fn passes_the_standard_cases() {
    let [nsmgr] = parties(["/nsmgr"]);
    standard_cases::<NetworkService, _>(|| element(&nsmgr), request()).await;
}

#[tokio::test]
async fn c13_the_callers_token_goes_before_ours_and_ours_is_for_the_caller() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    let probe = Probe::new();
    let ctx = Connection::new().ctx_from(nsc.calls(&nsmgr), false);
    before(element(&nsmgr), &probe)
        .request(&ctx, &mut at(1))
        .await
        .unwrap();

    let passed = &probe.requests()[0];
    let [first, second] = segments(passed) else {
        panic!("two segments")
    };
    let brought = ctx.peer().token.clone().unwrap();
    assert_eq!(first.token, brought.token);
    assert_eq!(first.expires, Some(brought.expires.into()));
    let claims = Claims::of(&second.token).unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.aud),
        (nsmgr.id(), vec![nsc.id().to_string()])
    );
    assert!(verify_es256(&second.token, &nsmgr.svid().certificates[0]));
    assert!(second.expires.is_some());
}

#[tokio::test]
async fn c14_a_call_without_a_token_leaves_the_segment_before_ours() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    let probe = Probe::new();
    let caller = Peer {
        token: None,
        ..nsc.calls(&nsmgr)
    };
    let mut message = at(1);
    message.connection.path.as_mut().unwrap().path_segments[0].token = "as it came".into();
    let ctx = Connection::new().ctx_from(caller, false);
    before(element(&nsmgr), &probe)
        .request(&ctx, &mut message)
        .await
        .unwrap();
    assert_eq!(segments(&probe.requests()[0])[0].token, "as it came");
}

#[tokio::test]
async fn c21_tokens_are_signed_by_the_key_that_the_peer_sees_also_after_rotation() {
    let [nsc, old, new] = parties(["/nsc", "/nsmgr", "/nsmgr"]);
    let rotated = UpdateToken::new(&old.tokens, &new.identity());
    let probe = Probe::new();
    let chain = before(rotated, &probe);
    let connection = Connection::new();
    for (server, established) in [(&old, false), (&new, true)] {
        let ctx = connection.ctx_from(nsc.calls(server), established);
        chain.request(&ctx, &mut at(1)).await.unwrap();
        let passed = probe.requests().pop().unwrap();
        assert!(verify_es256(
            &segments(&passed)[1].token,
            &server.svid().certificates[0]
        ));
    }
}

#[tokio::test]
async fn an_identity_that_has_expired_since_is_replaced_by_the_current_one() {
    let [nsc, old, new] = parties(["/nsc", "/nsmgr", "/nsmgr"]);
    let expired = Svid {
        spiffe_id: old.id().to_string(),
        certificates: old.svid().certificates.clone(),
        key: old.svid().key.clone_key(),
        not_after: now() - Duration::from_secs(1),
    };
    let caller = Peer {
        local: Some(Arc::new(expired)),
        ..nsc.calls(&old)
    };
    let probe = Probe::new();
    let ctx = Connection::new().ctx_from(caller, true);
    before(element(&new), &probe)
        .request(&ctx, &mut at(1))
        .await
        .unwrap();
    assert!(verify_es256(
        &segments(&probe.requests()[0])[1].token,
        &new.svid().certificates[0]
    ));
}

#[tokio::test]
async fn an_index_behind_the_path_is_an_error_but_a_close_goes_on() {
    let [nsmgr] = parties(["/nsmgr"]);
    let probe = Probe::new();
    let chain = before(element(&nsmgr), &probe);
    let connection = Connection::new();
    for index in [2, u32::MAX] {
        let error = chain
            .request(&connection.first(), &mut at(index))
            .await
            .unwrap_err();
        let expected = format!(
            "NetworkServiceRequest.Connection.Path.Index({index}) >= \
             len(NetworkServiceRequest.Connection.Path.PathSegments)(2)"
        );
        assert_eq!(error.text(), expected);
        chain.close(&connection.again(), &mut at(index)).await.unwrap();
    }
    assert_eq!((probe.requests().len(), probe.closes().len()), (0, 2));
}
