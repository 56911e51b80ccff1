// SPDX-License-Identifier: Apache-2.0
//! Making a tunnel twice, changing it, removing it, ending the engine.

use std::time::Duration;

use nsm_sdk_wireguard::{Kind, PrivateKey};

use crate::world::{Pair, Place, World, open_files, soon, tunnel};

crate::tests![
    twice_is_once,
    a_changed_mtu_or_keepalive_keeps_the_session,
    a_changed_key_keeps_the_device,
    a_changed_port_keeps_the_device,
    a_changed_peer_replaces_the_old_one,
    another_name_is_another_device,
    removing_leaves_nothing,
    what_was_let_go_makes_way_for_the_next,
    removing_what_is_not_there_succeeds,
    the_end_of_the_engine_ends_what_is_in_it,
    what_an_earlier_life_left_is_taken_over,
    the_metrics_tell_which_engine_there_is,
];

fn twice_is_once(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pair = Pair::new(&world, 0);
    world.established(&world.one, "client-1");
    let first = world.make(&world.one, &pair.tunnels[0]);
    let link = pair.pods[0].link("nsm").expect("a link");
    let handshake = world.statistics(&world.one, "client-1");
    let second = world.make(&world.one, &pair.tunnels[0]);
    let mut unnamed = pair.tunnels[0].clone();
    unnamed.listen_port = 0;
    let third = world.make(&world.one, &unnamed);
    assert_eq!([first, first], [second, third]);
    assert_eq!(
        pair.pods[0].link("nsm").expect("a link")["ifindex"],
        link["ifindex"]
    );
    assert!(world.statistics(&world.one, "client-1").tx_bytes >= handshake.tx_bytes);
    assert!(pair.is_joined());
}

fn a_changed_mtu_or_keepalive_keeps_the_session(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let mut pair = Pair::new(&world, 0);
    world.established(&world.one, "client-1");
    let made = world.make(&world.one, &pair.tunnels[0]);
    let before = world.statistics(&world.one, "client-1");
    pair.tunnels[0].mtu = 1300;
    pair.tunnels[0].peers[0].keepalive = Some(Duration::from_secs(5));
    assert_eq!(world.make(&world.one, &pair.tunnels[0]), made);
    assert_eq!(pair.pods[0].link("nsm").expect("a link")["mtu"], 1300);
    let after = world.statistics(&world.one, "client-1");
    assert!(
        after.last_handshake >= before.last_handshake,
        "no other handshake"
    );
    assert!(after.tx_bytes >= before.tx_bytes);
    assert!(pair.is_joined());
}

fn a_changed_key_keeps_the_device(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let mut pair = Pair::new(&world, 0);
    let made = world.make(&world.one, &pair.tunnels[0]);
    let key = PrivateKey::random().expect("randomness");
    pair.tunnels[1].peers[0].public_key = key.public();
    pair.tunnels[0].private_key = key;
    assert_eq!(world.make(&world.one, &pair.tunnels[0]), made);
    world.make(&world.other, &pair.tunnels[1]);
    assert!(pair.is_joined());
}

fn a_changed_port_keeps_the_device(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let mut pair = Pair::new(&world, 0);
    let made = world.make(&world.one, &pair.tunnels[0]);
    pair.tunnels[0].listen_port = 40_001;
    pair.tunnels[1].peers[0].endpoint.set_port(40_001);
    let moved = world.make(&world.one, &pair.tunnels[0]);
    assert_eq!((moved.index, moved.listen_port), (made.index, 40_001));
    world.make(&world.other, &pair.tunnels[1]);
    assert!(pair.is_joined());
    assert!(world.one.place.listens(40_001));
    world.until("the old port is free", || {
        !world.one.place.listens(made.listen_port)
    });
}

/// The reference adds the new one and keeps the old one for ever.
fn a_changed_peer_replaces_the_old_one(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let mut pair = Pair::new(&world, 0);
    assert!(pair.is_joined());
    let key = PrivateKey::random().expect("randomness");
    pair.tunnels[0].peers[0].public_key = key.public();
    world.make(&world.one, &pair.tunnels[0]);
    let statistics = world.runtime.block_on(world.one.engine().statistics("client-1"));
    let peers: Vec<_> = statistics
        .expect("statistics")
        .iter()
        .map(|peer| peer.public_key)
        .collect();
    assert_eq!(peers, [key.public()]);
    pair.tunnels[1].private_key = key;
    world.make(&world.other, &pair.tunnels[1]);
    assert!(pair.is_joined());
}

fn another_name_is_another_device(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let (pod, another) = (Place::new(), Place::new());
    let mut tunnel = tunnel("c", &pod);
    world.make(&world.one, &tunnel);
    tunnel.name = "renamed".into();
    world.make(&world.one, &tunnel);
    assert!(pod.link("nsm").is_none() && pod.link("renamed").is_some());
    tunnel.netns = another.path();
    world.make(&world.one, &tunnel);
    assert!(pod.links() == 0 && another.link("renamed").is_some());
}

