// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use nsm_api::registry::NetworkServiceEndpoint;

use super::*;
use crate::core::testing::{Connection, Probe, standard_cases};
use crate::core::{NsRegistry, NseRegistry, Peer};
use crate::identity::jwt::verify_es256;
use crate::identity::testing::{NSE, NSMGR, Party, REGISTRY, parties, segment};
use crate::registry::testing::{before, endpoint, service};

type Message = Registration<NetworkServiceEndpoint>;

fn element(party: &Party) -> UpdatePath {
    UpdatePath::new(&party.tokens, &party.identity())
}

/// What `server` passes on of `message` by `caller`.
async fn passed(caller: &Party, server: &Party, message: &mut Message) -> Message {
    let probe = Probe::new();
    let ctx = Connection::new().ctx_from(caller.calls(server), false);
    before::<NseRegistry, _>(element(server), &probe)
        .request(&ctx, message)
        .await
        .unwrap();
    probe.requests().remove(0)
}

fn claims(message: &Message) -> Vec<Claims> {
    let tokens = message
        .path
        .path_segments
        .iter()
        .map(|segment| Claims::of(&segment.token));
    tokens.collect::<Result<_>>().unwrap()
}

#[tokio::test]
async fn passes_the_standard_cases_of_both_registries() {
    let [nsmgr] = parties([NSMGR]);
    standard_cases::<NseRegistry, _>(|| element(&nsmgr), endpoint("nse", &["s"])).await;
    standard_cases::<NsRegistry, _>(|| element(&nsmgr), service("s", "IP")).await;
}

/// The message as `registry` passes it on when `nse` has registered by way of `nsmgr`.
async fn three_hops([nse, nsmgr, registry]: &[Party; 3], message: &mut Message) -> Message {
    let mut at_nsmgr = passed(nse, nsmgr, message).await;
    let at_registry = passed(nsmgr, registry, &mut at_nsmgr).await;
    let index = message.path.index;
    *message = at_nsmgr;
    message.path.index = index;
    at_registry
}

#[tokio::test]
async fn c72_every_hop_vouches_for_the_next_and_is_named() {
    let all = parties([NSE, NSMGR, REGISTRY]);
    let ids: Vec<_> = all.iter().map(|party| party.id().to_string()).collect();
    let mut message = endpoint("nse", &["s"]);
    let at_registry = three_hops(&all, &mut message).await;
    assert_eq!(at_registry.path.index, 2);
    assert_eq!(at_registry.entry.path_ids, ids);
    let claims = claims(&at_registry);
    assert_eq!(
        claims.iter().map(|claims| claims.sub.clone()).collect::<Vec<_>>(),
        ids
    );
    assert_eq!(
        (&claims[0].aud[0], &claims[1].aud[0], &claims[2].aud[0]),
        (&ids[1], &ids[2], &ids[1])
    );
    for (segment, party) in at_registry.path.path_segments.iter().zip(&all) {
        assert!(verify_es256(&segment.token, &party.svid().certificates[0]));
    }
}

#[tokio::test]
async fn c73_a_refresh_with_the_returned_path_or_an_empty_one_gives_the_same() {
    let all = parties([NSE, NSMGR, REGISTRY]);
    let mut first = endpoint("nse", &["s"]);
    let expected = three_hops(&all, &mut first).await;
    assert_eq!(first.path.index, 0);
    let mut returned = Message {
        path: Path {
            index: 0,
            ..expected.path.clone()
        },
        ..expected.clone()
    };
    let mut empty = Message {
        path: Path::default(),
        ..expected.clone()
    };
    for again in [&mut returned, &mut empty] {
        let second = three_hops(&all, again).await;
        assert_eq!(
            (second.path, second.entry.path_ids),
            (expected.path.clone(), expected.entry.path_ids.clone())
        );
    }
}

