// SPDX-License-Identifier: Apache-2.0
//! Connections that break, one way after the other, and how their client mends them.

use std::time::Duration;

use nsm_sdk::sandbox::Program::{Client, Endpoint, Forwarder, Manager, Registry};
use nsm_sdk::sandbox::{Kind, Program};
use tokio::time::{Instant, sleep};

use crate::seeds::on_virtual_time;
use crate::wire::{How, Wire};
use crate::world::{Size, World};

/// How soon traffic is back that can be back.
const SOON: Duration = Duration::from_millis(300);

/// Longer than tokens live without a refresh.
const LONG: Duration = Duration::from_secs(700);

/// A connected client on a node with two endpoints.
struct Story {
    world: World,
}

impl Story {
    async fn begin() -> Self {
        let size = Size {
            endpoints: 2,
            clients: 1,
            wires: 1,
        };
        let world = World::begin(7, size).await;
        let story = Self { world };
        assert!(story.wire().ask(&story.world, How::default()).await, "connected");
        sleep(Duration::from_secs(5)).await;
        story
    }

    fn wire(&self) -> &Wire {
        &self.world.wires()[0]
    }

    /// The endpoint that the client has, and the other one.
    fn endpoints(&self) -> (Program, Program) {
        let current = self.wire().current().expect("connected");
        match current.network_service_endpoint_name == Endpoint(0).name() {
            true => (Endpoint(0), Endpoint(1)),
            false => (Endpoint(1), Endpoint(0)),
        }
    }

    /// The endpoint's pod is gone, with all that is in it.
    fn destroy(&self, endpoint: Program) {
        self.world.kill(endpoint);
        let netns = self.world.node().netns(endpoint);
        self.world.node().kernel().destroy(&netns).expect("there is one");
    }

    fn carries(&self) -> bool {
        let Some(current) = self.wire().current() else {
            return false;
        };
        let ip = current.ip_context().cloned().unwrap_or_default();
        let netns = self.world.node().netns(Client(0));
        let pairs = ip.src_nets().into_iter().zip(ip.dst_nets());
        let mut reached = pairs.map(|(source, destination)| {
            let kernel = self.world.node().kernel();
            kernel.can_reach(&netns, source.addr(), destination.addr())
        });
        reached
            .next()
            .is_some_and(|reached| reached.is_ok_and(|reached| reached))
    }

