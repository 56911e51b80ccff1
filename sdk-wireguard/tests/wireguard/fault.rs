// SPDX-License-Identifier: Apache-2.0
//! What is in the way of a tunnel, and what goes wrong with it.

use std::net::UdpSocket;
use std::time::Duration;

use nsm_sdk::core::Result;
use nsm_sdk_wireguard::{Choice, Config, Kind, Made, Peer, PrivateKey};
use tokio::time::Instant;

use crate::world::{Pair, Place, World, soon, tunnel};

crate::tests![
    a_stranger_gets_no_handshake,
    a_taken_port_is_refused_and_nothing_is_left,
    the_engine_passes_over_taken_ports,
    a_taken_name_is_refused_and_stays_as_it_is,
    a_place_that_is_no_namespace_is_refused,
    a_bad_tunnel_is_refused_before_anything_happens,
    a_pod_ends_with_its_tunnel,
    a_namespace_that_has_a_name_needs_no_process,
    a_device_that_somebody_removes_is_made_again,
    a_caller_that_goes_away_leaves_nothing,
    a_caller_that_goes_away_takes_nothing_from_the_next,
    the_choice_says_what_is_missing,
];

/// How many tasks of the component a tunnel has: one writes to its device, one waits for the end of its pod.
const TASKS: usize = 2;

fn a_stranger_gets_no_handshake(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let mut pair = Pair::new(&world, 0);
    pair.tunnels[1].peers[0].public_key = PrivateKey::random().expect("randomness").public();
    world.make(&world.other, &pair.tunnels[1]);
    // A key of its own, so that no session from before is left.
    pair.tunnels[0].private_key = PrivateKey::random().expect("randomness");
    world.make(&world.one, &pair.tunnels[0]);
    let deadline = Instant::now() + Duration::from_secs(1);
    let established = async { world.one.engine().established("client-1", deadline).await };
    let error = world.runtime.block_on(established).expect_err("a stranger");
    assert_eq!(error.reason(), "no-handshake");
    assert!(!pair.pods[0].try_run("ping -n -q -c 1 -W 1 10.1.0.2").0);
}

fn a_taken_port_is_refused_and_nothing_is_left(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    let holder = world
        .one
        .place
        .inside(|| UdpSocket::bind("[::]:40000").expect("a free port"));
    let mut tunnel = tunnel("c", &pod);
    tunnel.listen_port = 40_000;
    let error = world.try_make(&world.one, &tunnel).expect_err("taken");
    assert_eq!(error.reason(), "port-taken", "{error}");
    assert!(error.text().contains("40000"), "{error}");
    assert_eq!(pod.links(), 0);
    // One that is there keeps its port.
    tunnel.listen_port = 40_002;
    let made = world.make(&world.one, &tunnel);
    tunnel.listen_port = 40_000;
    let error = world.try_make(&world.one, &tunnel).expect_err("taken");
    assert_eq!(error.reason(), "port-taken", "{error}");
    tunnel.listen_port = 40_002;
    assert_eq!(world.make(&world.one, &tunnel), made);
    drop(holder);
    tunnel.listen_port = 40_000;
    assert_eq!(world.make(&world.one, &tunnel).listen_port, 40_000);
}

fn the_engine_passes_over_taken_ports(one: Kind, other: Kind) {
    let mut world = World::new(one, other);
    world.choose_ports(one, "40000-40001");
    let pods = [Place::new(), Place::new(), Place::new()];
    let make = |at: usize| world.try_make(&world.one, &tunnel(&at.to_string(), &pods[at]));
    let mut ports = [0, 1].map(|at| make(at).expect("a port").listen_port);
    ports.sort_unstable();
    assert_eq!(ports, [40_000, 40_001]);
    let error = make(2).expect_err("no port left");
    assert_eq!(error.reason(), "port-taken");
    assert_eq!(pods[2].links(), 0);
}

fn a_taken_name_is_refused_and_stays_as_it_is(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    pod.run("ip link add nsm type bridge");
    let before = pod.link("nsm");
    let error = world.try_make(&world.one, &tunnel("c", &pod)).expect_err("taken");
    assert_eq!(error.reason(), "interface-taken", "{error}");
    assert!(error.text().contains("nsm"), "{error}");
    assert_eq!(pod.link("nsm"), before);
    assert_eq!(pod.links(), 1);
    // So is that of another tunnel of ours.
    pod.run("ip link del nsm");
    world.make(&world.one, &tunnel("c", &pod));
    let error = world.try_make(&world.one, &tunnel("d", &pod)).expect_err("taken");
    assert_eq!(error.reason(), "interface-taken", "{error}");
}

fn a_place_that_is_no_namespace_is_refused(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    let mut tunnel = tunnel("c", &pod);
    for (path, reason) in [
        ("/etc/passwd", "not-a-netns"),
        ("/proc/self/ns/mnt", "not-a-netns"),
        ("/proc/0/ns/net", "netns-gone"),
    ] {
        tunnel.netns = path.into();
        let error = world.try_make(&world.one, &tunnel).expect_err("no namespace");
        assert_eq!(error.reason(), reason, "{path}");
    }
    world.until("no task is left", || world.component.tasks() == 0);
}

fn a_bad_tunnel_is_refused_before_anything_happens(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    let mut tunnel = tunnel("c", &pod);
    let own = tunnel.private_key.public();
    tunnel.peers = vec![Peer::only(own, "192.0.2.2:1".parse().expect("an address"))];
    let error = world.try_make(&world.one, &tunnel).expect_err("its own key");
    assert_eq!(error.reason(), "bad-tunnel");
    assert_eq!(pod.links(), 0);
}

