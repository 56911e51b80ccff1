// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use nsm_api::connection::{Connection, ConnectionEvent, PathSegment};
use tokio_util::sync::CancellationToken;

use super::link::ServesLinks;
use super::subscriber::MAX_QUEUE;
use super::*;
use crate::core::testing::{Probe, end_at, request, standard_cases};
use crate::core::{Chain, Error, LinkId, Peer, Remote, Store, Way};
use crate::elements::begin::Begin;
use crate::elements::connect::Connect;
use crate::elements::updatepath::UpdatePath;

const TIME: Duration = Duration::from_secs(10);

/// One hop: its chain, and what its elements meet last.
struct Hop {
    component: Component,
    chain: Chain<NetworkService>,
    probe: Arc<Probe<NetworkService>>,
    /// How many monitors of the next hop were opened.
    opened: Arc<AtomicUsize>,
}

/// A hop at which requests end.
fn last(name: &str) -> Hop {
    let (component, probe) = (Component::new(name), Probe::new());
    let chain = crate::chain![
        UpdatePath,
        Begin::server(&component),
        Monitor::new(&component),
        Arc::clone(&probe)
    ];
    Hop {
        component,
        chain,
        probe,
        opened: Arc::default(),
    }
}

/// A hop from which requests go on to `next` until the way is broken; the next hop may serve monitors of links.
fn before(name: &str, next: &Hop, broken: &CancellationToken, serves: Serves) -> Hop {
    let (component, probe) = (Component::new(name), Probe::new());
    let opened = Arc::default();
    let way = Fragile {
        way: end_at(&next.component, next.chain.clone()),
        broken: broken.clone(),
        opened: Arc::clone(&opened),
        store: serves.store(),
    };
    let chain = crate::chain![
        UpdatePath,
        Begin::server(&component),
        Monitor::new(&component),
        UpdatePath,
        To(Way(Arc::new(way))),
        Connect
    ];
    Hop {
        component,
        chain,
        probe,
        opened,
    }
}

/// Leaves a way for connect.
struct To(Way<NetworkService>);

#[async_trait]
impl Element<NetworkService> for To {
    fn name(&self) -> &'static str {
        "to"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        ctx.store().insert(self.0.clone());
        next.request(ctx, message).await
    }
}

/// A way that fails once it is broken.
struct Fragile {
    way: Way<NetworkService>,
    broken: CancellationToken,
    opened: Arc<AtomicUsize>,
    store: Option<Store>,
}

/// What hops have to be asked.
#[derive(Clone, Copy, Debug)]
enum Serves {
    /// About each connection.
    Connections,
    /// Once for all.
    Links,
}

impl Serves {
    fn store(self) -> Option<Store> {
        let store = Store::default();
        if let Self::Links = self {
            store.insert(ServesLinks);
        }
        Some(store)
    }
}

/// Both ways to ask.
const BOTH: [Serves; 2] = [Serves::Connections, Serves::Links];

impl Fragile {
    fn check(&self) -> Result<()> {
        if self.broken.is_cancelled() {
            return Err(Error::unavailable("peer-unreachable", "the way is broken"));
        }
        Ok(())
    }
}

#[async_trait]
impl Remote<NetworkService> for Fragile {
    fn peer(&self) -> &Peer {
        self.way.0.peer()
    }
    fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }
    async fn request(&self, ctx: &Ctx, message: &Request) -> Result<Request> {
        self.check()?;
        self.way.0.request(ctx, message).await
    }
    async fn close(&self, ctx: &Ctx, message: &Request) -> Result<()> {
        self.check()?;
        self.way.0.close(ctx, message).await
    }
    async fn find(&self, ctx: &Ctx, query: MonitorScopeSelector) -> Result<Found<NetworkService>> {
        self.check()?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let events = self.way.0.find(ctx, query).await?;
        let broken = self.broken.clone().cancelled_owned();
        let error = futures::stream::once(async { Err(Error::unavailable("peer", "the way broke")) });
        Ok(events.take_until(broken).chain(error).boxed())
    }
}

impl Hop {
    async fn ask(&self, message: &mut Request) -> Result<()> {
        self.chain
            .request(&Ctx::own(&self.component, TIME), message)
            .await
    }

    async fn close(&self, message: &Request) -> Result<()> {
        self.chain
            .close(&Ctx::own(&self.component, TIME), &mut message.clone())
            .await
    }

