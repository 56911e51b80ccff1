// SPDX-License-Identifier: Apache-2.0
//! Tests of who may act on a connection.

use std::time::Duration;

use nsm_api::connection::State;

use super::*;
use crate::core::testing::{Probe, before, request};
use crate::core::{Chain, NetworkService, Peer, PeerIdentity, Request};

const NSC: &str = "spiffe://k8s.nsm/ns/default/pod/nsc";
const OTHER: &str = "spiffe://k8s.nsm/ns/default/pod/other";
const NSMGR: &str = "spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-1";
const NEW_NSMGR: &str = "spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-2";

fn by(component: &Component, spiffe_id: &str) -> Ctx {
    let identity = PeerIdentity {
        spiffe_id: spiffe_id.into(),
        certificate: Vec::new(),
        not_after: component.now(),
    };
    let peer = Peer {
        identity: Some(Arc::new(identity)),
        ..Default::default()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    Ctx::new(component, peer, Some(deadline))
}

fn at(index: u32) -> Request {
    let mut request = request();
    request.path_mut().index = index;
    request
}

fn setup() -> (Component, Arc<Probe<NetworkService>>, Chain<NetworkService>) {
    let (component, probe) = (Component::new("test"), Probe::new());
    let chain = before(Begin::server(&component), &probe);
    (component, probe, chain)
}

fn assert_refused(done: Result<()>) {
    let error = done.expect_err("is refused");
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::PermissionDenied, "not-the-owner")
    );
    assert!(error.text().ends_with("no sufficient privileges"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn w3_nobody_else_requests_reselects_or_closes_a_connection() {
    let (component, probe, chain) = setup();
    chain
        .request(&by(&component, NSC), &mut at(1))
        .await
        .expect("established");
    for foreign in [OTHER, NSMGR] {
        let ctx = by(&component, foreign);
        assert_refused(chain.request(&ctx, &mut at(1)).await);
        assert_refused(chain.request(&ctx, &mut at(2)).await);
        let mut reselect = at(1);
        reselect.connection.set_state(State::ReselectRequested);
        assert_refused(chain.request(&ctx, &mut reselect).await);
        assert_refused(chain.close(&ctx, &mut at(1)).await);
    }
    assert_eq!(probe.seen().len(), 1, "nothing of it has reached the connection");
    chain
        .request(&by(&component, NSC), &mut at(1))
        .await
        .expect("refreshed");
    chain
        .close(&by(&component, NSC), &mut at(1))
        .await
        .expect("closed");
    chain
        .request(&by(&component, OTHER), &mut at(1))
        .await
        .expect("the id is free again");
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hop_in_the_middle_is_replaced_by_one_of_its_namespace_only() {
    let (component, probe, chain) = setup();
    chain
        .request(&by(&component, NSMGR), &mut at(2))
        .await
        .expect("established");
    assert_refused(chain.request(&by(&component, NSC), &mut at(2)).await);
    chain
        .request(&by(&component, NEW_NSMGR), &mut at(2))
        .await
        .expect("taken over");
    chain
        .close(&by(&component, NSMGR), &mut at(2))
        .await
        .expect("closed");
    assert_eq!((probe.requests().len(), probe.closes().len()), (2, 1));
    component.end().await;
}
