// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::FutureExt;
use nsm_api::connection::{Path, PathSegment, State};

use super::super::Monitor;
use super::*;
use crate::core::testing::{end_at, request};
use crate::core::{Chain, Element, Event, Events, Message, Next, Peer, Remote, Request, Store};
use crate::elements::begin::Begin;
use crate::elements::updatepath::UpdatePath;

const TIME: Duration = Duration::from_secs(10);

/// A next hop whose monitors are counted.
struct Counted {
    way: Way<NetworkService>,
    store: Store,
    opened: AtomicUsize,
}

#[async_trait]
impl Remote<NetworkService> for Counted {
    fn peer(&self) -> &Peer {
        self.way.0.peer()
    }
    fn store(&self) -> Option<&Store> {
        Some(&self.store)
    }
    async fn request(&self, ctx: &Ctx, message: &Request) -> Result<Request> {
        self.way.0.request(ctx, message).await
    }
    async fn close(&self, ctx: &Ctx, message: &Request) -> Result<()> {
        self.way.0.close(ctx, message).await
    }
    async fn find(
        &self,
        ctx: &Ctx,
        query: nsm_api::connection::MonitorScopeSelector,
    ) -> Result<Found<NetworkService>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.way.0.find(ctx, query).await
    }
}

/// Lets connections of an endpoint end by themselves, by the id that they have at the hop before.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<BTreeMap<String, Events>>>);

#[async_trait]
impl Element<NetworkService> for Ends {
    fn name(&self) -> &'static str {
        "ends"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        let id = asked_as(&message.connection).expect("a hop before").to_string();
        self.0.lock().insert(id, ctx.begun()?.clone());
        Ok(())
    }
}

/// An endpoint, and two who request there by a transport connection of their own.
struct Setup {
    endpoint: Component,
    ends: Ends,
    component: Component,
    ways: [(Arc<Counted>, Way<NetworkService>); 2],
}

fn setup() -> Setup {
    let (endpoint, ends) = (Component::new("nse"), Ends::default());
    let chain: Chain<NetworkService> = crate::chain![
        UpdatePath,
        Begin::server(&endpoint),
        Monitor::new(&endpoint),
        ends.clone()
    ];
    let way = |_| {
        let store = Store::default();
        store.insert(ServesLinks);
        let counted = Arc::new(Counted {
            way: end_at(&endpoint, chain.clone()),
            store,
            opened: AtomicUsize::default(),
        });
        (Arc::clone(&counted), Way(counted as Arc<dyn Remote<_>>))
    };
    let ways = [0, 1].map(way);
    Setup {
        endpoint,
        ends,
        component: Component::new("forwarder"),
        ways,
    }
}

impl Setup {
    /// Requests the connection `id` by way `at`.
    async fn ask(&self, at: usize, id: &str) -> Request {
        let mut message = request();
        message.connection.id = id.into();
        *message.path_mut() = Path {
            index: 0,
            path_segments: vec![PathSegment {
                name: "forwarder".into(),
                id: id.into(),
                ..Default::default()
            }],
        };
        let ctx = Ctx::own(&self.component, TIME);
        self.ways[at]
            .1
            .0
            .request(&ctx, &message)
            .await
            .expect("established")
    }

    async fn close(&self, at: usize, message: &Request) {
        let ctx = Ctx::own(&self.component, TIME);
        self.ways[at].1.0.close(&ctx, message).await.expect("closed");
    }

    /// The endpoint closes the connection by itself.
    async fn end(&self, id: &str) {
        let events = self.ends.0.lock().get(id).cloned().expect("requested");
        events.run(Event::Close).await.expect("closed");
    }

    fn listen(&self, at: usize, id: &str) -> Listener {
        let ear = Ear::of(&self.component, &self.ways[at].1, id);
        Listener(ear.expect("it serves links").hear())
    }

    fn opened(&self) -> [usize; 2] {
        [0, 1].map(|at| self.ways[at].0.opened.load(Ordering::Relaxed))
    }
}

struct Listener(Found<NetworkService>);

impl Listener {
    /// What is told next: how, and of which connection, by the id that it has here.
    async fn next(&mut self) -> (Kind, Option<(String, State)>) {
        let event = self.0.next().await.expect("an event").expect("no error");
        let kind = event.r#type();
        let told = event.connections.into_values().next();
        (
            kind,
            told.map(|told| (asked_as(&told).expect("a hop before").to_string(), told.state())),
        )
    }