    async fn watch(&self, selector: MonitorScopeSelector) -> Events {
        let ctx = Ctx::own(&self.component, TIME);
        Events(self.chain.find(&ctx, selector).await.expect("a stream"))
    }

    async fn watch_all(&self) -> Events {
        self.watch(MonitorScopeSelector::default()).await
    }
}

struct Events(Found<NetworkService>);

impl Events {
    /// The next event, in short: what happened, and the id, the index and the state of every connection in it.
    async fn next(&mut self) -> (Kind, Vec<(String, u32, State)>) {
        let event = self.0.next().await.expect("an event").expect("no error");
        (event.r#type(), short(&event))
    }

    async fn skip_initial(mut self) -> Self {
        assert_eq!(self.next().await.0, Kind::InitialStateTransfer);
        self
    }

    /// Whether something is there to be read after everybody has had a turn.
    async fn is_silent(&mut self) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.0.next().now_or_never().is_none()
    }
}

fn short(event: &ConnectionEvent) -> Vec<(String, u32, State)> {
    let connections = event.connections.iter();
    let short = connections.map(|(key, connection)| {
        assert_eq!(key, &connection.id);
        let index = connection.path.as_ref().map_or(0, |path| path.index);
        (connection.id.clone(), index, connection.state())
    });
    short.collect()
}

/// The id that the hop behind `nsc` has given to the answered connection.
fn id_at(message: &Request, index: usize) -> String {
    message.path().path_segments[index].id.clone()
}

#[tokio::test(start_paused = true)]
async fn passes_the_standard_cases() {
    let component = Component::new("nse");
    standard_cases::<NetworkService, _>(|| Monitor::new(&component), request()).await;
}

