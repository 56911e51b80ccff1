// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use tokio::time::{Instant, sleep, sleep_until};

use super::*;
use crate::chain;
use crate::core::testing::{Probe, standard_cases};
use crate::core::{CallToken, Component, Error, Peer};
use crate::elements::begin::Begin;
use crate::registry::testing::{Nse, component, endpoint, register, unregister, within};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NseRegistry, _>(|| Expire::new(MINUTE), endpoint("nse", &["s"])).await;
}

fn setup() -> (Component, Arc<Probe<NseRegistry>>, Nse) {
    let (component, probe) = (component(), Probe::new());
    let chain = chain![Begin::server(&component), Expire::new(MINUTE), Arc::clone(&probe)];
    (component, probe, chain)
}

/// Registers with `asked` seconds to live and a deadline of `budget` seconds; says how long the answer promises.
async fn lives(
    chain: &Nse,
    component: &Component,
    peer: Peer,
    asked: Option<u64>,
    budget: Option<u64>,
) -> Duration {
    let deadline = budget.map(|secs| Instant::now() + Duration::from_secs(secs));
    let ctx = Ctx::new(component, peer, deadline);
    let now = component.now();
    let mut message = endpoint("nse", &["s"]);
    message.entry.expiration_time = asked.map(|secs| (now + Duration::from_secs(secs)).into());
    chain.request(&ctx, &mut message).await.expect("registers");
    let end = NseRegistry::expires(&message.entry).expect("an expiration");
    end.duration_since(now).expect("later")
}

/// Whether the timer closes the endpoint after this time, and not before.
async fn closes_after(probe: &Probe<NseRegistry>, after: Duration) -> bool {
    let slack = Duration::from_millis(10);
    sleep(after - slack).await;
    let before = probe.closes().len();
    sleep(2 * slack).await;
    (before, probe.closes().len()) == (0, 1)
}

