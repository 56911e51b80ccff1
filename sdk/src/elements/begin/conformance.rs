// SPDX-License-Identifier: Apache-2.0
//! The cases of the specification, section 14.4, by their numbers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nsm_api::connection::State;
use nsm_api::connectioncontext::{ConnectionContext, IpContext};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Code;

use super::Begin;
use crate::core::testing::{Probe, Seen, request};
use crate::core::{
    Chain, Component, Ctx, Element, Error, Event, Events, NetworkService, Next, Peer, Request, Result,
    Unfinished,
};

type Kinds = Vec<&'static str>;

fn kinds(probe: &Probe<NetworkService>) -> Kinds {
    let kind = |seen: &Seen<Request>| match seen {
        Seen::Request(_) => "request",
        Seen::Close(_) => "close",
    };
    probe.seen().iter().map(kind).collect()
}

/// A chain of begin, a tap and a probe.
struct Setup {
    component: Component,
    chain: Chain<NetworkService>,
    probe: Arc<Probe<NetworkService>>,
    tap: Arc<Tap>,
}

impl Setup {
    fn new(begin: fn(&Component) -> Begin<NetworkService>) -> Self {
        let (component, probe, tap) = (Component::new("test"), Probe::new(), Arc::<Tap>::default());
        let chain = crate::chain![begin(&component), Arc::clone(&tap), Arc::clone(&probe)];
        Self {
            component,
            chain,
            probe,
            tap,
        }
    }

    fn ctx(&self) -> Ctx {
        Ctx::own(&self.component, Duration::from_secs(10))
    }

    async fn request(&self, message: &mut Request) -> Result<()> {
        self.chain.request(&self.ctx(), message).await
    }

    async fn close(&self) -> Result<()> {
        self.chain.close(&self.ctx(), &mut request()).await
    }

    async fn event(&self, event: Event) -> Result<()> {
        let events = self.tap.0.lock().last().map(|ctx| ctx.begun().cloned());
        let events: Events = events.expect("a call came by").expect("behind begin");
        events.run(event).await
    }
}

/// Remembers the circumstances of every request, and keeps a mark in the store that closes must find.
#[derive(Default)]
struct Tap(Mutex<Vec<Ctx>>, Mutex<Vec<bool>>);

/// Something that an element keeps.
struct Kept;

#[async_trait]
impl Element<NetworkService> for Arc<Tap> {
    fn name(&self) -> &'static str {
        "tap"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.0.lock().push(ctx.clone());
        ctx.store().insert(Kept);
        next.request(ctx, message).await
    }
    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.1.lock().push(ctx.store().has::<Kept>());
        let done = next.close(ctx, message).await;
        if matches!(&done, Err(error) if error.code() == Code::DeadlineExceeded) {
            ctx.call().insert(Unfinished);
        }
        done
    }
}

#[tokio::test(start_paused = true)]
async fn c35_parallel_requests_of_one_id_never_overlap_and_all_succeed() {
    let component = Component::new("test");
    let busy = Arc::new(Mutex::new((0_u32, 0_u32)));
    struct Slow(Arc<Mutex<(u32, u32)>>);
    #[async_trait]
    impl Element<NetworkService> for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        async fn request(&self, _: &Ctx, _: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
            self.0.lock().0 += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut busy = self.0.lock();
            assert_eq!(busy.0, 1, "two requests are inside at once");
            *busy = (0, busy.1 + 1);
            Ok(())
        }
    }
    let chain: Chain<NetworkService> = crate::chain![Begin::server(&component), Slow(Arc::clone(&busy))];
    let calls = (0..100).map(|_| async {
        let ctx = Ctx::own(&component, Duration::from_secs(10));
        chain.request(&ctx, &mut request()).await
    });
    let done = futures::future::join_all(calls).await;
    assert!(done.iter().all(Result::is_ok));
    assert_eq!(busy.lock().1, 100);
}

