// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use super::*;
use crate::core::testing::{Probe, Seen, request};
use crate::core::{Event, Events, NetworkService, Peer, Request};

fn ctx(component: &Component) -> Ctx {
    Ctx::own(component, Duration::from_secs(10))
}

fn setup(
    probe: &Arc<Probe<NetworkService>>,
) -> (
    Component,
    Arc<Begin<NetworkService>>,
    crate::core::Chain<NetworkService>,
) {
    let component = Component::new("test");
    let begin = Arc::new(Begin::server(&component));
    let chain = crate::core::Chain::new(vec![
        Arc::new(Shared(Arc::clone(&begin))) as _,
        Arc::new(Arc::clone(probe)) as _,
    ]);
    (component, begin, chain)
}

/// The begin under test, which the test looks into.
struct Shared(Arc<Begin<NetworkService>>);

#[async_trait]
impl Element<NetworkService> for Shared {
    fn name(&self) -> &'static str {
        "begin"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.0.request(ctx, message, next).await
    }
    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.0.close(ctx, message, next).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_uses_the_stored_connection_and_forgets_it() {
    let probe = Probe::answering(|request: &mut Request| {
        request.connection.payload = "IP".into();
        Ok(())
    });
    let (component, begin, chain) = setup(&probe);
    chain
        .request(&ctx(&component), &mut request())
        .await
        .expect("established");
    assert_eq!(begin.connections(), 1);
    chain
        .close(&ctx(&component), &mut request())
        .await
        .expect("closed");
    assert_eq!(probe.closes()[0].connection.payload, "IP");
    assert_eq!(begin.connections(), 0);
    chain
        .close(&ctx(&component), &mut request())
        .await
        .expect("an unknown id closes");
    assert_eq!(probe.closes().len(), 1);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_request_leaves_no_entry_and_a_failed_refresh_does() {
    let probe = Probe::answering(|_| Err(Error::unavailable("told-so", "no")));
    let (component, begin, chain) = setup(&probe);
    chain
        .request(&ctx(&component), &mut request())
        .await
        .expect_err("fails");
    assert_eq!((begin.connections(), component.tasks()), (0, 0));
    probe.answer(|_| Ok(()));
    chain
        .request(&ctx(&component), &mut request())
        .await
        .expect("established");
    probe.answer(|_| Err(Error::unavailable("told-so", "no")));
    chain
        .request(&ctx(&component), &mut request())
        .await
        .expect_err("fails");
    assert_eq!(begin.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_id_never_overlap_and_other_ids_do_not_wait() {
    let probe = Probe::new();
    let (component, _, chain) = setup(&probe);
    let hold = probe.hold();
    let (one, two, three) = (ctx(&component), ctx(&component), ctx(&component));
    let (mut a, mut b, mut other) = (request(), request(), request());
    other.connection.id = "other".into();
    let together = async {
        tokio::join!(
            chain.request(&one, &mut a),
            chain.request(&two, &mut b),
            chain.request(&three, &mut other)
        )
    };
    let watch = async {
        while probe.requests().len() < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let ids: Vec<_> = probe
            .requests()
            .iter()
            .map(|request| request.connection.id.clone())
            .collect();
        assert!(ids.len() == 2 && ids.contains(&"other".to_string()), "{ids:?}");
        hold.cancel();
    };
    let ((a, b, c), ()) = tokio::join!(together, watch);
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(probe.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_first_request_whose_caller_left_is_closed_again() {
    let probe = Probe::new();
    let (component, begin, chain) = setup(&probe);
    let hold = probe.hold();
    {
        let (ctx, mut message) = (ctx(&component), request());
        let call = chain.request(&ctx, &mut message);
        tokio::pin!(call);
        while probe.requests().is_empty() {
            tokio::select! { biased; _ = &mut call => unreachable!("held"), () = tokio::task::yield_now() => {} }
        }
    }
    hold.cancel();
    while begin.connections() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(&probe.seen()[..], [Seen::Request(_), Seen::Close(_)]));
}

#[tokio::test(start_paused = true)]
async fn a_first_request_whose_caller_left_with_the_answer_unread_is_closed_again() {
    let probe = Probe::new();
    let (component, begin, chain) = setup(&probe);
    {
        let (ctx, mut message) = (ctx(&component), request());
        let call = chain.request(&ctx, &mut message);
        tokio::pin!(call);
        assert!(futures::poll!(&mut call).is_pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(begin.connections(), 0);
    assert!(matches!(&probe.seen()[..], [Seen::Request(_), Seen::Close(_)]));
}

#[tokio::test(start_paused = true)]
async fn reselection_closes_what_is_stored_first() {
    let probe = Probe::new();
    let (component, _, chain) = setup(&probe);
    chain
        .request(&ctx(&component), &mut request())
        .await
        .expect("established");
    let mut again = request();
    again.reselect();
    chain
        .request(&ctx(&component), &mut again)
        .await
        .expect("established again");
    assert!(matches!(
        &probe.seen()[..],
        [Seen::Request(_), Seen::Close(_), Seen::Request(_)]
    ));
    assert_eq!(again.connection.state(), nsm_api::connection::State::Up);
}

/// Hands the events of its connection to the test.
struct Tap(Arc<Mutex<Option<Events>>>);

#[async_trait]
impl Element<NetworkService> for Tap {
    fn name(&self) -> &'static str {
        "tap"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        *self.0.lock() = ctx.events().cloned();
        next.request(ctx, message).await
    }
}

#[tokio::test(start_paused = true)]
async fn events_repeat_and_close_the_stored_message() {
    let (component, probe, events) = (Component::new("test"), Probe::new(), Arc::default());
    let chain: crate::core::Chain<NetworkService> = crate::chain![
        Begin::server(&component),
        Tap(Arc::clone(&events)),
        Arc::clone(&probe)
    ];
    chain
        .request(&ctx(&component), &mut request())
        .await
        .expect("established");
    let events = events.lock().clone().expect("tapped");
    events.run(Event::Refresh).await.expect("refreshed");
    events.run(Event::Reselect).await.expect("reselected");
    events.run(Event::Close).await.expect("closed");
    assert_eq!(
        events.run(Event::Refresh).await.expect_err("gone").reason(),
        "closed"
    );
    let kinds: Vec<_> = probe
        .seen()
        .iter()
        .map(|seen| matches!(seen, Seen::Request(_)))
        .collect();
    assert_eq!(kinds, [true, true, false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_hangs_is_cut_after_its_deadline_and_closed() {
    let probe = Probe::new();
    let (component, begin, chain) = setup(&probe);
    let _hold = probe.hold();
    let error = chain
        .request(&ctx(&component), &mut request())
        .await
        .expect_err("cut");
    assert_eq!(error.reason(), "deadline");
    assert_eq!((probe.closes().len(), begin.connections()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_turn_does_not_come_ends_by_its_deadline_and_never_runs() {
    let probe = Probe::new();
    let (component, _, chain) = setup(&probe);
    let held = probe.hold();
    let (first, short) = (ctx(&component), Ctx::own(&component, Duration::from_secs(1)));
    let (mut one, mut other) = (request(), request());
    let (one, other) = tokio::join!(chain.request(&first, &mut one), async {
        let began = tokio::time::Instant::now();
        let ended = chain.request(&short, &mut other).await;
        held.cancel();
        ended.map_err(|error| (error.reason().to_string(), began.elapsed()))
    });
    one.expect("established");
    assert_eq!(other, Err(("deadline".into(), Duration::from_secs(1))));
    chain.close(&first, &mut request()).await.expect("closed");
    assert_eq!((probe.requests().len(), probe.closes().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_client_keeps_what_became_of_the_connection() {
    let component = Component::new("test");
    let probe = Probe::answering(|request: &mut Request| {
        request.connection.network_service_endpoint_name = "nse-1".into();
        Ok(())
    });
    let chain: crate::core::Chain<NetworkService> =
        crate::chain![Begin::client(&component), Arc::clone(&probe)];
    let mut told = request();
    chain
        .request(&ctx(&component), &mut told)
        .await
        .expect("established");
    let mut again = told.clone();
    again.connection.labels.insert("ignored".into(), "yes".into());
    chain.request(&ctx(&component), &mut again).await.expect("again");
    assert!(probe.requests()[1].connection.labels.is_empty());
    assert_eq!(
        probe.requests()[1].connection.network_service_endpoint_name,
        "nse-1"
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_id_is_refused() {
    let (component, _, chain) = setup(&Probe::new());
    let mut message = request();
    message.connection.id.clear();
    let error = chain
        .request(&Ctx::new(&component, Peer::default(), None), &mut message)
        .await
        .expect_err("refused");
    assert_eq!(error.reason(), "empty-id");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_component_ends_every_connection() {
    let (component, begin, chain) = setup(&Probe::new());
    chain
        .request(&ctx(&component), &mut request())
        .await
        .expect("established");
    component.end().await;
    assert_eq!((begin.connections(), component.tasks()), (0, 0));
    let error = chain
        .request(&ctx(&component), &mut request())
        .await
        .expect_err("ended");
    assert_eq!(error.reason(), "shutdown");
}

#[tokio::test(start_paused = true)]
async fn a_connection_beyond_the_limit_is_refused_until_another_is_closed() {
    let (component, probe) = (Component::new("test"), Probe::new());
    let begin = Begin {
        most: 2,
        ..Begin::server(&component)
    };
    let chain: crate::core::Chain<NetworkService> = crate::chain![begin, Arc::clone(&probe)];
    let named = |id: &str| {
        let mut message = request();
        message.connection.id = id.into();
        message
    };
    for id in ["one", "two", "one"] {
        let done = chain.request(&ctx(&component), &mut named(id)).await;
        done.expect("within the limit");
    }
    let error = chain.request(&ctx(&component), &mut named("three")).await;
    let error = error.expect_err("beyond the limit");
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::ResourceExhausted, "too-many-connections")
    );
    assert_eq!(probe.requests().len(), 3, "nothing of it goes on");
    let done = chain.close(&ctx(&component), &mut named("one")).await;
    done.expect("closed");
    let done = chain.request(&ctx(&component), &mut named("three")).await;
    done.expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn a_call_beyond_those_that_wait_waits_with_its_caller_and_is_served() {
    let probe = Probe::new();
    let (component, begin, chain) = setup(&probe);
    let again = async || chain.request(&ctx(&component), &mut request()).await;
    again().await.expect("established");
    let room = || begin.table.lock()[&request().connection.id].capacity();
    assert_eq!(room(), MAX_WAITING);
    let held = probe.hold();
    // One is at work, and one more than may wait comes.
    let calls = futures::future::join_all((0..MAX_WAITING + 2).map(|_| again()));
    let look = async {
        probe.arrived(2).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((room(), probe.requests().len()), (0, 2));
        held.cancel();
    };
    let (done, ()) = tokio::join!(calls, look);
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    assert_eq!((room(), probe.requests().len()), (MAX_WAITING, MAX_WAITING + 3));
}
