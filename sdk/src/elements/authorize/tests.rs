// SPDX-License-Identifier: Apache-2.0
use nsm_api::connection::{MonitorScopeSelector, Path, PathSegment};

use super::*;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};
use crate::core::{CallToken, Chain, Peer};
use crate::identity::testing::{Party, parties, segment};
use crate::policy;

fn server() -> AuthorizeServer {
    AuthorizeServer::new(&Policies::choose(policy::SERVER).unwrap())
}

fn client() -> AuthorizeClient {
    AuthorizeClient::new(&Policies::choose(policy::CLIENT).unwrap())
}

fn on(index: u32, path_segments: Vec<PathSegment>) -> Request {
    let mut request = request();
    request.connection.path = Some(Path { index, path_segments });
    request
}

/// A call by `nsc` as `nsmgr` sees it behind `updatetoken`, with `token` as the caller's.
fn call(nsc: &Party, nsmgr: &Party, token: CallToken) -> (Peer, Request) {
    let path = vec![segment("nsc", token), segment("nsmgr", nsmgr.token(nsc))];
    (nsc.calls(nsmgr), on(1, path))
}

async fn served(peer: Peer, mut message: Request) -> Result<()> {
    let ctx = Connection::new().ctx_from(peer, false);
    before(server(), &Probe::new()).request(&ctx, &mut message).await
}

fn assert_denied(done: Result<()>) {
    let error = done.expect_err("is denied");
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    assert!(error.text().ends_with("no sufficient privileges"), "{error}");
}

#[tokio::test]
async fn both_halves_pass_the_standard_cases() {
    standard_cases::<NetworkService, _>(server, request()).await;
    standard_cases::<NetworkService, _>(client, request()).await;
}

#[tokio::test]
async fn an_honest_call_passes() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    let (peer, message) = call(&nsc, &nsmgr, nsc.token(&nsmgr));
    served(peer, message).await.unwrap();
}

#[tokio::test]
async fn c4_a_path_that_begins_here_or_nowhere_is_denied() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    assert_denied(
        served(
            nsc.calls(&nsmgr),
            on(0, vec![segment("nsmgr", nsmgr.token(&nsc))]),
        )
        .await,
    );
    assert_denied(served(nsc.calls(&nsmgr), on(0, vec![])).await);
    assert_denied(served(nsc.calls(&nsmgr), on(u32::MAX, vec![])).await);
}

#[tokio::test]
async fn c17_a_token_signed_by_another_key_is_denied() {
    let [nsc, again, nsmgr] = parties(["/nsc", "/nsc", "/nsmgr"]);
    let (peer, message) = call(&nsc, &nsmgr, again.token(&nsmgr));
    assert_denied(served(peer, message).await);
}

#[tokio::test]
async fn c18_an_expired_token_on_the_left_is_denied() {
    let [nsc, nsmgr, forwarder] = parties(["/nsc", "/nsmgr", "/forwarder"]);
    let (peer, message) = call(&nsc, &nsmgr, nsc.expired(&nsmgr));
    assert_denied(served(peer, message).await);
    let path = |first| {
        let mut path = vec![segment("nsc", first), segment("nsmgr", nsmgr.token(&forwarder))];
        path.push(segment("forwarder", forwarder.token(&nsmgr)));
        on(2, path)
    };
    assert_denied(served(nsmgr.calls(&forwarder), path(nsc.expired(&nsmgr))).await);
    served(nsmgr.calls(&forwarder), path(nsc.token(&nsmgr)))
        .await
        .unwrap();
}