    async fn is_silent(&mut self) -> bool {
        sleep(Duration::from_secs(1)).await;
        self.0.next().now_or_never().is_none()
    }
}

#[tokio::test(start_paused = true)]
async fn all_connections_of_a_link_share_one_stream_that_ends_with_the_last_listener() {
    let setup = setup();
    let mut listeners = Vec::new();
    for id in ["a", "b", "c"] {
        setup.ask(0, id).await;
        listeners.push(setup.listen(0, id));
    }
    for (listener, id) in listeners.iter_mut().zip(["a", "b", "c"]) {
        let told = (Kind::InitialStateTransfer, Some((id.to_string(), State::Up)));
        assert_eq!(listener.next().await, told);
    }
    setup.end("b").await;
    assert_eq!(listeners[1].next().await.0, Kind::Delete);
    assert!(listeners[0].is_silent().await && listeners[2].is_silent().await);
    assert_eq!(setup.opened(), [1, 0]);
    let known = |store: &Store| store.get::<Weak<LinkMonitor>>().expect("opened").upgrade();
    assert!(known(&setup.ways[0].0.store).is_some());
    drop(listeners);
    assert!(known(&setup.ways[0].0.store).is_none());
    setup.ask(0, "d").await;
    assert_eq!(setup.listen(0, "d").next().await.0, Kind::InitialStateTransfer);
    assert_eq!(setup.opened(), [2, 0]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_what_somebody_else_has_requested() {
    let setup = setup();
    setup.ask(1, "theirs").await;
    setup.ask(0, "ours").await;
    let (mut ours, mut curious) = (setup.listen(0, "ours"), setup.listen(0, "theirs"));
    assert_eq!(ours.next().await.1, Some(("ours".into(), State::Up)));
    assert_eq!(curious.next().await, (Kind::InitialStateTransfer, None));
    setup.end("theirs").await;
    assert!(curious.is_silent().await && ours.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn what_was_requested_again_by_another_link_is_told_there() {
    let setup = setup();
    setup.ask(0, "a").await;
    let mut before = setup.listen(0, "a");
    before.next().await;
    setup.ask(1, "a").await;
    let mut now = setup.listen(1, "a");
    now.next().await;
    setup.end("a").await;
    assert_eq!(now.next().await.0, Kind::Delete);
    assert!(before.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn what_is_told_before_somebody_listens_is_not_lost() {
    let setup = setup();
    setup.ask(0, "a").await;
    let mut open = setup.listen(0, "a");
    open.next().await;
    setup.ask(0, "b").await;
    setup.end("b").await;
    assert!(
        open.is_silent().await,
        "an answer is no news, and others are told of b"
    );
    let mut late = setup.listen(0, "b");
    assert_eq!(
        late.next().await,
        (Kind::InitialStateTransfer, None),
        "it is not there any more"
    );
    sleep(EARLY).await;
    setup.ask(0, "c").await;
    assert!(setup.listen(0, "c").is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn who_has_closed_a_connection_is_not_told_so() {
    let setup = setup();
    let message = setup.ask(0, "a").await;
    let mut before = setup.listen(0, "a");
    before.next().await;
    setup.close(0, &message).await;
    assert!(before.is_silent().await);
    drop(before);
    setup.ask(0, "a").await;
    let mut again = setup.listen(0, "a");
    again.next().await;
    let message = setup.ask(0, "b").await;
    setup.close(0, &message).await;
    setup.ask(0, "b").await;
    assert!(
        setup.listen(0, "b").is_silent().await,
        "of its former life nothing is told"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_told_to_every_listener() {
    let setup = setup();
    setup.ask(0, "a").await;
    setup.ask(0, "b").await;
    let (mut a, mut b) = (setup.listen(0, "a"), setup.listen(0, "b"));
    a.next().await;
    b.next().await;
    setup.endpoint.end().await;
    for listener in [&mut a, &mut b] {
        let error = listener.0.next().await.expect("an event").expect_err("it ends");
        assert_eq!(error.reason(), "monitor-ended");
        assert!(listener.0.next().await.is_none());
    }
}