    /// Waits until the wire is one to this endpoint and carries packets; answers how long that took.
    async fn moves_to(&self, endpoint: Program) -> Duration {
        let began = Instant::now();
        let is_there = || {
            let current = self.wire().current();
            current.is_some_and(|current| current.network_service_endpoint_name == endpoint.name())
        };
        while !(is_there() && self.carries()) {
            assert!(began.elapsed() < Duration::from_secs(60), "it does not move");
            sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }

    /// How many calls have reached a program, from whoever passes connections on to it.
    fn calls(&self, to: Program, kind: Kind) -> usize {
        let call = format!("-> {} networkservice {kind:?} ", to.name());
        let lines = self.world.history().lines();
        let arrived = lines
            .iter()
            .filter(|line| line.contains(&call) && line.ends_with(": Arrived"));
        arrived.count()
    }

    fn index(&self) -> Option<u32> {
        self.world.node().kernel().index(&self.wire().id)
    }

    /// These programs die under the wire, and come back after a while. Nothing happens to the wire, and the
    /// endpoint is not left.
    async fn survives(&self, killed: &[Program], pause: Duration) {
        let ((endpoint, other), index) = (self.endpoints(), self.index());
        let before = self.calls(endpoint, Kind::Request);
        killed.iter().for_each(|program| self.world.kill(*program));
        let began = Instant::now();
        while began.elapsed() < pause {
            assert!(self.carries(), "it carries packets all the time");
            sleep(Duration::from_millis(10)).await;
        }
        for program in killed {
            self.world.start(*program);
            sleep(Duration::from_millis(100)).await;
        }
        let began = Instant::now();
        while self.calls(endpoint, Kind::Request) == before && began.elapsed() < Duration::from_secs(150) {
            assert!(self.carries(), "it carries packets all the time");
            sleep(Duration::from_millis(100)).await;
        }
        let lines = self.world.history().lines();
        let ours: Vec<_> = lines
            .iter()
            .filter(|line| line.contains("nsc-0") || line.contains("start"))
            .collect();
        let last = &ours[ours.len().saturating_sub(40)..];
        assert!(
            self.calls(endpoint, Kind::Request) > before,
            "it is requested again: {last:#?}"
        );
        assert_eq!(self.index(), index, "the wire is the same");
        assert_eq!(self.calls(endpoint, Kind::Close), 0, "the endpoint is not left");
        assert_eq!(self.calls(other, Kind::Request), 0, "nobody else is asked");
    }

    /// The application closes its wire, and nothing is left.
    async fn end(self) {
        assert!(
            self.wire().close(&self.world, How::default().within).await,
            "closed"
        );
        sleep(Duration::from_secs(2)).await;
        assert_eq!(self.index(), None, "the wire is gone");
        self.world.history().verdict().expect("nothing is broken");
    }
}

fn tell<F: Future<Output = ()>>(story: impl FnOnce(Story) -> F) {
    on_virtual_time(async { story(Story::begin().await).await });
}

#[test]
fn c56_the_endpoint_dies_and_the_connection_moves_to_another() {
    tell(async |story| {
        let (endpoint, other) = story.endpoints();
        story.destroy(endpoint);
        let took = story.moves_to(other).await;
        assert!(took <= SOON, "{took:?}");
        sleep(Duration::from_secs(60)).await;
        assert!(story.wire().ask(&story.world, How::default()).await, "refreshed");
        assert_eq!(story.calls(other, Kind::Close), 0, "a refresh closes nothing");
        let world = story.world.clone();
        story.end().await;
        let closes = Story { world }.calls(other, Kind::Close);
        assert_eq!(closes, 1, "the close of the application, once");
    });
}

#[test]
fn c57_the_data_plane_breaks_and_the_connection_moves_to_another() {
    tell(async |story| {
        let (endpoint, other) = story.endpoints();
        let netns = story.world.node().netns(Client(0));
        story
            .world
            .node()
            .kernel()
            .set_up(&netns, "nsm-0", false)
            .expect("it is there");
        let took = story.moves_to(other).await;
        assert!(took <= Duration::from_millis(2500), "{took:?}");
        assert_eq!(story.calls(endpoint, Kind::Close), 1, "closed at first");
        story.end().await;
    });
}

#[test]
fn c58_the_control_plane_is_away_and_the_wire_stays() {
    tell(async |story| {
        let all = [Manager, Forwarder, Registry];
        story.survives(&all, Duration::from_secs(5)).await;
        story.end().await;
    });
}

#[test]
fn c60_the_forwarder_restarts_and_the_wire_stays() {
    tell(async |story| {
        story.survives(&[Forwarder], Duration::from_secs(2)).await;
        story.end().await;
    });
}

#[test]
fn c61_the_manager_restarts_again_and_again_and_the_wire_stays() {
    tell(async |story| {
        for _ in 0..10 {
            story.survives(&[Manager], Duration::from_secs(1)).await;
            sleep(Duration::from_secs(15)).await;
        }
        story.end().await;
    });
}

#[test]
fn c61_manager_and_forwarder_restart_and_the_wire_stays() {
    tell(async |story| {
        story
            .survives(&[Manager, Forwarder], Duration::from_secs(2))
            .await;
        story.end().await;
    });
}

#[test]
fn c62_the_manager_restarts_and_the_endpoint_dies() {
    tell(async |story| {
        let (endpoint, other) = story.endpoints();
        story.world.kill(Manager);
        story.destroy(endpoint);
        sleep(Duration::from_secs(1)).await;
        story.world.start(Manager);
        let took = story.moves_to(other).await;
        assert!(took <= Duration::from_secs(2), "{took:?}");
        assert_eq!(story.calls(other, Kind::Close), 0, "who is new is not closed");
        assert_eq!(story.calls(Forwarder, Kind::Close), 0, "its wire is exchanged");
        let world = story.world.clone();
        story.end().await;
        let story = Story { world };
        assert_eq!(story.calls(other, Kind::Close), 1);
        assert_eq!(story.calls(Forwarder, Kind::Close), 1);
    });
}

#[test]
fn c63_forwarder_and_endpoint_die_and_who_lives_is_not_closed() {
    tell(async |story| {
        let (endpoint, other) = story.endpoints();
        story.world.kill(Forwarder);
        story.destroy(endpoint);
        sleep(Duration::from_secs(1)).await;
        story.world.start(Forwarder);
        let took = story.moves_to(other).await;
        assert!(took <= Duration::from_secs(5), "{took:?}");
        assert_eq!(story.calls(other, Kind::Close), 0);
        assert_eq!(story.calls(endpoint, Kind::Close), 0, "it is dead");
        assert!(story.calls(Manager, Kind::Close) > 0, "it lives");
        story.end().await;
    });
}

#[test]
fn c64_c65_the_registry_is_away_for_a_refresh_and_nothing_is_reselected() {
    tell(async |story| {
        let ((endpoint, other), index) = (story.endpoints(), story.index());
        story.world.kill(Registry);
        sleep(LONG).await;
        assert!(story.carries(), "it is refreshed without the registry");
        story.world.start(Registry);
        sleep(LONG).await;
        assert_eq!(story.index(), index, "the wire is the same");
        assert_eq!(
            (
                story.calls(endpoint, Kind::Close),
                story.calls(other, Kind::Request)
            ),
            (0, 0)
        );
        story.world.kill(Registry);
        story.end().await;
    });
}

#[test]
fn c66_the_forwarder_dies_in_a_refresh_and_the_wire_stays() {
    tell(async |story| {
        let index = story.index();
        let dies = story.world.trap(3, |world| world.kill(Forwarder));
        let asked = story.wire().ask(&story.world, How::default()).await;
        dies.await;
        assert!(!asked, "the refresh fails");
        sleep(Duration::from_secs(2)).await;
        story.world.start(Forwarder);
        sleep(Duration::from_secs(30)).await;
        assert!(story.carries());
        assert_eq!(story.index(), index, "the wire is the same");
        story.end().await;
    });
}

#[test]
fn c67_a_close_while_it_is_mended_ends_it() {
    tell(async |story| {
        let (endpoint, other) = story.endpoints();
        story.world.kill(other);
        story.destroy(endpoint);
        sleep(Duration::from_secs(5)).await;
        assert!(
            story.wire().close(&story.world, How::default().within).await,
            "closed"
        );
        let before = story.calls(Manager, Kind::Request);
        story.world.start(other);
        sleep(LONG).await;
        assert_eq!(
            story.calls(Manager, Kind::Request),
            before,
            "nothing is asked for any more"
        );
        story.world.history().verdict().expect("nothing is broken");
    });
}

#[test]
fn an_endpoint_that_comes_only_later_is_found() {
    tell(async |story| {
        let (endpoint, other) = story.endpoints();
        story.world.kill(other);
        story.destroy(endpoint);
        sleep(Duration::from_secs(60)).await;
        story.world.start(other);
        let took = story.moves_to(other).await;
        assert!(took <= Duration::from_secs(10), "{took:?}");
        story.end().await;
    });
}