#[tokio::test]
async fn c18_a_close_with_expired_tokens_is_for_the_owner_only() {
    let [nsc, nsmgr, other] = parties(["/nsc", "/nsmgr", "/other"]);
    let (peer, mut message) = call(&nsc, &nsmgr, nsc.token(&nsmgr));
    let probe = Probe::new();
    let chain = before(server(), &probe);
    let connection = Connection::new();
    chain
        .request(&connection.ctx_from(peer, false), &mut message)
        .await
        .unwrap();

    let (_, expired) = call(&nsc, &nsmgr, nsc.expired(&nsmgr));
    let foreign = connection.ctx_from(other.calls(&nsmgr), true);
    assert_denied(chain.close(&foreign, &mut expired.clone()).await);
    assert!(probe.closes().is_empty());
    let own = connection.ctx_from(nsc.calls(&nsmgr), true);
    chain.close(&own, &mut expired.clone()).await.unwrap();
    assert_eq!(probe.closes().len(), 1);

    let never_requested = Connection::new().ctx_from(nsc.calls(&nsmgr), false);
    assert_denied(chain.close(&never_requested, &mut expired.clone()).await);
}

#[tokio::test]
async fn c19_a_token_for_somebody_else_is_denied() {
    let [nsc, nsmgr, other] = parties(["/nsc", "/nsmgr", "/other"]);
    let (peer, message) = call(&nsc, &nsmgr, nsc.token(&other));
    assert_denied(served(peer, message).await);
}

#[tokio::test]
async fn a_caller_cannot_name_somebody_else_in_a_token_that_it_signs() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    let forged = crate::identity::Svid {
        spiffe_id: "spiffe://k8s.nsm/victim".into(),
        certificates: nsc.svid().certificates.clone(),
        key: nsc.svid().key.clone_key(),
        not_after: nsc.svid().not_after,
    };
    let now = crate::identity::testing::now();
    let token = nsc.tokens.issue(&forged, Some(&nsmgr.seen()), now).unwrap();
    let (peer, message) = call(&nsc, &nsmgr, token);
    assert_eq!(
        served(peer.clone(), message.clone()).await.unwrap_err().reason(),
        "foreign-token"
    );
    assert_denied(served(peer, message).await);
}

fn garbage() -> CallToken {
    CallToken {
        token: "garbage".into(),
        expires: crate::identity::testing::now(),
    }
}

#[tokio::test]
async fn c20_garbage_on_the_right_passes_the_server() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    let (peer, mut message) = call(&nsc, &nsmgr, nsc.token(&nsmgr));
    message
        .path_mut()
        .path_segments
        .push(segment("forwarder", garbage()));
    served(peer, message).await.unwrap();
}

/// What `nsc` gets back from `nsmgr`, whose own segment has `token`.
fn answer(nsc: &Party, nsmgr: &Party, token: CallToken) -> Request {
    on(0, vec![segment("nsc", nsc.token(nsmgr)), segment("nsmgr", token)])
}

fn answering(answer: Request) -> (Arc<Probe<NetworkService>>, Chain<NetworkService>) {
    let probe = Probe::answering(move |message| {
        *message = answer.clone();
        Ok(())
    });
    let chain = before(client(), &probe);
    (probe, chain)
}

#[tokio::test]
async fn c20_garbage_on_the_right_fails_the_client_which_closes_a_first_request_but_no_refresh() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    for (established, closes) in [(false, 1), (true, 0)] {
        let (probe, chain) = answering(answer(&nsc, &nsmgr, garbage()));
        let ctx = Connection::new().ctx_from(Peer::default(), established);
        nsmgr.serves::<NetworkService>(&ctx);
        assert_denied(chain.request(&ctx, &mut request()).await);
        assert_eq!(probe.closes().len(), closes);
    }
}

#[tokio::test]
async fn a_client_believes_only_what_the_server_has_signed() {
    let [nsc, nsmgr, other] = parties(["/nsc", "/nsmgr", "/other"]);
    for (server, allowed) in [(&nsmgr, true), (&other, false)] {
        let (_, chain) = answering(answer(&nsc, &nsmgr, nsmgr.token(&nsc)));
        let ctx = Connection::new().first();
        server.serves::<NetworkService>(&ctx);
        assert_eq!(chain.request(&ctx, &mut request()).await.is_ok(), allowed);
    }
}

