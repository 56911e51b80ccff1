// SPDX-License-Identifier: Apache-2.0
use nsm_api::connection::{Connection, Mechanism, State};
use tokio::time::Instant;

use super::*;
use crate::core::testing::{Probe, Seen, end_at, request, standard_cases};
use crate::core::{Chain, Component, Error, Message, Way};
use crate::elements::begin::Begin;
use crate::elements::connect::Connect;
use crate::elements::updatepath::UpdatePath;
use crate::networkservice::discover::LOST;
use crate::networkservice::monitor::{Announcer, Monitor};

mod closing;

const TIME: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_secs(1);

/// A wire that is as the test says.
struct Fake(Mutex<Pulse>);

#[async_trait]
impl Liveness for Fake {
    async fn pulse(&self, _: &Connection, within: Duration) -> Pulse {
        let pulse = *self.0.lock();
        if pulse == Pulse::Silent {
            tokio::time::sleep(within).await;
        }
        pulse
    }
}

/// What the next hop has announced with lately.
#[derive(Default)]
struct Announcers(Mutex<Option<Announcer>>);

#[async_trait]
impl Element<NetworkService> for Arc<Announcers> {
    fn name(&self) -> &'static str {
        "announcers"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        *self.0.lock() = ctx.store().get();
        next.request(ctx, message).await
    }
}

/// Leaves the way to the next hop.
#[derive(Clone)]
struct To(Arc<Mutex<Way<NetworkService>>>);

#[async_trait]
impl Element<NetworkService> for To {
    fn name(&self) -> &'static str {
        "to"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        ctx.store().insert(self.0.lock().clone());
        next.request(ctx, message).await
    }
}

/// A client, its next hop, and its wire.
struct Mesh {
    client: Component,
    chain: Chain<NetworkService>,
    hop: Mutex<Component>,
    to: To,
    probe: Arc<Probe<NetworkService>>,
    announcers: Arc<Announcers>,
    wire: Arc<Fake>,
}

fn hop(
    component: &Component,
    announcers: &Arc<Announcers>,
    probe: &Arc<Probe<NetworkService>>,
) -> Way<NetworkService> {
    let chain = crate::chain![
        UpdatePath,
        Begin::server(component),
        Monitor::new(component),
        Arc::clone(announcers),
        Arc::clone(probe)
    ];
    end_at(component, chain)
}

/// `is_checked` tells whether the client looks at its wire, which lives.
fn mesh(is_checked: bool) -> Mesh {
    let (client, there) = (Component::new("nsc"), Component::new("nsmgr"));
    let (probe, announcers) = (Probe::answering(answer), Arc::<Announcers>::default());
    let wire = Arc::new(Fake(Mutex::new(Pulse::Alive)));
    let check = Check {
        liveness: Arc::clone(&wire) as _,
        interval: INTERVAL,
        timeout: TIMEOUT,
    };
    let to = To(Arc::new(Mutex::new(hop(&there, &announcers, &probe))));
    let chain = crate::chain![
        UpdatePath,
        Begin::client(&client),
        Heal::new(is_checked.then_some(check)),
        to.clone(),
        Connect
    ];
    Mesh {
        client,
        chain,
        hop: Mutex::new(there),
        to,
        probe,
        announcers,
        wire,
    }
}

/// What an endpoint answers.
fn answer(request: &mut Request) -> Result<()> {
    request.connection.network_service_endpoint_name = "nse-1".into();
    request
        .connection
        .mechanism
        .get_or_insert_with(|| Mechanism::new("LOCAL", "KERNEL"));
    Ok(())
}

fn refuse(_: &mut Request) -> Result<()> {
    Err(told(Error::unavailable("told-so", "told to fail")))
}

/// An error as it is after its way from the next hop.
fn told(error: Error) -> Error {
    Error::from(error.to_status("nsmgr"))
}