#[tokio::test]
async fn c75_an_index_behind_the_path_is_an_error_and_an_empty_path_has_none() {
    let [nse, nsmgr] = parties([NSE, NSMGR]);
    let mut message = endpoint("nse", &["s"]);
    message.path.index = 5;
    assert_eq!(passed(&nse, &nsmgr, &mut message).await.path.index, 1);
    assert_eq!(message.path.index, 0);

    let probe = Probe::new();
    let chain = before::<NseRegistry, _>(element(&nsmgr), &probe);
    let ctx = Connection::new().ctx_from(nse.calls(&nsmgr), false);
    message.path.path_segments.truncate(1);
    for index in [1, 5, u32::MAX] {
        message.path.index = index;
        let error = chain.request(&ctx, &mut message.clone()).await.unwrap_err();
        let expected = format!("Path.Index+1=={} should be less or equal", u64::from(index) + 1);
        assert!(error.text().contains(&expected), "{error}");
    }
    assert!(probe.requests().is_empty());
    chain.close(&ctx, &mut message.clone()).await.unwrap_err();
    assert_eq!(probe.closes().len(), 1, "what is behind decides about a close");
}

#[tokio::test]
async fn c71_without_a_token_of_ours_nothing_is_registered() {
    let [nse, nsmgr] = parties([NSE, NSMGR]);
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let unfit = crate::identity::Svid {
        spiffe_id: nsmgr.id().into(),
        certificates: nsmgr.svid().certificates.clone(),
        key: rustls::pki_types::PrivateKeyDer::Pkcs8(p384.serialize_der().into()),
        not_after: nsmgr.svid().not_after,
    };
    let peer = Peer {
        local: Some(Arc::new(unfit)),
        ..nse.calls(&nsmgr)
    };
    let tokens = Tokens::new(crate::identity::testing::LIFE);
    let probe = Probe::new();
    let chain = before::<NseRegistry, _>(UpdatePath::new(&tokens, &nsmgr.identity()), &probe);
    let ctx = Connection::new().ctx_from(peer, false);
    let error = chain
        .request(&ctx, &mut endpoint("nse", &["s"]))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "svid-key");
    assert!(
        error.text().contains("an error during generating token"),
        "{error}"
    );
    assert!(probe.requests().is_empty());
}

#[tokio::test]
async fn a_call_without_a_path_goes_on_without_one_and_a_caller_without_a_token_is_nobody() {
    let [nse, nsmgr] = parties([NSE, NSMGR]);
    let probe = Probe::new();
    let chain = before::<NseRegistry, _>(element(&nsmgr), &probe);
    let peer = Peer {
        token: None,
        ..nse.calls(&nsmgr)
    };
    let ctx = Connection::new().ctx_from(peer, false);
    ctx.call().insert(NoPath);
    chain.request(&ctx, &mut endpoint("nse", &["s"])).await.unwrap();
    let passed = probe.requests().remove(0);
    assert_eq!(passed.path, Path::default());
    assert_eq!(passed.entry.path_ids, ["", nsmgr.id()]);
    assert!(ctx.call().has::<OwnToken>());
}

#[tokio::test]
async fn a_caller_gets_its_index_back_also_from_a_close_that_fails() {
    let [nse, nsmgr, registry] = parties([NSE, NSMGR, REGISTRY]);
    let mut message = passed(&nse, &nsmgr, &mut endpoint("nse", &["s"])).await;
    let probe = Probe::new();
    probe.fail_closes(Some(Error::unavailable("told-so", "told to fail")));
    let chain = before::<NseRegistry, _>(element(&registry), &probe);
    let ctx = Connection::new().ctx_from(nsmgr.calls(&registry), true);
    chain.close(&ctx, &mut message).await.unwrap_err();
    assert_eq!((message.path.index, probe.closes()[0].path.index), (1, 2));
}

#[tokio::test]
async fn a_path_is_bounded() {
    let [nse, nsmgr] = parties([NSE, NSMGR]);
    let chain = before::<NseRegistry, _>(element(&nsmgr), &Probe::new());
    let ctx = Connection::new().ctx_from(nse.calls(&nsmgr), false);
    let at = |index: usize| {
        let mut message = endpoint("nse", &["s"]);
        message.entry.path_ids = vec![String::new(); 1000];
        message.path.path_segments = vec![segment("hop", nse.token(&nsmgr)); index + 1];
        message.path.index = u32::try_from(index).unwrap();
        message
    };
    let mut longest = at(MAX_SEGMENTS - 2);
    chain.request(&ctx, &mut longest).await.unwrap();
    assert_eq!(
        (longest.path.path_segments.len(), longest.entry.path_ids.len()),
        (MAX_SEGMENTS, MAX_SEGMENTS)
    );
    let error = chain.request(&ctx, &mut at(MAX_SEGMENTS - 1)).await.unwrap_err();
    assert_eq!(error.reason(), "path-too-long");
}