#[tokio::test]
async fn a_client_closes_with_expired_tokens_too() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    let (probe, chain) = answering(request());
    let ctx = Connection::new().again();
    nsmgr.serves::<NetworkService>(&ctx);
    let mut message = on(
        0,
        vec![
            segment("nsc", nsc.expired(&nsmgr)),
            segment("nsmgr", nsmgr.expired(&nsc)),
        ],
    );
    chain.close(&ctx, &mut message).await.unwrap();
    assert_eq!(probe.closes().len(), 1);
}

#[tokio::test]
async fn an_id_is_recorded_as_long_as_its_connection_whatever_else_fails() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    let element = server();
    let connections = element.connections().clone();
    let ids = |party: &Party| connections.of(party.id()).len();
    let probe = Probe::new();
    let chain = before(element, &probe);
    let (peer, message) = call(&nsc, &nsmgr, nsc.token(&nsmgr));
    let (one, other) = (Connection::new(), Connection::new());
    chain
        .request(&one.ctx_from(peer.clone(), false), &mut message.clone())
        .await
        .unwrap();
    assert_eq!(connections.of(nsc.id()), ["nsc".to_string()].into());
    chain
        .request(&one.ctx_from(peer.clone(), true), &mut message.clone())
        .await
        .unwrap();

    probe.answer(|_| Err(Error::exhausted("told-so", "the probe was told to fail")));
    let failed = chain
        .request(&other.ctx_from(peer.clone(), false), &mut message.clone())
        .await;
    assert!(failed.is_err());
    other.store.clear();
    assert_eq!(
        ids(&nsc),
        1,
        "the failure of one connection does not concern another"
    );

    chain
        .close(&one.ctx_from(peer.clone(), true), &mut message.clone())
        .await
        .unwrap();
    assert_eq!(ids(&nsc), 0);
    probe.answer(|_| Ok(()));
    chain
        .request(&one.ctx_from(peer, false), &mut message.clone())
        .await
        .unwrap();
    one.store.clear();
    assert!(
        connections.0.lock().is_empty(),
        "nothing is left of a connection that ended without a close"
    );
}

fn selecting(ids: &[&str]) -> MonitorScopeSelector {
    let segment = |id: &&str| PathSegment {
        id: (*id).into(),
        ..Default::default()
    };
    MonitorScopeSelector {
        path_segments: ids.iter().map(segment).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn c87_a_monitor_sees_its_own_connections_where_the_policy_is_installed() {
    let [nsc, nsmgr, other] = parties(["/nsc", "/nsmgr", "/other"]);
    let guarded = server().with_monitor(&Policies::choose(policy::MONITOR).unwrap());
    for (element, is_guarded) in [(guarded, true), (server(), false)] {
        let chain = before(element, &Probe::new());
        let (peer, mut message) = call(&nsc, &nsmgr, nsc.token(&nsmgr));
        let connection = Connection::new();
        chain
            .request(&connection.ctx_from(peer, false), &mut message)
            .await
            .unwrap();
        for (party, ids, is_own) in [
            (&nsc, &["nsc"][..], true),
            (&nsc, &["another", "nsc"], true),
            (&nsc, &["another"], false),
            (&nsc, &[], false),
            (&other, &["nsc"], false),
        ] {
            let ctx = Connection::new().ctx_from(party.calls(&nsmgr), false);
            let found = chain.find(&ctx, selecting(ids)).await;
            assert_eq!(found.is_ok(), is_own || !is_guarded, "{} {ids:?}", party.id());
            if let Err(error) = found {
                assert_denied(Err(error));
            }
        }
    }
}

#[tokio::test]
async fn without_policies_everything_passes_and_nothing_crashes() {
    let [nsc, nsmgr] = parties(["/nsc", "/nsmgr"]);
    let chain = before(AuthorizeServer::new(&Policies::default()), &Probe::new());
    for mut message in [
        on(0, vec![]),
        on(7, vec![]),
        on(1, vec![segment("nsc", garbage())]),
    ] {
        let ctx = Connection::new().ctx_from(nsc.calls(&nsmgr), false);
        chain.request(&ctx, &mut message).await.unwrap();
        chain.close(&ctx, &mut message).await.unwrap();
    }
}