#[tokio::test(start_paused = true)]
async fn c41_the_default_is_promised_when_nothing_else_is_said() {
    let (component, probe, chain) = setup();
    assert_eq!(
        lives(&chain, &component, Peer::default(), None, None).await,
        MINUTE
    );
    let sent = probe.requests()[0].entry.expiration_time;
    assert_eq!(
        sent,
        Some((component.now() + MINUTE).into()),
        "those behind are told"
    );
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c42_c43_an_earlier_wish_is_kept_and_a_later_one_lowered() {
    let (component, _, chain) = setup();
    for (asked, expected) in [(20, 20), (3600, 60)] {
        let lives = lives(&chain, &component, Peer::default(), Some(asked), None).await;
        assert_eq!(lives, Duration::from_secs(expected));
    }
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c44_no_promise_outlives_the_token_of_the_caller() {
    let (component, _, chain) = setup();
    let token = CallToken {
        token: "jwt".into(),
        expires: component.now() + Duration::from_secs(10),
    };
    let peer = Peer {
        token: Some(token),
        ..Peer::default()
    };
    assert_eq!(
        lives(&chain, &component, peer, None, None).await,
        Duration::from_secs(10)
    );
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c44_no_promise_outlives_our_own_token() {
    let (component, _, chain) = setup();
    let ctx = within(&component, 10);
    ctx.call()
        .insert(OwnToken(component.now() + Duration::from_secs(20)));
    let mut message = endpoint("nse", &["s"]);
    chain.request(&ctx, &mut message).await.expect("registers");
    let promised = component.now() + Duration::from_secs(20);
    assert_eq!(NseRegistry::expires(&message.entry), Some(promised));
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c45_no_promise_outlives_the_one_of_those_behind() {
    let (component, probe, chain) = setup();
    let earlier = component.now() + Duration::from_secs(30);
    probe.answer(move |message| {
        message.entry.expiration_time = Some(earlier.into());
        Ok(())
    });
    let promised = lives(&chain, &component, Peer::default(), None, None).await;
    assert_eq!(promised, Duration::from_secs(30));
    assert!(closes_after(&probe, Duration::from_secs(30)).await);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_behind_without_a_promise_gets_ours() {
    let (component, probe, chain) = setup();
    probe.answer(|message| {
        message.entry.expiration_time = None;
        Ok(())
    });
    assert_eq!(
        lives(&chain, &component, Peer::default(), None, None).await,
        MINUTE
    );
    assert!(closes_after(&probe, MINUTE).await);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c46_the_timer_is_early_by_the_time_that_the_call_had() {
    for (budget, expected) in [(None, 60), (Some(15), 45), (Some(5), 55)] {
        let (component, probe, chain) = setup();
        lives(&chain, &component, Peer::default(), None, budget).await;
        assert!(
            closes_after(&probe, Duration::from_secs(expected)).await,
            "{budget:?}"
        );
        component.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_refreshes_after_two_thirds_is_never_too_late() {
    for (asked, budget, expected) in [(12, 15, 9), (20, 15, 15), (60, 40, 45)] {
        let (component, probe, chain) = setup();
        lives(&chain, &component, Peer::default(), Some(asked), Some(budget)).await;
        assert!(
            closes_after(&probe, Duration::from_secs(expected)).await,
            "{asked} s, {budget} s"
        );
        component.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn c47_refreshing_keeps_the_endpoint_with_one_timer() {
    let (component, probe, chain) = setup();
    for _ in 0..20 {
        lives(&chain, &component, Peer::default(), None, Some(15)).await;
        sleep(Duration::from_secs(40)).await;
    }
    assert!(probe.closes().is_empty());
    assert_eq!(component.tasks(), 2, "one connection, one timer");
    assert!(closes_after(&probe, Duration::from_secs(5)).await);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c48_a_timer_ends_with_its_registration() {
    let (component, probe, chain) = setup();
    register(&chain, &component, endpoint("nse", &["s"])).await;
    sleep(Duration::from_secs(30)).await;
    unregister(&chain, &component, "nse").await;
    assert_eq!(probe.closes().len(), 1);
    register(&chain, &component, endpoint("nse", &["s"])).await;
    sleep(Duration::from_secs(40)).await;
    assert_eq!(probe.closes().len(), 1, "the old timer is gone");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(probe.closes().len(), 2, "the new one is not");
    sleep(MINUTE).await;
    assert_eq!(probe.closes().len(), 2);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c53_a_failed_refresh_leaves_the_timer() {
    let (component, probe, chain) = setup();
    lives(&chain, &component, Peer::default(), None, None).await;
    sleep(Duration::from_secs(30)).await;
    probe.answer(|_| Err(Error::unavailable("told-so", "no")));
    let refresh = chain
        .request(&within(&component, 10), &mut endpoint("nse", &["s"]))
        .await;
    refresh.expect_err("fails");
    assert!(closes_after(&probe, Duration::from_secs(30)).await);
    component.end().await;
}

/// The timer fires while a refresh is under way: its event waits behind the refresh, which revokes it.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_began_in_time_keeps_the_endpoint() {
    let (component, probe, chain) = setup();
    let begun = Instant::now();
    lives(&chain, &component, Peer::default(), None, None).await;
    sleep_until(begun + Duration::from_secs(59)).await;
    let release = probe.hold();
    let refresh = async {
        let mut message = endpoint("nse", &["s"]);
        chain.request(&within(&component, 10), &mut message).await
    };
    let late = async {
        sleep_until(begun + Duration::from_secs(62)).await;
        release.cancel();
    };
    let (refreshed, ()) = futures::join!(refresh, late);
    refreshed.expect("refreshes");
    sleep(Duration::from_secs(30)).await;
    assert!(probe.closes().is_empty());
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_expiration_in_the_past_is_accepted_and_ends_at_once() {
    let (component, probe, chain) = setup();
    let mut message = endpoint("nse", &["s"]);
    message.entry.expiration_time = Some((component.now() - MINUTE).into());
    register(&chain, &component, message).await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(probe.closes().len(), 1);
    component.end().await;
}

/// Notes whether closes are told that they are the timer's.
struct Noted(Arc<parking_lot::Mutex<Vec<bool>>>);

#[async_trait::async_trait]
impl crate::core::Element<NseRegistry> for Noted {
    fn name(&self) -> &'static str {
        "noted"
    }

    async fn close(
        &self,
        ctx: &Ctx,
        _: &mut Registration<NetworkServiceEndpoint>,
        _: Next<'_, NseRegistry>,
    ) -> Result<()> {
        self.0.lock().push(ctx.call().has::<Expired>());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_by_the_timer_is_told_from_one_by_the_caller() {
    let (component, noted) = (component(), Arc::default());
    let chain = chain![
        Begin::server(&component),
        Expire::new(MINUTE),
        Noted(Arc::clone(&noted))
    ];
    register(&chain, &component, endpoint("nse", &["s"])).await;
    unregister(&chain, &component, "nse").await;
    register(&chain, &component, endpoint("nse", &["s"])).await;
    sleep(MINUTE).await;
    assert_eq!(*noted.lock(), [false, true]);
    component.end().await;
}
