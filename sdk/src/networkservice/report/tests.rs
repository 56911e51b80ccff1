// SPDX-License-Identifier: Apache-2.0
//! What is told, and what is not.

use std::time::{Duration, SystemTime};

use nsm_api::connection::{Path, PathSegment};

use super::*;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};
use crate::core::{Peer, PeerIdentity};

/// Keeps what it is told, or takes nothing.
#[derive(Default)]
struct Heard {
    notices: Mutex<Vec<Notice>>,
    is_deaf: Mutex<bool>,
}

impl Listener for Heard {
    fn tell(&self, notice: &Notice) -> bool {
        let hears = !*self.is_deaf.lock();
        if hears {
            self.notices.lock().push(notice.clone());
        }
        hears
    }
}

impl Heard {
    fn told(&self) -> Vec<(Became, String)> {
        let notices = self.notices.lock();
        let word = |notice: &Notice| (notice.became, notice.reason.clone());
        notices.iter().map(word).collect()
    }
}

fn client() -> Peer {
    Peer {
        identity: Some(Arc::new(PeerIdentity {
            spiffe_id: "spiffe://mesh/ns/default/pod/nsc-1".into(),
            certificate: Vec::new(),
            not_after: SystemTime::UNIX_EPOCH,
        })),
        ..Peer::default()
    }
}

fn asking() -> Request {
    let mut request = request();
    request.connection.id = "nsc-1-0".into();
    request.connection.network_service = "vpn".into();
    request
}

fn refusing() -> Arc<Probe<NetworkService>> {
    Probe::answering(|_: &mut Request| Err(Error::exhausted("pool-empty", "no address left")))
}

fn serving(request: &mut Request) -> Result<()> {
    request.connection.network_service_endpoint_name = "nse-1".into();
    Ok(())
}

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NetworkService, _>(|| Report::new(Arc::new(Heard::default())), asking()).await;
}

#[tokio::test]
async fn a_refusal_is_told_and_the_first_success_after_it_and_nothing_else() {
    let (heard, probe) = (Arc::new(Heard::default()), Probe::new());
    let chain = before(Report::new(heard.clone()), &probe);
    let ctx = Connection::new().ctx_from(client(), false);
    chain.request(&ctx, &mut asking()).await.expect("served");
    assert!(heard.told().is_empty());
    probe.answer(|_| Err(Error::exhausted("pool-empty", "no address left")));
    for _ in 0..2 {
        chain.request(&ctx, &mut asking()).await.expect_err("refused");
    }
    probe.answer(serving);
    for _ in 0..2 {
        chain.request(&ctx, &mut asking()).await.expect("served");
    }
    let refused = (Became::Refused, "pool-empty".to_string());
    let attached = (Became::Attached, "attached".to_string());
    assert_eq!(heard.told(), [refused.clone(), refused, attached]);
    let last = heard.notices.lock().last().cloned().expect("it was told");
    assert_eq!(
        (&*last.client, &*last.id, &*last.network_service, &*last.endpoint),
        ("spiffe://mesh/ns/default/pod/nsc-1", "nsc-1-0", "vpn", "nse-1")
    );
}

#[tokio::test]
async fn a_connection_that_is_chosen_anew_is_told_as_healed() {
    let heard = Arc::new(Heard::default());
    let chain = before(Report::new(heard.clone()), &Probe::answering(serving));
    let ctx = Connection::new().ctx_from(client(), true);
    let mut again = asking();
    again.connection.set_state(State::ReselectRequested);
    chain.request(&ctx, &mut again).await.expect("served");
    assert_eq!(heard.told(), [(Became::Healed, "healed".to_string())]);
}

#[tokio::test]
async fn what_other_hops_pass_on_is_not_told() {
    let heard = Arc::new(Heard::default());
    let chain = before(Report::new(heard.clone()), &refusing());
    let mut passed = asking();
    let segment = PathSegment::default();
    passed.connection.path = Some(Path {
        index: 1,
        path_segments: vec![segment.clone(), segment],
    });
    let ctx = Connection::new().ctx_from(client(), false);
    chain.request(&ctx, &mut passed).await.expect_err("refused");
    let nobody = Connection::new().first();
    chain.request(&nobody, &mut asking()).await.expect_err("refused");
    assert!(heard.told().is_empty());
}

#[tokio::test]
async fn a_success_that_nobody_heard_is_told_by_the_next_one() {
    let (heard, probe) = (Arc::new(Heard::default()), refusing());
    let chain = before(Report::new(heard.clone()), &probe);
    let ctx = Connection::new().ctx_from(client(), false);
    chain.request(&ctx, &mut asking()).await.expect_err("refused");
    probe.answer(serving);
    *heard.is_deaf.lock() = true;
    chain.request(&ctx, &mut asking()).await.expect("served");
    *heard.is_deaf.lock() = false;
    chain.request(&ctx, &mut asking()).await.expect("served");
    assert_eq!(heard.told().len(), 2);
}

#[tokio::test]
async fn a_closed_connection_was_never_refused() {
    let (heard, probe) = (Arc::new(Heard::default()), refusing());
    let report = Report::new(heard.clone());
    let chain = before(report.clone(), &probe);
    let ctx = Connection::new().ctx_from(client(), false);
    chain.request(&ctx, &mut asking()).await.expect_err("refused");
    chain.close(&ctx, &mut asking()).await.expect("closed");
    assert!(report.refused.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_got_no_answer_in_its_time_is_told_and_one_that_left_is_not() {
    for (waits, told) in [(1, 0), (11, 1)] {
        let (heard, probe) = (Arc::new(Heard::default()), Probe::new());
        let _held = probe.hold();
        let chain = before(Report::new(heard.clone()), &probe);
        let ctx = Connection::new().ctx_from(client(), false);
        let mut request = asking();
        let asked = chain.request(&ctx, &mut request);
        let given = tokio::time::timeout(Duration::from_secs(waits), asked).await;
        given.expect_err("nobody answers");
        assert_eq!(heard.told().len(), told, "after {waits} s");
    }
}

#[tokio::test]
async fn no_more_refusals_are_remembered_than_the_bound() {
    let heard = Arc::new(Heard::default());
    let report = Report::new(heard);
    let chain = before(report.clone(), &refusing());
    let ctx = Connection::new().ctx_from(client(), false);
    for number in 0..=MAX_REFUSED {
        let mut request = asking();
        request.connection.id = number.to_string();
        chain.request(&ctx, &mut request).await.expect_err("refused");
    }
    assert_eq!(report.refused.lock().len(), MAX_REFUSED);
}

#[test]
fn a_text_is_cut_between_characters() {
    let text = shortened("ä".repeat(MAX_TEXT));
    assert_eq!(text.len(), MAX_TEXT);
    assert_eq!(shortened("short".into()), "short");
}