/// Refuses what is not to be selected anew, since there is another endpoint.
fn lose(request: &mut Request) -> Result<()> {
    match request.wants_reselect() {
        true => answer(request),
        false => Err(told(Error::unavailable(LOST, "there is another"))),
    }
}

impl Mesh {
    async fn ask(&self) -> Result<Request> {
        let mut message = request();
        let ctx = Ctx::own(&self.client, TIME);
        self.chain.request(&ctx, &mut message).await?;
        Ok(message)
    }

    /// Asks, and lets some time pass in which the wire was looked at.
    async fn connect(&self) -> Request {
        let message = self.ask().await.expect("established");
        tokio::time::sleep(INTERVAL * 2).await;
        message
    }

    async fn close(&self, mut message: Request) {
        let ctx = Ctx::own(&self.client, TIME);
        self.chain.close(&ctx, &mut message).await.expect("closed");
    }

    fn announce(&self, state: State) {
        let announcer = self.announcers.0.lock().clone().expect("requested");
        assert!(announcer.announce(state));
    }

    fn set_wire(&self, pulse: Pulse) {
        *self.wire.0.lock() = pulse;
    }

    /// The next hop dies, and another life of it takes its place, which knows nothing.
    async fn restart_hop(&self) {
        let new = Component::new("nsmgr");
        *self.to.0.lock() = hop(&new, &self.announcers, &self.probe);
        let old = std::mem::replace(&mut *self.hop.lock(), new);
        old.end().await;
    }

    /// What has arrived at the endpoint: `+` for a request, `!` for one that selects anew, `-` for a close.
    fn seen(&self) -> String {
        let sign = |seen: Seen<Request>| match seen {
            Seen::Close(_) => '-',
            Seen::Request(request) if request.connection.mechanism.is_none() => '!',
            Seen::Request(_) => '+',
        };
        self.probe.seen().into_iter().map(sign).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn passes_the_standard_cases() {
    standard_cases::<NetworkService, _>(|| Heal::new(None), request()).await;
}

#[tokio::test(start_paused = true)]
async fn c58_over_a_wire_that_lives_the_control_plane_is_mended_without_reselection() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.announce(State::Down);
    mesh.probe.arrived(2).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.seen(), "!+", "one request more, as it stands");
}

#[tokio::test(start_paused = true)]
async fn a_next_hop_that_restarts_is_asked_again_without_reselection() {
    let mesh = mesh(true);
    mesh.connect().await;
    let began = Instant::now();
    mesh.restart_hop().await;
    mesh.probe.arrived(2).await;
    assert!(began.elapsed() < Duration::from_millis(10), "at once");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.seen(), "!+");
}

#[tokio::test(start_paused = true)]
async fn c57_a_wire_that_dies_is_closed_and_reselected_in_time() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.set_wire(Pulse::Silent);
    let began = Instant::now();
    mesh.probe.arrived(3).await;
    assert!(began.elapsed() <= INTERVAL + TIMEOUT, "{:?}", began.elapsed());
    mesh.set_wire(Pulse::Alive);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.seen(), "!-!", "closed, then selected anew");
}

#[tokio::test(start_paused = true)]
async fn c56_without_looks_at_the_wire_what_breaks_is_reselected_at_once() {
    let mesh = mesh(false);
    let message = mesh.connect().await;
    let began = Instant::now();
    mesh.announce(State::Down);
    mesh.probe.arrived(3).await;
    assert!(began.elapsed() < Duration::from_millis(10), "at once");
    mesh.ask().await.expect("refreshed");
    mesh.close(message).await;
    assert_eq!(mesh.seen(), "!-!+-", "closed once for the move, once at the end");
}

#[tokio::test(start_paused = true)]
async fn what_the_next_hop_has_closed_is_reselected_however_the_wire_is() {
    let mesh = mesh(true);
    let mut message = mesh.connect().await;
    let way = mesh.to.0.lock().clone();
    message.path_mut().index = 0;
    way.0
        .close(&Ctx::own(&mesh.client, TIME), &message)
        .await
        .expect("closed by somebody else");
    mesh.probe.arrived(3).await;
    assert_eq!(mesh.seen(), "!-!");
}

