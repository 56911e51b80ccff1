// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::core::testing::{Probe, request, standard_cases};
use crate::core::{Chain, Clock, Component};
use crate::elements::begin::Begin;

const SECOND: Duration = Duration::from_secs(1);

/// A hop with a virtual clock, its chain, and what is behind it.
struct Hop {
    component: Component,
    chain: Chain<NetworkService>,
    probe: Arc<Probe<NetworkService>>,
}

fn hop() -> Hop {
    let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + 1000 * SECOND);
    let component = Component::with("nsmgr", clock, StdRng::seed_from_u64(1));
    let probe = Probe::new();
    let chain = crate::chain![Begin::server(&component), Timeout, Arc::clone(&probe)];
    Hop {
        component,
        chain,
        probe,
    }
}

impl Hop {
    /// A request of a client whose promise ends after `lifetime`, as it stands behind `updatepath`.
    fn message(&self, lifetime: Option<Duration>) -> Request {
        let mut message = request();
        let path = message.connection.path.as_mut().expect("a path");
        path.index = 1;
        path.path_segments[0].expires = lifetime.map(|time| (self.component.now() + time).into());
        path.path_segments.push(Default::default());
        message
    }

    async fn ask(&self, lifetime: Duration, deadline: Duration) -> Result<()> {
        let ctx = Ctx::own(&self.component, deadline);
        self.chain.request(&ctx, &mut self.message(Some(lifetime))).await
    }

    async fn close(&self) -> Result<()> {
        let ctx = Ctx::own(&self.component, SECOND);
        self.chain.close(&ctx, &mut self.message(None)).await
    }

    /// Waits until `count` closes came, and tells when the last one did.
    async fn closed(&self, count: usize) -> Instant {
        while self.probe.closes().len() < count {
            self.probe.arrived(self.probe.seen().len() + 1).await;
        }
        Instant::now()
    }
}

fn near(time: Duration, expected: Duration) {
    let difference = time.abs_diff(expected);
    assert!(
        difference <= Duration::from_millis(3),
        "{time:?} is not {expected:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn passes_the_standard_cases() {
    let mut message = request();
    let path = message.connection.path.as_mut().expect("a path");
    path.index = 1;
    path.path_segments[0].expires = Some((Component::new("test").now() + 600 * SECOND).into());
    path.path_segments.push(Default::default());
    standard_cases::<NetworkService, _>(|| Timeout, message).await;
}

#[tokio::test(start_paused = true)]
async fn c31_the_connection_is_closed_while_its_tokens_are_still_valid() {
    let (hop, start) = (hop(), Instant::now());
    hop.ask(2 * SECOND, SECOND * 3 / 2).await.expect("established");
    near(hop.closed(1).await - start, SECOND / 2);
    assert_eq!(hop.probe.closes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_the_whole_promise_is_used() {
    let (hop, start) = (hop(), Instant::now());
    let ctx = Ctx::new(&hop.component, crate::core::Peer::default(), None);
    hop.chain
        .request(&ctx, &mut hop.message(Some(2 * SECOND)))
        .await
        .expect("established");
    near(hop.closed(1).await - start, 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn c32_a_caller_without_a_promise_is_refused_before_anything_is_made() {
    let hop = hop();
    let ctx = Ctx::own(&hop.component, SECOND);
    let mut first = hop.message(Some(SECOND));
    first.connection.path.as_mut().expect("a path").index = 0;
    for mut message in [hop.message(None), first] {
        let error = hop.chain.request(&ctx, &mut message).await.expect_err("refused");
        assert!(
            error
                .text()
                .starts_with("expiration for the previous path segment cannot be nil: "),
            "{error}"
        );
    }
    assert!(hop.probe.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn c33_a_closed_connection_is_not_closed_again() {
    let hop = hop();
    hop.ask(2 * SECOND, SECOND).await.expect("established");
    hop.close().await.expect("closes");
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!(hop.probe.closes().len(), 1);
    assert_eq!(hop.component.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn c34_a_close_that_ran_out_of_time_is_repeated_at_expiry() {
    let (hop, start) = (hop(), Instant::now());
    hop.ask(10 * SECOND, SECOND).await.expect("established");
    hop.probe.fail_closes(Some(Error::deadline("told to fail")));
    let error = hop.close().await.expect_err("told to fail");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    hop.probe.fail_closes(None);
    near(hop.closed(2).await - start, 9 * SECOND);
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!((hop.probe.closes().len(), hop.component.tasks()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_close_that_fails_at_expiry_too_is_given_up() {
    let hop = hop();
    hop.ask(2 * SECOND, SECOND).await.expect("established");
    hop.probe.fail_closes(Some(Error::deadline("told to fail")));
    hop.close().await.expect_err("told to fail");
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!((hop.probe.closes().len(), hop.component.tasks()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_moves_the_end_and_a_failed_one_does_not() {
    let (hop, start) = (hop(), Instant::now());
    hop.ask(10 * SECOND, SECOND).await.expect("established");
    tokio::time::advance(5 * SECOND).await;
    hop.ask(10 * SECOND, SECOND).await.expect("refreshed");
    hop.probe
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    tokio::time::advance(5 * SECOND).await;
    hop.ask(10 * SECOND, SECOND).await.expect_err("told to fail");
    near(hop.closed(1).await - start, 14 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_fires_during_a_refresh_does_not_close_what_was_refreshed() {
    let hop = hop();
    hop.ask(2 * SECOND, SECOND).await.expect("established");
    let hold = hop.probe.hold();
    let refresh = hop.ask(600 * SECOND, 10 * SECOND);
    let release = async {
        tokio::time::sleep(5 * SECOND).await;
        hold.cancel();
    };
    let (refreshed, ()) = tokio::join!(refresh, release);
    refreshed.expect("refreshed");
    tokio::time::sleep(60 * SECOND).await;
    assert!(hop.probe.closes().is_empty());
}

#[tokio::test]
async fn a_chain_without_begin_is_refused() {
    let (component, probe) = (Component::new("nsmgr"), Probe::new());
    let chain: Chain<NetworkService> = crate::chain![Timeout, Arc::clone(&probe)];
    let mut message = hop().message(Some(600 * SECOND));
    let error = chain
        .request(&Ctx::own(&component, SECOND), &mut message)
        .await
        .expect_err("refused");
    assert_eq!((error.reason(), probe.closes().len()), ("no-begin", 1));
}