#[tokio::test(start_paused = true)]
async fn c36_a_blocked_request_does_not_stop_those_of_other_ids() {
    let setup = Setup::new(Begin::server);
    let hold = setup.probe.hold();
    let mut blocked = request();
    let first = setup.request(&mut blocked);
    tokio::pin!(first);
    tokio::select! { biased; _ = &mut first => unreachable!("held"), () = setup.probe.arrived(1) => {} }
    let others = (0..10).map(|index| {
        let mut other = request();
        other.connection.id = format!("other-{index}");
        let setup = &setup;
        async move { setup.request(&mut other).await }
    });
    let others = futures::future::join_all(others);
    tokio::pin!(others);
    tokio::select! { biased; _ = &mut others => unreachable!("held"), () = setup.probe.arrived(11) => {} }
    hold.cancel();
    let (first, others) = tokio::join!(first, others);
    assert!(first.is_ok() && others.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn c37_a_close_waits_for_the_request_of_its_id() {
    let setup = Setup::new(Begin::server);
    let hold = setup.probe.hold();
    let mut message = request();
    let both = async { tokio::join!(setup.request(&mut message), setup.close()) };
    let release = async {
        setup.probe.arrived(1).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(kinds(&setup.probe), ["request"]);
        hold.cancel();
    };
    let ((asked, closed), ()) = tokio::join!(both, release);
    assert!(asked.is_ok() && closed.is_ok());
    assert_eq!(kinds(&setup.probe), ["request", "close"]);
}

#[tokio::test(start_paused = true)]
async fn c38_a_close_after_a_failed_first_request_is_not_passed_on() {
    let setup = Setup::new(Begin::server);
    setup
        .probe
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    setup.request(&mut request()).await.expect_err("told to fail");
    setup.close().await.expect("closes");
    assert_eq!(kinds(&setup.probe), ["request"]);
}

#[tokio::test(start_paused = true)]
async fn c39_a_close_after_a_failed_refresh_closes_the_last_good_connection_once() {
    let setup = Setup::new(Begin::server);
    setup.probe.answer(|request: &mut Request| {
        request.connection.payload = "good".into();
        Ok(())
    });
    setup.request(&mut request()).await.expect("established");
    setup.probe.answer(|request: &mut Request| {
        request.connection.payload = "bad".into();
        Err(Error::unavailable("told-so", "told to fail"))
    });
    setup.request(&mut request()).await.expect_err("told to fail");
    setup.close().await.expect("closes");
    assert_eq!(kinds(&setup.probe), ["request", "request", "close"]);
    assert_eq!(setup.probe.closes()[0].connection.payload, "good");
}

#[tokio::test(start_paused = true)]
async fn c40_a_failed_close_is_told_and_forgotten() {
    let setup = Setup::new(Begin::server);
    setup.request(&mut request()).await.expect("established");
    setup
        .probe
        .fail_closes(Some(Error::internal("told-so", "told to fail")));
    let error = setup.close().await.expect_err("told to fail");
    assert_eq!(error.reason(), "told-so");
    setup.close().await.expect("an unknown id closes");
    assert_eq!(setup.probe.closes().len(), 1);
}

/// An application's context with these extra pairs.
fn context(source: &str, extra: &[(&str, &str)]) -> Option<ConnectionContext> {
    let ip_context = IpContext {
        src_ip_addrs: vec![source.into()],
        ..Default::default()
    };
    let pairs = extra.iter().map(|(key, value)| ((*key).into(), (*value).into()));
    Some(ConnectionContext {
        ip_context: Some(ip_context),
        extra_context: pairs.collect(),
        mtu: 1500,
        ..Default::default()
    })
}

#[tokio::test(start_paused = true)]
async fn c41_a_repeated_request_changes_only_what_an_application_decides() {
    let setup = Setup::new(Begin::client);
    let mut told = request();
    told.connection.context = context(
        "10.0.0.1/32",
        &[("kept", "1"), ("changed", "1"), ("removed", "1")],
    );
    setup.request(&mut told).await.expect("established");

    let healed = |request: &mut Request| {
        let context = request.connection.context.get_or_insert_default();
        context.extra_context.insert("kept".into(), "healed".into());
        context.extra_context.insert("since".into(), "heal".into());
        Ok(())
    };
    setup.probe.answer(healed);
    setup.event(Event::Refresh).await.expect("healed");
    setup.probe.answer(|_| Ok(()));

    let mut asked = told.clone();
    asked.connection.labels.insert("color".into(), "red".into());
    asked.connection.mechanism = Some(Default::default());
    asked.connection.network_service = "another".into();
    asked.connection.payload = "IP".into();
    asked.connection.network_service_endpoint_name = "nse-2".into();
    asked.connection.context = context("10.0.0.9/32", &[("kept", "1"), ("changed", "2"), ("new", "1")]);
    asked.mechanism_preferences = vec![Default::default()];
    setup.request(&mut asked).await.expect("asked again");

    let seen = setup.probe.requests().pop().expect("arrived");
    let mut expected = told.clone();
    expected.connection.network_service_endpoint_name = "nse-2".into();
    expected.connection.context = context(
        "10.0.0.9/32",
        &[("kept", "healed"), ("changed", "2"), ("since", "heal")],
    );
    expected.mechanism_preferences = vec![Default::default()];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn c41_a_context_is_taken_whole_where_there_was_none() {
    let setup = Setup::new(Begin::client);
    setup.request(&mut request()).await.expect("established");
    let mut asked = request();
    asked.connection.context = context("10.0.0.9/32", &[("new", "1")]);
    setup.request(&mut asked).await.expect("asked again");
    let seen = setup.probe.requests().pop().expect("arrived");
    assert_eq!(seen.connection.context, context("10.0.0.9/32", &[("new", "1")]));
}

#[tokio::test(start_paused = true)]
async fn c42_a_requested_reselection_closes_first_whatever_that_brings() {
    let setup = Setup::new(Begin::server);
    setup.request(&mut request()).await.expect("established");
    setup
        .probe
        .fail_closes(Some(Error::unavailable("told-so", "told to fail")));
    let mut again = request();
    again.connection.set_state(State::ReselectRequested);
    setup.request(&mut again).await.expect("established again");
    assert_eq!(kinds(&setup.probe), ["request", "close", "request"]);
    assert_eq!(again.connection.state(), State::Up);
}

#[tokio::test(start_paused = true)]
async fn c43_a_reselection_of_an_unknown_id_is_a_plain_request() {
    let setup = Setup::new(Begin::server);
    let mut first = request();
    first.connection.set_state(State::ReselectRequested);
    setup.request(&mut first).await.expect("established");
    assert_eq!(kinds(&setup.probe), ["request"]);
}

#[tokio::test(start_paused = true)]
async fn c44_an_event_has_the_time_of_the_first_and_the_values_of_the_last_request() {
    let setup = Setup::new(Begin::server);
    let call = |spiffe_id: &str, time: Duration| {
        let identity = crate::core::PeerIdentity {
            spiffe_id: spiffe_id.into(),
            certificate: Vec::new(),
            not_after: std::time::SystemTime::UNIX_EPOCH,
        };
        let peer = Peer {
            identity: Some(Arc::new(identity)),
            ..Peer::default()
        };
        Ctx::new(&setup.component, peer, Some(Instant::now() + time))
    };
    let (first, last) = (
        call("spiffe://a/ns/b/pod/first", Duration::from_secs(2)),
        call("spiffe://a/ns/b/pod/last", Duration::from_secs(9)),
    );
    let mut message = request();
    crate::core::Message::path_mut(&mut message).index = 2;
    setup
        .chain
        .request(&first, &mut message.clone())
        .await
        .expect("first");
    setup.chain.request(&last, &mut message).await.expect("last");
    tokio::time::advance(Duration::from_secs(3600)).await;
    setup.event(Event::Refresh).await.expect("refreshed");
    let ctx = setup.tap.0.lock().pop().expect("the event came by");
    assert_eq!(ctx.budget(), Duration::from_secs(2));
    assert_eq!(ctx.remaining(), Duration::from_secs(2));
    assert_eq!(ctx.peer().spiffe_id(), Some("spiffe://a/ns/b/pod/last"));
}

#[tokio::test(start_paused = true)]
async fn c45_an_empty_id_is_refused_in_known_words() {
    let setup = Setup::new(Begin::server);
    let mut message = request();
    message.connection.id.clear();
    let error = setup.request(&mut message).await.expect_err("refused");
    assert!(
        error
            .text()
            .contains("request.EventFactory.Id must not be zero valued"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reselection_that_finds_nothing_can_be_tried_again() {
    let setup = Setup::new(Begin::client);
    setup.request(&mut request()).await.expect("established");
    setup
        .probe
        .answer(|_| Err(Error::unavailable("told-so", "nothing there")));
    for _ in 0..3 {
        let error = setup.event(Event::Reselect).await.expect_err("nothing there");
        assert_eq!(error.reason(), "told-so");
    }
    setup.probe.answer(|_| Ok(()));
    setup.event(Event::Reselect).await.expect("found");
    setup.close().await.expect("closes");
    let expected = [
        "request", "close", "request", "request", "request", "request", "close",
    ];
    assert_eq!(kinds(&setup.probe), expected);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_closed_without_a_call() {
    let setup = Setup::new(Begin::client);
    setup.request(&mut request()).await.expect("established");
    setup
        .probe
        .answer(|_| Err(Error::unavailable("told-so", "nothing there")));
    setup.event(Event::Reselect).await.expect_err("nothing there");
    setup.close().await.expect("closes");
    assert_eq!(kinds(&setup.probe), ["request", "close", "request"]);
    assert_eq!(
        setup.event(Event::Refresh).await.expect_err("gone").reason(),
        "closed"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_close_is_repeated_with_everything_that_was_kept() {
    let setup = Setup::new(Begin::server);
    setup.request(&mut request()).await.expect("established");
    setup.probe.fail_closes(Some(Error::deadline("told to fail")));
    setup.close().await.expect_err("told to fail");
    let error = setup
        .event(Event::Refresh)
        .await
        .expect_err("closed for its users");
    assert_eq!(error.reason(), "closed");
    setup.probe.fail_closes(None);
    setup.event(Event::Close).await.expect("closed at last");
    assert_eq!(*setup.tap.1.lock(), [true, true]);
    assert_eq!(setup.component.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_after_an_unfinished_close_begins_anew() {
    let setup = Setup::new(Begin::server);
    setup.request(&mut request()).await.expect("established");
    setup.probe.fail_closes(Some(Error::deadline("told to fail")));
    setup.close().await.expect_err("told to fail");
    setup.request(&mut request()).await.expect("established anew");
    assert_eq!(kinds(&setup.probe), ["request", "close", "close", "request"]);
    assert!(!setup.tap.0.lock()[1].is_established());
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_element_has_gone_is_not_run() {
    let setup = Setup::new(Begin::server);
    setup.request(&mut request()).await.expect("established");
    let hold = setup.probe.hold();
    let mut again = request();
    let busy = setup.request(&mut again);
    tokio::pin!(busy);
    tokio::select! { biased; _ = &mut busy => unreachable!("held"), () = setup.probe.arrived(2) => {} }
    {
        let event = setup.event(Event::Close);
        tokio::pin!(event);
        tokio::select! { biased; _ = &mut event => unreachable!("waits"), () = tokio::task::yield_now() => {} }
    }
    hold.cancel();
    busy.await.expect("refreshed");
    setup.event(Event::Refresh).await.expect("refreshed");
    assert_eq!(kinds(&setup.probe), ["request"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_its_connection_and_no_other() {
    let setup = Setup::new(Begin::server);
    setup.probe.answer(|_| panic!("told to crash"));
    let error = setup.request(&mut request()).await.expect_err("crashed");
    assert_eq!(error.reason(), "crashed");
    setup.probe.answer(|_| Ok(()));
    setup.request(&mut request()).await.expect("its place is free");
}