#[tokio::test(start_paused = true)]
async fn c67_a_close_while_it_is_mended_ends_it() {
    let mesh = mesh(true);
    let message = mesh.connect().await;
    mesh.probe.answer(refuse);
    mesh.announce(State::Down);
    mesh.probe.arrived(4).await;
    let began = Instant::now();
    mesh.close(message).await;
    assert!(began.elapsed() <= TO_PART, "{:?}", began.elapsed());
    let seen = mesh.seen();
    assert!(seen.ends_with("+-"), "{seen}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.seen(), seen, "the close, and nothing behind it");
    assert_eq!(mesh.client.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_close_after_a_reselection_that_failed_ends_it() {
    let mesh = mesh(false);
    let message = mesh.connect().await;
    mesh.probe.answer(refuse);
    mesh.announce(State::Down);
    mesh.probe.arrived(4).await;
    mesh.close(message).await;
    let count = mesh.seen().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.seen().len(), count);
    assert_eq!(mesh.client.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reselection_that_fails_is_tried_again_ever_more_rarely() {
    let mesh = mesh(false);
    mesh.connect().await;
    mesh.probe.answer(refuse);
    mesh.announce(State::Down);
    mesh.probe.arrived(3).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tried = mesh.seen().matches('!').count();
    assert!((15..=35).contains(&tried), "{}", mesh.seen());
    assert_eq!(
        mesh.seen().matches('-').count(),
        1,
        "there is nothing more to close"
    );
    mesh.probe.answer(answer);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mended = mesh.seen();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.seen(), mended, "it is mended");
}

#[tokio::test(start_paused = true)]
async fn what_waiting_does_not_mend_is_tried_rarely() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.probe.answer(|_| Err(Error::denied("told-so", "never")));
    mesh.announce(State::Down);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tried = mesh.probe.requests().len() - 1;
    assert!((2..=3).contains(&tried), "{tried}");
}

#[tokio::test(start_paused = true)]
async fn w16_who_never_answers_pings_is_left_alone() {
    let mesh = mesh(true);
    mesh.set_wire(Pulse::Silent);
    mesh.connect().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(mesh.seen(), "!");
    mesh.announce(State::Down);
    mesh.probe.arrived(3).await;
    assert_eq!(mesh.seen(), "!-!", "nothing can be told of the wire");
}

#[tokio::test(start_paused = true)]
async fn a_wire_whose_end_is_gone_before_it_has_ever_answered_is_reselected_at_once() {
    let mesh = mesh(true);
    mesh.set_wire(Pulse::Gone);
    let began = Instant::now();
    mesh.ask().await.expect("established");
    mesh.probe.arrived(3).await;
    assert!(began.elapsed() <= INTERVAL, "{:?}", began.elapsed());
    mesh.set_wire(Pulse::Alive);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.seen(), "!-!", "closed, then selected anew");
}

#[tokio::test(start_paused = true)]
async fn wires_whose_ends_are_never_there_are_changed_ever_more_rarely() {
    let mesh = mesh(true);
    mesh.set_wire(Pulse::Gone);
    mesh.ask().await.expect("established");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tried = mesh.probe.requests().len() - 1;
    assert!((4..=8).contains(&tried), "{tried}");
}

#[tokio::test(start_paused = true)]
async fn w16_a_wire_that_is_silent_for_a_moment_is_not_dead() {
    let mesh = mesh(true);
    mesh.connect().await;
    for _ in 0..100 {
        mesh.set_wire(Pulse::Silent);
        tokio::time::sleep(TIMEOUT / 2).await;
        mesh.set_wire(Pulse::Alive);
        tokio::time::sleep(INTERVAL * 2).await;
    }
    assert_eq!(mesh.seen(), "!");
}

#[tokio::test(start_paused = true)]
async fn d65_wires_that_never_answer_after_one_that_did_are_changed_ever_more_rarely() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.set_wire(Pulse::Silent);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tried = mesh.probe.requests().len() - 1;
    assert!((4..=8).contains(&tried), "{tried}");
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_dies_while_the_control_plane_is_mended_is_reselected_at_once() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.probe.answer(refuse);
    mesh.announce(State::Down);
    mesh.probe.arrived(6).await;
    assert_eq!(mesh.seen(), "!+++++");
    mesh.set_wire(Pulse::Gone);
    mesh.probe.answer(answer);
    let began = Instant::now();
    mesh.probe.arrived(8).await;
    assert!(began.elapsed() <= INTERVAL, "{:?}", began.elapsed());
    assert_eq!(mesh.seen(), "!+++++-!");
}