fn removing_leaves_nothing(one: Kind, other: Kind) {
    let world = World::new(one, other);
    // The threads of the runtime have their buffers after this.
    drop(make_and_remove(&world));
    let (files, tasks) = (open_files(), world.runtime.metrics().num_alive_tasks());
    for _ in 0..3 {
        let pair = make_and_remove(&world);
        assert_eq!(pair.pods.each_ref().map(Place::links), [0, 0]);
        assert!(!world.one.place.listens(pair.tunnels[0].listen_port));
    }
    world.until("no task is left", || {
        world.runtime.metrics().num_alive_tasks() <= tasks
    });
    world.until("no task of the component is left", || {
        world.component.tasks() == 0
    });
    world.until("no file is left open", || open_files() <= files);
}

/// Nobody waits for the removal, but who wants the same name or port.
fn what_was_let_go_makes_way_for_the_next(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    let (mut first, mut second) = (tunnel("a", &pod), tunnel("b", &pod));
    first.listen_port = 40_000;
    second.listen_port = 40_000;
    let mut index = world.make(&world.one, &first).index;
    let _in_the_runtime = world.runtime.enter();
    for (before, after) in [(&first, &second), (&second, &first), (&first, &first)] {
        world.one.engine().dismiss(&before.id);
        let made = world.make(&world.one, after);
        assert!(made.index != index && made.listen_port == 40_000, "{made:?}");
        assert_eq!(pod.links(), 1);
        index = made.index;
    }
    world.one.engine().dismiss("a");
    world.one.engine().dismiss("a");
    world.one.engine().dismiss("nobody");
    world.until("nothing is left", || {
        pod.links() == 0 && !world.one.place.listens(40_000) && world.component.tasks() == 0
    });
}

fn make_and_remove(world: &World) -> Pair {
    let pair = Pair::new(world, 0);
    assert!(pair.is_joined());
    world.remove(&world.one, "client-1");
    assert!(pair.pods[0].link("nsm").is_none(), "gone when the call returns");
    world.remove(&world.other, "server-1");
    pair
}

fn removing_what_is_not_there_succeeds(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pod = Place::new();
    world.remove(&world.one, "c");
    world.make(&world.one, &tunnel("c", &pod));
    world.remove(&world.one, "c");
    world.remove(&world.one, "c");
    let error = world.runtime.block_on(world.one.engine().statistics("c"));
    assert_eq!(error.expect_err("none").reason(), "no-tunnel");
}

fn the_end_of_the_engine_ends_what_is_in_it(one: Kind, other: Kind) {
    let mut world = World::new(one, other);
    let pair = Pair::new(&world, 0);
    assert!(pair.is_joined());
    world.one.engine = None;
    world.other.engine = None;
    world.until("no task is left", || {
        world.runtime.metrics().num_alive_tasks() == 0
    });
    if one == Kind::Kernel {
        assert!(pair.is_joined(), "traffic goes on");
        return;
    }
    world.until("no device is left", || {
        pair.pods.iter().all(|pod| pod.links() == 0)
    });
    world.until("no socket is left", || {
        !world.one.place.listens(pair.tunnels[0].listen_port)
    });
    world.until("no device is open", || {
        let files = std::fs::read_dir("/proc/self/fd").expect("a folder");
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        !links.into_iter().any(|link| link.ends_with("net/tun"))
    });
}

fn what_an_earlier_life_left_is_taken_over(one: Kind, other: Kind) {
    let mut world = World::new(one, other);
    let pair = Pair::new(&world, 0);
    assert!(pair.is_joined());
    let made = world.make(&world.one, &pair.tunnels[0]);
    let config = nsm_sdk_wireguard::Config {
        node: world.one.place.path(),
        ..Default::default()
    };
    world.one.engine = None;
    let start = async {
        match one {
            Kind::Kernel => nsm_sdk_wireguard::kernel::start(&world.component, &config).await,
            Kind::Userspace => nsm_sdk_wireguard::userspace::start(&world.component, &config).await,
        }
    };
    let engine = world.runtime.block_on(start).expect("an engine");
    let left = world
        .runtime
        .block_on(engine.left(&pair.pods[0].path(), "nsm"))
        .expect("looked");
    if one == Kind::Userspace {
        assert_eq!(left, None, "nothing outlives the program");
        return;
    }
    let left = left.expect("a tunnel");
    assert_eq!(left, pair.tunnels[0]);
    let again = world
        .runtime
        .block_on(async { engine.make(&left, soon()).await })
        .expect("taken over");
    assert_eq!(again, made);
    let statistics = world
        .runtime
        .block_on(engine.statistics("client-1"))
        .expect("statistics");
    assert!(statistics[0].last_handshake.is_some(), "the session goes on");
    assert!(pair.is_joined());
}

fn the_metrics_tell_which_engine_there_is(one: Kind, other: Kind) {
    let mut world = World::new(one, other);
    let told = |world: &World| world.component.meters().text();
    assert!(
        !told(&world).contains("nsm_wireguard_engines"),
        "nobody has asked"
    );
    world.component.meters().switch_on();
    world.choose_ports(one, "40000-40001");
    let line = format!("nsm_wireguard_engines{{engine=\"{one}\"}} 1");
    let text = told(&world);
    assert!(text.lines().any(|told| told == line), "{text}");
    assert_eq!(text.matches("nsm_wireguard_engines{").count(), 1, "{text}");
}