#[tokio::test(start_paused = true)]
async fn c46_a_subscriber_gets_an_initial_transfer_even_of_nothing() {
    let hop = last("nse");
    let mut events = hop.watch_all().await;
    assert_eq!(events.next().await, (Kind::InitialStateTransfer, vec![]));
    assert!(events.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn c47_the_initial_transfer_tells_what_is_there_as_this_hop_sees_it() {
    let (hop, mut message) = (last("nse"), request());
    hop.ask(&mut message).await.expect("established");
    let id = id_at(&message, 1);
    let mut events = hop.watch_all().await;
    assert_eq!(
        events.next().await,
        (Kind::InitialStateTransfer, vec![(id, 1, State::Up)])
    );
}

#[tokio::test(start_paused = true)]
async fn c48_request_refresh_and_close_are_told() {
    let (hop, mut message) = (last("nse"), request());
    let mut events = hop.watch_all().await.skip_initial().await;
    hop.ask(&mut message).await.expect("established");
    renew(&mut message);
    hop.ask(&mut message).await.expect("refreshed");
    hop.probe
        .fail_closes(Some(Error::internal("told-so", "told to fail")));
    hop.close(&message).await.expect_err("told to fail");
    let connection = vec![(id_at(&message, 1), 1, State::Up)];
    for kind in [Kind::Update, Kind::Update, Kind::Delete] {
        assert_eq!(events.next().await, (kind, connection.clone()));
    }
    assert!(events.is_silent().await);
    let mut late = hop.watch_all().await;
    assert_eq!(late.next().await, (Kind::InitialStateTransfer, vec![]));
}

/// Gives the caller's segment a new token, as a refresh does sooner or later.
fn renew(message: &mut Request) {
    message.path_mut().path_segments[0].token.push('+');
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_changes_nothing_is_not_told() {
    for serves in BOTH {
        let ([manager, ..], mut message, _) = mesh(serves).await;
        let mut events = manager.watch_all().await.skip_initial().await;
        for _ in 0..3 {
            manager.ask(&mut message).await.expect("refreshed");
        }
        assert!(events.is_silent().await);
        renew(&mut message);
        manager.ask(&mut message).await.expect("refreshed");
        assert_eq!(events.next().await.0, Kind::Update);
        assert!(events.is_silent().await);
    }
}

fn segments(segments: &[(&str, &str)]) -> MonitorScopeSelector {
    let segment = |(name, id): &(&str, &str)| PathSegment {
        name: (*name).into(),
        id: (*id).into(),
        ..Default::default()
    };
    MonitorScopeSelector {
        path_segments: segments.iter().map(segment).collect(),
        network_services: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn c49_selectors_choose_by_neighbouring_segments() {
    let (hop, mut message) = (last("nse"), request());
    let path = message.path_mut();
    path.index = 2;
    for name in ["nsmgr", "forwarder"] {
        path.path_segments.push(PathSegment {
            name: name.into(),
            id: format!("{name}-id"),
            ..Default::default()
        });
    }
    message.connection.id = "forwarder-id".into();
    let cases = [
        (segments(&[("nsmgr", "")]), true),
        (segments(&[("", "nsmgr-id")]), true),
        (
            segments(&[("nsmgr", "nsmgr-id"), ("forwarder", "forwarder-id")]),
            true,
        ),
        (segments(&[("", "nsc-0"), ("", ""), ("forwarder", "")]), true),
        (segments(&[("", ""); 5]), false),
        (segments(&[("nsc", "nsmgr-id")]), false),
        (segments(&[("", "forwarder-id"), ("", "nsmgr-id")]), false),
    ];
    let mut watches = Vec::new();
    for (selector, _) in &cases {
        watches.push(hop.watch(selector.clone()).await.skip_initial().await);
    }
    hop.ask(&mut message).await.expect("established");
    for ((selector, expected), mut early) in cases.into_iter().zip(watches) {
        let initial = hop.watch(selector.clone()).await.next().await;
        assert_eq!(initial.1.len(), usize::from(expected), "{selector:?}");
        assert_eq!(early.is_silent().await, !expected, "{selector:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c50_selectors_choose_by_service_and_by_both() {
    let hop = last("nse");
    for (id, service) in [("nsc-0", "a"), ("nsc-1", "a@b"), ("nsc-2", "a")] {
        let mut message = request();
        message.connection.network_service = service.into();
        message.connection.id = id.into();
        message.path_mut().path_segments[0].id = id.into();
        hop.ask(&mut message).await.expect("established");
    }
    let mut selector = MonitorScopeSelector {
        network_services: vec!["a".into()],
        ..Default::default()
    };
    assert_eq!(hop.watch(selector.clone()).await.next().await.1.len(), 2);
    selector.path_segments = segments(&[("", "nsc-2")]).path_segments;
    assert_eq!(hop.watch(selector.clone()).await.next().await.1.len(), 1);
    selector.path_segments = segments(&[("", "nsc-1")]).path_segments;
    assert!(hop.watch(selector).await.next().await.1.is_empty());
}

/// nsmgr, forwarder and endpoint, a connection through all three, and the tokens that break the ways between them.
async fn mesh(serves: Serves) -> ([Hop; 3], Request, [CancellationToken; 2]) {
    let broken = [CancellationToken::new(), CancellationToken::new()];
    let endpoint = last("nse");
    let forwarder = before("forwarder", &endpoint, &broken[1], serves);
    let manager = before("nsmgr", &forwarder, &broken[0], serves);
    let mut message = request();
    manager.ask(&mut message).await.expect("established");
    assert_eq!(message.path().path_segments.len(), 4);
    ([manager, forwarder, endpoint], message, broken)
}

#[tokio::test(start_paused = true)]
async fn c51_an_endpoint_that_closes_by_itself_is_told_as_down_in_the_coordinates_of_each_hop() {
    for serves in BOTH {
        let ([manager, forwarder, endpoint], message, _) = mesh(serves).await;
        let mut at_manager = manager.watch_all().await.skip_initial().await;
        let mut at_forwarder = forwarder.watch_all().await.skip_initial().await;
        let at_endpoint = Request {
            connection: Connection {
                id: id_at(&message, 3),
                path: message.connection.path.clone().map(|mut path| {
                    path.index = 3;
                    path
                }),
                ..message.connection.clone()
            },
            ..message.clone()
        };
        endpoint.close(&at_endpoint).await.expect("closed");
        assert_eq!(
            at_forwarder.next().await,
            (Kind::Update, vec![(id_at(&message, 2), 2, State::Down)])
        );
        assert_eq!(
            at_manager.next().await,
            (Kind::Update, vec![(id_at(&message, 1), 1, State::Down)])
        );
        assert!(at_manager.is_silent().await && at_forwarder.is_silent().await);
        let mut late = manager.watch_all().await;
        assert_eq!(late.next().await.1, [(id_at(&message, 1), 1, State::Down)]);
    }
}

#[tokio::test(start_paused = true)]
async fn c52_an_endpoint_that_dies_is_told_as_down_once() {
    for serves in BOTH {
        let ([manager, _forwarder, _endpoint], message, broken) = mesh(serves).await;
        let mut events = manager.watch_all().await.skip_initial().await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        broken[1].cancel();
        assert_eq!(
            events.next().await,
            (Kind::Update, vec![(id_at(&message, 1), 1, State::Down)])
        );
        assert!(events.is_silent().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_told_once_and_opens_no_other_monitor() {
    for serves in BOTH {
        let ([manager, forwarder, endpoint], mut message, _) = mesh(serves).await;
        let mut events = manager.watch_all().await.skip_initial().await;
        // By the clock of the test, until the hops listen to each other.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(events.is_silent().await);
        for payload in ["IP", "ETHERNET", "IP"] {
            message.connection.payload = payload.into();
            manager.ask(&mut message).await.expect("refreshed");
            assert_eq!(events.next().await.0, Kind::Update);
            assert!(events.is_silent().await);
        }
        let opened = [&manager, &forwarder].map(|hop| hop.opened.load(Ordering::Relaxed));
        assert_eq!(opened, [1, 1]);
        endpoint.component.end().await;
        assert_eq!(events.next().await.1[0].2, State::Down);
        manager
            .ask(&mut message)
            .await
            .expect_err("the endpoint has ended");
    }
}

#[tokio::test(start_paused = true)]
async fn a_next_hop_that_is_gone_before_it_can_be_watched_is_down_too() {
    for serves in BOTH {
        let ([manager, ..], mut message, broken) = mesh(serves).await;
        let mut events = manager.watch_all().await.skip_initial().await;
        manager.ask(&mut message).await.expect("refreshed");
        broken[0].cancel();
        let began = tokio::time::Instant::now();
        assert_eq!(
            events.next().await,
            (Kind::Update, vec![(id_at(&message, 1), 1, State::Down)])
        );
        assert!(began.elapsed() < Duration::from_millis(50), "nobody tries again");
    }
}

#[tokio::test(start_paused = true)]
async fn c53_a_failed_refresh_through_this_hop_is_told_as_down() {
    for serves in BOTH {
        let ([manager, _forwarder, endpoint], mut message, _) = mesh(serves).await;
        let mut events = manager.watch_all().await.skip_initial().await;
        endpoint
            .probe
            .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
        let ours = id_at(&message, 1);
        manager.ask(&mut message).await.expect_err("told to fail");
        assert_eq!(events.next().await, (Kind::Update, vec![(ours, 1, State::Down)]));
        assert!(events.is_silent().await);
    }
}

#[tokio::test(start_paused = true)]
async fn c54_the_end_of_the_program_ends_streams_without_an_error_and_without_news() {
    let (hop, mut message) = (last("nse"), request());
    hop.ask(&mut message).await.expect("established");
    let mut events = hop.watch_all().await.skip_initial().await;
    hop.component.end().await;
    assert!(events.0.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn c55_a_slow_subscriber_delays_nobody_and_reads_in_order() {
    let (hop, mut message) = (last("nse"), request());
    hop.ask(&mut message).await.expect("established");
    let mut slow = hop.watch_all().await.skip_initial().await;
    let mut quick = hop.watch_all().await.skip_initial().await;
    for number in 0..MAX_QUEUE {
        message.connection.payload = number.to_string();
        hop.ask(&mut message).await.expect("refreshed");
        assert_eq!(quick.next().await.0, Kind::Update);
    }
    for number in 0..MAX_QUEUE {
        let event = slow.0.next().await.expect("an event").expect("no error");
        let connection = event.connections.into_values().next().expect("a connection");
        assert_eq!(connection.payload, number.to_string());
    }
    assert!(slow.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_lags_gets_what_was_deleted_and_a_new_initial_transfer() {
    let (hop, mut stays, mut goes) = (last("nse"), request(), request());
    goes.connection.id = "nsc-1".into();
    goes.path_mut().path_segments[0].id = "nsc-1".into();
    hop.ask(&mut goes).await.expect("established");
    let mut slow = hop.watch_all().await.skip_initial().await;
    for _ in 0..MAX_QUEUE + 10 {
        renew(&mut stays);
        hop.ask(&mut stays).await.expect("established");
    }
    hop.close(&goes).await.expect("closed");
    hop.ask(&mut stays).await.expect("refreshed");
    for _ in 0..MAX_QUEUE {
        assert_eq!(slow.next().await.0, Kind::Update);
    }
    let gone = (id_at(&goes, 1), 1, State::Up);
    assert_eq!(slow.next().await, (Kind::Delete, vec![gone]));
    let there = (id_at(&stays, 1), 1, State::Up);
    assert_eq!(slow.next().await, (Kind::InitialStateTransfer, vec![there]));
    renew(&mut stays);
    hop.ask(&mut stays).await.expect("refreshed");
    assert_eq!(slow.next().await.0, Kind::Update);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_lags_hopelessly_is_cut() {
    let hop = last("nse");
    let mut slow = hop.watch_all().await;
    for number in 0..2 * MAX_QUEUE {
        let mut message = request();
        message.connection.id = format!("nsc-{number}");
        message.path_mut().path_segments[0].id = message.connection.id.clone();
        hop.ask(&mut message).await.expect("established");
        hop.close(&message).await.expect("closed");
    }
    for _ in 0..MAX_QUEUE {
        slow.next().await;
    }
    let error = slow.0.next().await.expect("an item").expect_err("cut");
    assert_eq!(error.reason(), "monitor-lags");
    assert!(slow.0.next().await.is_none());
}

/// Asks for a refresh while each request is under way, and hands out the announcer of its connection.
struct Asks(Arc<parking_lot::Mutex<Option<Announcer>>>);

#[async_trait]
impl Element<NetworkService> for Asks {
    fn name(&self) -> &'static str {
        "asks"
    }

    async fn request(&self, ctx: &Ctx, _: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        let announcer = ctx.store().get::<Announcer>().expect("behind monitor");
        assert!(announcer.announce(State::RefreshRequested));
        *self.0.lock() = Some(announcer);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_announcement_is_told_after_the_answer_and_as_long_as_the_connection_is_there() {
    let (component, taken) = (Component::new("nse"), Arc::default());
    let hop = Hop {
        chain: crate::chain![
            UpdatePath,
            Begin::server(&component),
            Monitor::new(&component),
            Asks(Arc::clone(&taken))
        ],
        component,
        probe: Probe::new(),
        opened: Arc::default(),
    };
    let mut message = request();
    hop.ask(&mut message).await.expect("established");
    let mut events = hop.watch_all().await;
    assert_eq!(events.next().await.1[0].2, State::RefreshRequested);
    hop.ask(&mut message).await.expect("refreshed");
    for told in [State::Up, State::RefreshRequested] {
        assert_eq!(events.next().await.1[0].2, told);
    }
    let announcer = taken.lock().clone().expect("taken");
    assert!(announcer.announce(State::Down));
    assert_eq!(events.next().await.1[0].2, State::Down);
    hop.close(&message).await.expect("closed");
    assert!(!announcer.announce(State::RefreshRequested));
}

#[tokio::test(start_paused = true)]
async fn what_a_relay_tells_too_late_is_not_told() {
    let component = Component::new("nsmgr");
    let hub = Hub::new(&component);
    let connection = Arc::new(request().connection);
    let mut down = Arc::clone(&connection);
    Arc::make_mut(&mut down).set_state(State::Down);
    let update = |connection: &Connection| {
        hub.update(connection, Fingerprint::of(connection), LinkId::default())
            .epoch
    };
    let old = update(&connection);
    let mut answered = connection.as_ref().clone();
    answered.payload = "IP".into();
    let new = update(&answered);
    assert_ne!(old, new);
    assert_eq!(update(&answered), new, "what is known begins nothing");
    hub.relay(old, &down);
    let mut events = Events(hub.subscribe(MonitorScopeSelector::default()).expect("a stream"));
    assert_eq!(events.next().await.1, [("nsc-0".into(), 0, State::Up)]);
    hub.delete("nsc-0", None);
    hub.relay(new, &down);
    assert_eq!(events.next().await.0, Kind::Delete);
    assert!(events.is_silent().await);
}

#[tokio::test]
async fn selectors_are_bounded() {
    let hub = Hub::new(&Component::new("nse"));
    let long = "x".repeat(2000);
    let services = MonitorScopeSelector {
        network_services: vec![String::new(); 2000],
        ..Default::default()
    };
    for selector in [segments(&[("", ""); 65]), segments(&[("", &long)]), services] {
        let error = hub.subscribe(selector).err().expect("refused");
        assert_eq!(error.reason(), "selector-too-large");
    }
}