#[tokio::test(start_paused = true)]
async fn c56_an_endpoint_that_is_gone_while_there_is_another_is_reselected_at_once() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.probe.answer(lose);
    let began = Instant::now();
    mesh.announce(State::Down);
    mesh.probe.arrived(4).await;
    assert!(began.elapsed() < Duration::from_millis(10), "at once");
    assert_eq!(mesh.seen(), "!+-!");
}

#[tokio::test(start_paused = true)]
async fn a_next_hop_that_restarts_has_time_to_learn_of_the_endpoint() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.probe.answer(lose);
    mesh.restart_hop().await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(!mesh.seen().contains('-'), "{}", mesh.seen());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(mesh.seen().ends_with('!'), "{}", mesh.seen());
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_cannot_be_mended_for_a_minute_is_chosen_anew() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.probe.answer(|request| match request.wants_reselect() {
        true => answer(request),
        false => refuse(request),
    });
    mesh.announce(State::Down);
    tokio::time::sleep(Duration::from_secs(58)).await;
    assert!(!mesh.seen().contains('-'), "{}", mesh.seen());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(mesh.seen().ends_with("-!"), "{}", mesh.seen());
}

#[tokio::test(start_paused = true)]
async fn what_breaks_as_soon_as_it_is_mended_is_not_mended_faster() {
    let mesh = mesh(true);
    mesh.connect().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        let count = mesh.seen().len();
        mesh.announce(State::Down);
        mesh.probe.arrived(count + 1).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let tried = mesh.probe.requests().len();
    assert!(tried < 40, "{tried}");
}

#[tokio::test(start_paused = true)]
async fn c66_after_a_refresh_that_failed_it_is_listened_to_as_before() {
    let mesh = mesh(true);
    mesh.connect().await;
    mesh.probe.answer(refuse);
    mesh.ask().await.expect_err("told to fail");
    mesh.probe.answer(answer);
    let count = mesh.seen().len();
    mesh.restart_hop().await;
    mesh.probe.arrived(count + 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(
        mesh.seen().chars().skip(1).all(|sign| sign == '+'),
        "{}",
        mesh.seen()
    );
}

#[tokio::test(start_paused = true)]
async fn an_application_that_asks_again_mends_too() {
    let mesh = mesh(false);
    mesh.connect().await;
    mesh.probe.answer(refuse);
    mesh.announce(State::Down);
    mesh.probe.arrived(8).await;
    mesh.probe.answer(answer);
    mesh.ask().await.expect("mended");
    let count = mesh.seen().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(mesh.seen().len(), count, "nothing is left to mend");
}

#[tokio::test(start_paused = true)]
async fn a_try_that_hangs_does_not_hold_up_the_next_for_long() {
    let mesh = mesh(false);
    mesh.connect().await;
    let _hangs_for_ever = mesh.probe.hold();
    let began = Instant::now();
    mesh.announce(State::Down);
    mesh.probe.arrived(3).await;
    // Another life of the next hop, in which nothing hangs.
    let (new, probe) = (Component::new("nsmgr"), Probe::answering(answer));
    *mesh.to.0.lock() = hop(&new, &mesh.announcers, &probe);
    probe.arrived(1).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
