// SPDX-License-Identifier: Apache-2.0
//! What goes through a tunnel, whichever engine is at either end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use nsm_sdk_wireguard::{Kind, Peer};

use crate::world::{Pair, Place, World, tunnel};

crate::tests![
    pods_reach_each_other_over_ipv4,
    pods_reach_each_other_over_ipv6,
    large_packets_pass_whole_and_in_order,
    one_tunnel_has_several_peers,
    what_went_through_is_counted,
];

fn pods_reach_each_other_over_ipv4(one: Kind, other: Kind) {
    reach(one, other, 0);
}

fn pods_reach_each_other_over_ipv6(one: Kind, other: Kind) {
    reach(one, other, 1);
}

fn reach(one: Kind, other: Kind, family: usize) {
    let world = World::new(one, other);
    let pair = Pair::new(&world, family);
    world.established(&world.one, "client-1");
    world.established(&world.other, "server-1");
    assert!(pair.is_joined());
    let link = pair.pods[0].link("nsm").expect("a link");
    assert_eq!(link["mtu"], 1420);
    assert_eq!(link["ifalias"], "client-1");
    assert_eq!(link["group"], "5133133");
    let flags = link["flags"].as_array().expect("flags");
    assert!(flags.contains(&"UP".into()));
    let own = pair.pods[0].run("ip -6 addr show dev nsm scope link");
    assert_eq!(own, "", "no address appears by itself");
}

/// TCP is handed over in pieces of 64 KiB: cut, encrypted, sent as a train, joined again.
fn large_packets_pass_whole_and_in_order(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pair = Pair::new(&world, 0);
    world.established(&world.one, "client-1");
    let listener = pair.pods[1].inside(|| TcpListener::bind("10.1.0.2:7777").expect("listens"));
    let text = |length: u32| (0..length).flat_map(u32::to_be_bytes).collect::<Vec<_>>();
    let sent = text(2_000_000);
    let expected = sent.clone();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("received");
        received
    });
    let mut stream = pair.pods[0].inside(|| TcpStream::connect("10.1.0.2:7777").expect("connects"));
    stream.write_all(&sent).expect("sent");
    drop(stream);
    assert!(
        receiver.join().expect("no panic") == expected,
        "8 MB arrive as they were sent"
    );
}

fn one_tunnel_has_several_peers(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let (hub_pod, pods) = (Place::new(), [Place::new(), Place::new()]);
    let mut hub = tunnel("hub", &hub_pod);
    hub.listen_port = world.make(&world.one, &hub).listen_port;
    let at = |ip, port| SocketAddr::new(ip, port);
    for (pod, host) in pods.iter().zip(1..) {
        let mut spoke = tunnel(&format!("spoke-{host}"), pod);
        let to_hub = at(world.one.addresses[0], hub.listen_port);
        spoke.peers = vec![Peer::only(hub.private_key.public(), to_hub)];
        spoke.listen_port = world.make(&world.other, &spoke).listen_port;
        let to_spoke = at(world.other.addresses[0], spoke.listen_port);
        let mut peer = Peer::only(spoke.private_key.public(), to_spoke);
        peer.allowed = vec![format!("10.2.{host}.0/24").parse().expect("a prefix")];
        hub.peers.push(peer);
        pod.run(&format!("ip addr add 10.2.{host}.2/16 dev nsm"));
    }
    world.make(&world.one, &hub);
    hub_pod.run("ip addr add 10.2.0.1/16 dev nsm");
    world.established(&world.one, "hub");
    for host in [1, 2] {
        assert!(hub_pod.reaches(format!("10.2.{host}.2").parse().expect("an address")));
    }
    // The second does not get at the first, nor may it speak with the first one's address.
    pods[1].run("ip addr add 10.2.1.9/32 dev nsm");
    assert!(!pods[1].try_run("ping -n -q -c 1 -W 1 -I 10.2.1.9 10.2.0.1").0);
}

fn what_went_through_is_counted(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let pair = Pair::new(&world, 0);
    world.established(&world.one, "client-1");
    let before = world.statistics(&world.one, "client-1");
    pair.pods[0].run("ping -n -q -c 5 -i 0.01 -s 1000 10.1.0.2");
    let after = world.statistics(&world.one, "client-1");
    assert_eq!(after.public_key, pair.tunnels[1].private_key.public());
    assert!(after.tx_bytes >= before.tx_bytes + 5000, "{before:?} {after:?}");
    assert!(after.rx_bytes >= before.rx_bytes + 5000, "{before:?} {after:?}");
    assert!(
        after
            .last_handshake
            .is_some_and(|ago| ago < crate::world::PATIENCE)
    );
}