fn a_pod_ends_with_its_tunnel(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let Pair {
        pods: [pod, _other],
        mut tunnels,
    } = Pair::new(&world, 0);
    world.established(&world.one, "client-1");
    // The end of this in the node goes when the namespace of the pod does.
    world.one.place.run(&format!(
        "ip link add witness type veth peer name eth0 netns {}",
        pod.id()
    ));
    drop(pod);
    world.until("the namespace ends although it has a tunnel", || {
        world.one.place.link("witness").is_none()
    });
    world.until("the tunnel's end is seen", || {
        let statistics = world.runtime.block_on(world.one.engine().statistics("client-1"));
        statistics.is_err_and(|error| ["interface-gone", "netns-gone"].contains(&error.reason()))
    });
    // The pod has come back.
    let pod = Place::new();
    tunnels[0].netns = pod.path();
    let made = world.make(&world.one, &tunnels[0]);
    assert_eq!(made.listen_port, tunnels[0].listen_port);
    pod.run("ip addr add 10.1.0.1/24 dev nsm");
    assert!(pod.reaches("10.1.0.2".parse().expect("an address")));
    drop(pod);
    world.remove(&world.one, "client-1");
}

fn a_namespace_that_has_a_name_needs_no_process(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    let name = pod.name();
    let made = world.make(&world.one, &tunnel("c", &pod));
    let before = world.component.tasks();
    drop(pod);
    if one == Kind::Userspace {
        world.until("nobody waits for the end of a process any more", || {
            world.component.tasks() < before
        });
    }
    let statistics = world.runtime.block_on(world.one.engine().statistics("c"));
    assert_eq!(statistics.expect("it is there"), []);
    let link = world.one.place.run(&format!("ip -n {name} -o link show dev nsm"));
    assert!(link.starts_with(&format!("{}: nsm", made.index)), "{link}");
    world.remove(&world.one, "c");
    world.one.place.run(&format!("ip netns del {name}"));
}

fn a_device_that_somebody_removes_is_made_again(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pair = Pair::new(&world, 0);
    world.established(&world.one, "client-1");
    pair.pods[0].run("ip link del nsm");
    world.until("it is seen", || {
        let statistics = world.runtime.block_on(world.one.engine().statistics("client-1"));
        statistics.is_err_and(|error| error.reason() == "interface-gone")
    });
    world.make(&world.one, &pair.tunnels[0]);
    pair.pods[0].run("ip addr add 10.1.0.1/24 dev nsm");
    pair.pods[0].run("ip addr add fd00::1/64 dev nsm nodad");
    assert!(pair.is_joined());
}

fn a_caller_that_goes_away_leaves_nothing(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    for wait in 0..20 {
        let tunnel = tunnel("c", &pod);
        let engine = world.one.engine().clone();
        let made: Option<Result<Made>> = world.runtime.block_on(async {
            let make = engine.make(&tunnel, soon());
            tokio::time::timeout(Duration::from_millis(wait), make).await.ok()
        });
        let tasks = if made.is_some() { TASKS } else { 0 };
        world.until("the work is done", || world.component.tasks() <= tasks);
        if made.is_some() {
            world.remove(&world.one, "c");
        }
        world.until("no device is left", || pod.links() == 0);
    }
    let tunnel = tunnel("c", &pod);
    let engine = world.one.engine();
    let error = world.runtime.block_on(async {
        engine
            .make(&tunnel, Instant::now() - Duration::from_secs(1))
            .await
    });
    assert_eq!(error.expect_err("no time").reason(), "deadline");
    world.until("no device is left", || {
        world.component.tasks() == 0 && pod.links() == 0
    });
}

fn a_caller_that_goes_away_takes_nothing_from_the_next(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    for _ in 0..20 {
        let tunnel = tunnel("c", &pod);
        let engine = world.one.engine();
        let made = world.runtime.block_on(async {
            drop(tokio::time::timeout(Duration::ZERO, engine.make(&tunnel, soon())).await);
            engine.make(&tunnel, soon()).await.expect("a tunnel")
        });
        let left = if one == Kind::Userspace { TASKS } else { 0 };
        world.until("the work is done", || world.component.tasks() <= left);
        let link = pod.link("nsm").expect("it is still there");
        assert_eq!(link["ifindex"], made.index);
        world.remove(&world.one, "c");
    }
}

fn the_choice_says_what_is_missing(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let config = Config {
        node: world.one.place.path(),
        ..Config::default()
    };
    let start = |choice| {
        let start = async { nsm_sdk_wireguard::start(&world.component, choice, &config).await };
        world.runtime.block_on(start)
    };
    assert_eq!(
        start(Choice::Userspace).expect("an engine").kind(),
        Kind::Userspace
    );
    if crate::has_kernel() {
        assert_eq!(start(Choice::Auto).expect("an engine").kind(), Kind::Kernel);
        assert_eq!(start(Choice::Kernel).expect("an engine").kind(), Kind::Kernel);
        return;
    }
    assert_eq!(start(Choice::Auto).expect("an engine").kind(), Kind::Userspace);
    let error = start(Choice::Kernel).err().expect("no WireGuard here");
    assert_eq!(error.reason(), "no-wireguard");
    assert!(error.text().contains("userspace"), "{error}");
}
