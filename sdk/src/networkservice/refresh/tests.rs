// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use nsm_api::connection::PathSegment;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::*;
use crate::core::testing::{Probe, request, standard_cases};
use crate::core::{Chain, Clock, Error};
use crate::elements::begin::Begin;

const SECOND: Duration = Duration::from_secs(1);

/// A client with a virtual clock whose peers promise what the test says.
struct Client {
    component: Component,
    chain: Chain<NetworkService>,
    probe: Arc<Probe<NetworkService>>,
    message: Request,
}

/// A client at `index` of a path whose hops promise these times.
fn client(index: u32, promises: &[Duration]) -> Client {
    let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + 1000 * SECOND);
    let component = Component::with("nsc", clock, StdRng::seed_from_u64(1));
    let (promises, now) = (promises.to_vec(), component.clone());
    let probe = Probe::answering(move |request: &mut Request| {
        let path = request.path_mut();
        path.index = index;
        let promise = |left: &Duration| PathSegment {
            expires: Some((now.now() + *left).into()),
            ..Default::default()
        };
        path.path_segments = promises.iter().map(promise).collect();
        Ok(())
    });
    let chain = crate::chain![Begin::client(&component), Refresh, Arc::clone(&probe)];
    Client {
        component,
        chain,
        probe,
        message: request(),
    }
}

impl Client {
    async fn ask(&self) -> Result<()> {
        let ctx = Ctx::own(&self.component, 10 * SECOND);
        self.chain.request(&ctx, &mut self.message.clone()).await
    }

    async fn close(&self) {
        let ctx = Ctx::own(&self.component, 10 * SECOND);
        self.chain
            .close(&ctx, &mut self.message.clone())
            .await
            .expect("closes");
    }

    /// Waits until `count` requests came, and tells how long that took.
    async fn asked(&self, count: usize) -> Duration {
        let start = Instant::now();
        self.probe.arrived(count).await;
        start.elapsed()
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
    standard_cases::<NetworkService, _>(|| Refresh, request()).await;
}

/// Asks once and checks when the refresh comes, twice.
async fn refreshes_after(index: u32, promises: &[Duration], expected: Duration) {
    let client = client(index, promises);
    client.ask().await.expect("established");
    near(client.asked(2).await, expected);
    near(client.asked(3).await, expected);
}

#[tokio::test(start_paused = true)]
async fn c23_alone_on_the_path_after_a_third() {
    refreshes_after(0, &[3600 * SECOND], 1200 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn c24_the_shortest_promise_counts() {
    refreshes_after(1, &[3600 * SECOND, 180 * SECOND], 54 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn c25_far_back_on_the_path_later() {
    let promises = [3600 * SECOND, 5 * SECOND, 180 * SECOND];
    refreshes_after(2, &promises, Duration::from_millis(1667)).await;
}

#[tokio::test(start_paused = true)]
async fn c26_a_client_after_a_fifth() {
    refreshes_after(0, &[600 * SECOND; 4], 120 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn c27_a_failed_refresh_is_repeated_until_one_succeeds() {
    let client = client(0, &[3600 * SECOND]);
    client.ask().await.expect("established");
    let fails = || Err(Error::unavailable("told-so", "told to fail"));
    client.probe.answer(move |_| fails());
    near(client.asked(2).await, 1200 * SECOND);
    near(client.asked(3).await, RETRY);
    for count in 4..30 {
        assert!(client.asked(count).await <= MAX_RETRY + 2 * RETRY);
    }
    let now = client.component.clone();
    client.probe.answer(move |request: &mut Request| {
        request.path_mut().path_segments[0].expires = Some((now.now() + 600 * SECOND).into());
        Ok(())
    });
    client.asked(30).await;
    near(client.asked(31).await, 200 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn c28_a_failed_first_request_plans_nothing() {
    let client = client(0, &[3600 * SECOND]);
    client
        .probe
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    client.ask().await.expect_err("told to fail");
    tokio::time::sleep(36_000 * SECOND).await;
    assert_eq!((client.probe.seen().len(), client.component.tasks()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn c29_an_earlier_request_of_the_application_replaces_the_planned_one() {
    let client = client(0, &[3600 * SECOND]);
    client.ask().await.expect("established");
    tokio::time::sleep(1000 * SECOND).await;
    client.ask().await.expect("asked again");
    near(client.asked(3).await, 1200 * SECOND);
    assert_eq!(client.probe.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn c30_nothing_is_refreshed_after_a_close() {
    let client = client(0, &[3600 * SECOND]);
    client.ask().await.expect("established");
    client.close().await;
    tokio::time::sleep(36_000 * SECOND).await;
    assert_eq!((client.probe.requests().len(), client.component.tasks()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn c30_a_refresh_that_waits_behind_a_close_is_skipped() {
    let client = client(0, &[30 * SECOND]);
    client.ask().await.expect("established");
    let hold = client.probe.hold();
    let release = async {
        tokio::time::sleep(9 * SECOND).await;
        hold.cancel();
    };
    tokio::time::sleep(5 * SECOND).await;
    let (asked, (), ()) = tokio::join!(client.ask(), client.close(), release);
    asked.expect("asked again");
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!((client.probe.requests().len(), client.component.tasks()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_request_of_the_application_leaves_the_planned_one() {
    let client = client(0, &[3600 * SECOND]);
    client.ask().await.expect("established");
    client
        .probe
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    tokio::time::sleep(1000 * SECOND).await;
    client.ask().await.expect_err("told to fail");
    near(client.asked(3).await, 200 * SECOND);
}

#[test]
fn the_past_is_not_refreshed_in_a_tight_loop_and_no_promise_never() {
    let now = SystemTime::UNIX_EPOCH + 1000 * SECOND;
    let path = |expires: Option<SystemTime>| Path {
        index: 7,
        path_segments: vec![PathSegment {
            expires: expires.map(Into::into),
            ..Default::default()
        }],
    };
    assert_eq!(delay(&path(Some(SystemTime::UNIX_EPOCH)), now), Some(RETRY));
    assert_eq!(delay(&path(None), now), None);
    assert_eq!(delay(&Path::default(), now), None);
}
