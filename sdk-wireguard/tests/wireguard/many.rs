// SPDX-License-Identifier: Apache-2.0
//! Many tunnels at once, and the memory that they need.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;

use nsm_sdk_wireguard::{Kind, Tunnel};

use crate::world::{Node, Pair, Place, World, join, soon, tunnel};

crate::tests![
    five_hundred_idle_tunnels_need_little_memory,
    two_hundred_tunnels_are_made_at_once,
    two_hundred_tunnels_have_ports_of_their_own,
    coming_and_going_takes_no_memory,
];

/// Tunnels between two pods, all made at once.
fn make_all(world: &World, pods: &[Place; 2], count: usize) -> Vec<[Tunnel; 2]> {
    let mut pairs: Vec<_> = (0..count)
        .map(|number| {
            let mut pair = [0, 1].map(|end| tunnel(&format!("{end}-{number}"), &pods[end]));
            for (end, tunnel) in pair.iter_mut().enumerate() {
                tunnel.name = format!("nsm{number}");
                tunnel.listen_port = u16::try_from(20_000 + 2 * number + end).expect("a port");
            }
            join(&mut pair, [world.one.addresses[0], world.other.addresses[0]]);
            pair
        })
        .collect();
    let tasks: Vec<_> = pairs
        .iter()
        .flat_map(|[one, other]| [(&world.one, one), (&world.other, other)])
        .map(|(node, tunnel)| spawn(world, node, tunnel))
        .collect();
    world.runtime.block_on(async {
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    pairs.shrink_to_fit();
    pairs
}

fn spawn(world: &World, node: &Node, tunnel: &Tunnel) -> tokio::task::JoinHandle<()> {
    let (engine, tunnel) = (Arc::clone(node.engine()), tunnel.clone());
    world.runtime.spawn(async move {
        engine.make(&tunnel, soon()).await.expect("a tunnel");
        engine.established(&tunnel.id, soon()).await.expect("a handshake");
    })
}

fn two_hundred_tunnels_are_made_at_once(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pods = [Place::new(), Place::new()];
    let began = tokio::time::Instant::now();
    let pairs = make_all(&world, &pods, 200);
    println!("200 tunnels, each with a handshake: {:?}", began.elapsed());
    assert_eq!(pods.each_ref().map(Place::links), [200, 200]);
    let began = tokio::time::Instant::now();
    let removals: Vec<_> = pairs
        .iter()
        .flat_map(|[one, other]| [(&world.one, one), (&world.other, other)])
        .map(|(node, tunnel)| {
            let (engine, id) = (Arc::clone(node.engine()), tunnel.id.clone());
            world
                .runtime
                .spawn(async move { engine.remove(&id, soon()).await })
        })
        .collect();
    for removal in removals {
        world
            .runtime
            .block_on(removal)
            .expect("no panic")
            .expect("removed");
    }
    println!("removed again: {:?}", began.elapsed());
    assert_eq!(pods.each_ref().map(Place::links), [0, 0]);
}

/// A third of all ports belongs to others.
fn two_hundred_tunnels_have_ports_of_their_own(one: Kind, other: Kind) {
    let mut world = World::new(one, other);
    let ports = 40_000..40_300_u16;
    world.choose_ports(one, &format!("{}-{}", ports.start, ports.end - 1));
    let taken: Vec<_> = ports.clone().step_by(3).collect();
    let sockets = world.one.place.inside({
        let taken = taken.clone();
        move || {
            let open = taken.into_iter().map(|port| UdpSocket::bind(("0.0.0.0", port)));
            open.map(|socket| socket.expect("a socket")).collect::<Vec<_>>()
        }
    });
    let pod = Place::new();
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let (engine, mut tunnel) = (Arc::clone(world.one.engine()), tunnel(&number.to_string(), &pod));
            tunnel.name = format!("nsm{number}");
            world
                .runtime
                .spawn(async move { engine.make(&tunnel, soon()).await })
        })
        .collect();
    let made = world.runtime.block_on(futures::future::join_all(tasks));
    let chosen: BTreeSet<_> = made
        .into_iter()
        .map(|made| made.expect("no panic").expect("a tunnel").listen_port)
        .collect();
    let free: BTreeSet<_> = ports.filter(|port| !taken.contains(port)).collect();
    assert_eq!(chosen, free);
    drop(sockets);
}

fn five_hundred_idle_tunnels_need_little_memory(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pods = [Place::new(), Place::new()];
    let before = resident();
    // Both ends are in this process: 250 pairs are 500 ends.
    let pairs = make_all(&world, &pods, 250);
    let after = resident();
    println!("500 ends: {before} KiB before, {after} KiB with them");
    assert!(after < 64 * 1024, "{after} KiB");
    drop(pairs);
}

fn coming_and_going_takes_no_memory(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let come_and_go = |times: usize| {
        for _ in 0..times {
            let pair = Pair::new(&world, 0);
            world.established(&world.one, "client-1");
            world.remove(&world.one, "client-1");
            world.remove(&world.other, "server-1");
            drop(pair);
        }
        resident()
    };
    let (before, after) = (come_and_go(20), come_and_go(40));
    println!("{before} KiB after 20 times, {after} KiB after 60");
    assert!(after < before + 2048, "{before} KiB, then {after} KiB");
}

/// The memory of this process, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a size");
    let number = line.split_whitespace().nth(1).expect("a number");
    number.parse().expect("a number")
}
