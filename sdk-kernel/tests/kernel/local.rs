// SPDX-License-Identifier: Apache-2.0
//! What a new wire between two pods of one node is: cases 1–20, 41, 42, 46, 66, 67 and 70 of the conformance list.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Child;
use std::thread::JoinHandle;

use nsm_sdk::dataplane::{DataPlane, Neighbour, Payload};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use tokio::time::Instant;

use crate::role;
use crate::tests;
use crate::world::{PATIENCE, Pod, World, lines, net, peer, route, via};

tests![
    case_01_addresses_are_exact,
    case_02_the_peer_is_a_plain_device_route,
    case_03_ipv6_addresses_are_usable_at_once,
    case_04_both_families_work_at_once,
    case_05_ipv6_is_enabled_where_it_was_not,
    case_06_ipv4_alone_leaves_ipv6_disabled,
    a_wire_of_ip_has_ipv6_only_when_it_carries_some,
    case_07_the_first_packet_is_answered_both_ways,
    whoever_waits_to_send_finds_the_other_end_at_once,
    case_08_the_mtu_is_that_of_both_ends,
    case_10_a_name_is_used_verbatim_or_refused,
    case_11_a_route_through_the_peer_is_onlink,
    case_12_a_gateway_outside_any_prefix_is_onlink,
    case_13_default_routes_of_both_families,
    case_14_a_route_without_gateway_is_a_device_route,
    case_15_a_prefix_that_covers_the_peer_needs_no_host_route,
    case_16_named_neighbours_are_there,
    case_17_ip_peers_are_permanent_neighbours,
    case_18_mac_addresses_are_those_asked_for,
    case_19_everybody_may_ping,
    case_20_loopback_is_routed_at_the_endpoint_only,
    case_41_nothing_is_left_after_close,
    case_42_closing_what_is_not_there_succeeds,
    case_46_fifty_interfaces_of_one_client_at_once,
    case_66_counters_are_of_each_end,
    case_67_aliases_name_side_and_connection,
    case_70_a_thousand_cycles_leak_nothing,
    the_node_itself_can_be_an_end,
    both_ends_can_be_in_one_namespace,
    a_bind_mounted_namespace_works,
];

fn case_01_addresses_are_exact() {
    let world = World::new();
    world.up(&world.wire("c1", "nsm-1"));
    assert_eq!(world.client.addresses("nsm-1"), ["172.16.1.101/32"]);
    assert_eq!(world.endpoint.addresses("nsm-1"), ["172.16.1.100/32"]);
}

fn case_02_the_peer_is_a_plain_device_route() {
    let world = World::new();
    world.up(&world.wire("c2", "nsm-1"));
    assert_eq!(world.client.routes("route show dev nsm-1"), ["172.16.1.100"]);
    assert_eq!(world.endpoint.routes("route show dev nsm-1"), ["172.16.1.101"]);
    let mut wire = world.wire("c2b", "nsm-2");
    wire.client.routes = vec![peer("172.16.1.100/32")];
    world.up(&wire);
    assert_eq!(
        world.client.routes("route show dev nsm-2"),
        ["172.16.1.100 scope link"]
    );
}

fn case_03_ipv6_addresses_are_usable_at_once() {
    let world = World::new();
    let wire = world.dual("c3", "nsm-1");
    world.up(&wire);
    let shown = world.client.ip("-6 addr show dev nsm-1 scope global");
    let info = &shown[0]["addr_info"][0];
    assert_eq!(
        (&info["local"], &info["prefixlen"]),
        (&json!("2001:db8::2"), &json!(128))
    );
    assert_eq!((&info["nodad"], &info["tentative"]), (&json!(true), &json!(null)));
    let routes = world.client.routes("-6 route show dev nsm-1");
    assert!(
        routes.contains(&"2001:db8::1 metric 1024 pref medium".to_string()),
        "{routes:?}"
    );
}

fn case_04_both_families_work_at_once() {
    let world = World::new();
    world.up(&world.dual("c4", "nsm-1"));
    assert!(world.client.ping("172.16.1.100") && world.client.ping("2001:db8::1"));
    assert!(world.endpoint.ping("172.16.1.101") && world.endpoint.ping("2001:db8::2"));
}

fn case_05_ipv6_is_enabled_where_it_was_not() {
    let world = World::new();
    for pod in [&world.client, &world.endpoint] {
        pod.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        pod.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    }
    world.up(&world.dual("c5", "nsm-1"));
    assert_eq!(world.client.sysctl("net.ipv6.conf.nsm-1.disable_ipv6"), "0");
    assert!(world.client.ping("2001:db8::1"));
}

fn case_06_ipv4_alone_leaves_ipv6_disabled() {
    let world = World::new();
    world
        .client
        .run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    world.up(&world.wire("c6", "nsm-1"));
    assert_eq!(world.client.sysctl("net.ipv6.conf.nsm-1.disable_ipv6"), "1");
    assert!(world.client.ping("172.16.1.100"));
}

fn a_wire_of_ip_has_ipv6_only_when_it_carries_some() {
    let world = World::new();
    let (before, after) = (world.wire("v4", "nsm-1"), world.dual("v4", "nsm-1"));
    let local = |pod: &Pod| pod.run("ip -6 addr show dev nsm-1 scope link");
    world.up(&before);
    for pod in [&world.client, &world.endpoint] {
        assert_eq!(
            (local(pod), pod.routes("-6 route show dev nsm-1").len()),
            (String::new(), 0)
        );
    }
    world.refresh(&after, &before);
    assert!(world.client.ping("172.16.1.100") && world.client.ping("2001:db8::1"));
}

fn case_07_the_first_packet_is_answered_both_ways() {
    for turn in 0..10 {
        let world = World::new();
        world.up(&world.wire("c7", "nsm-1"));
        let (one, other, to) = if turn % 2 == 0 {
            (&world.client, &world.endpoint, ["172.16.1.100", "172.16.1.101"])
        } else {
            (&world.endpoint, &world.client, ["172.16.1.101", "172.16.1.100"])
        };
        assert!(one.ping(to[0]), "turn {turn}: the first packet is lost");
        assert!(other.ping(to[1]), "turn {turn}: the first packet back is lost");
    }
}

/// A program that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Sends as soon as there is a way.
fn sender(pod: &Pod) -> JoinHandle<()> {
    let netns = std::fs::File::open(pod.path()).expect("a namespace");
    std::thread::spawn(move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).expect("enters");
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let end = Instant::now() + PATIENCE;
        while socket.send_to(&[0], "172.16.1.100:9").is_err() && Instant::now() < end {}
    })
}

fn whoever_waits_to_send_finds_the_other_end_at_once() {
    // What others do keeps the kernel from giving an interface its carrier.
    let others = Pod::new();
    let busy = "while :; do ip link add a type veth peer name b; ip link del a; done";
    let busy = others.command("sh").args(["-c", busy]).spawn();
    let _busy = Ends(busy.expect("starts"));
    for _ in 0..20 {
        let world = World::new();
        let sender = sender(&world.client);
        let mut wire = world.wire("waits", "nsm-1");
        wire.payload = Payload::Ethernet;
        world.up(&wire);
        sender.join().expect("has sent");
        assert!(world.client.ping("172.16.1.100"));
        let known = world.client.ip("-s neigh show dev nsm-1");
        // The kernel counts the questions to all from there on.
        let before = world.client.sysctl("net.ipv4.neigh.nsm-1.ucast_solicit");
        let before: u64 = before.parse().expect("a number");
        assert_eq!(known[0]["probes"], json!(before + 1), "{known}");
    }
}

fn case_08_the_mtu_is_that_of_both_ends() {
    let world = World::new();
    for (id, name, mtu) in [("c8a", "nsm-1", 9000), ("c8b", "nsm-2", 1300)] {
        let mut wire = world.wire(id, name);
        wire.mtu = mtu;
        world.up(&wire);
        for pod in [&world.client, &world.endpoint] {
            assert_eq!(pod.link(name).expect("there")["mtu"], json!(mtu));
        }
    }
}

fn case_10_a_name_is_used_verbatim_or_refused() {
    let world = World::new();
    world.up(&world.wire("c10", "nsm-4567890.bcd"));
    assert!(world.client.link("nsm-4567890.bcd").is_some());
    for name in [
        "nsm-4567890abcde",
        "",
        ".",
        "..",
        "all",
        "default",
        "a b",
        "a/b",
        "a:b",
        "nsm%d",
        "a\nb",
    ] {
        let error = world
            .connect(&world.wire("bad", name), None)
            .expect_err("not a name");
        assert_eq!(error.reason(), "bad-interface-name", "{name:?}");
        assert!(error.text().contains(&format!("{name:?}")), "{error}");
    }
}

fn case_11_a_route_through_the_peer_is_onlink() {
    let world = World::new();
    let mut wire = world.wire("c11", "nsm-1");
    wire.endpoint.routes.push(via("10.0.0.0/8", "172.16.1.101"));
    world.up(&wire);
    let routes = world.endpoint.routes("route show dev nsm-1");
    assert!(
        routes.contains(&"10.0.0.0/8 via 172.16.1.101 onlink".to_string()),
        "{routes:?}"
    );
}

fn case_12_a_gateway_outside_any_prefix_is_onlink() {
    let world = World::new();
    let mut wire = world.dual("c12", "nsm-1");
    wire.client.routes.push(via("10.9.0.0/16", "192.0.2.77"));
    wire.client.routes.push(via("2001:db8:9::/48", "2001:db8:77::1"));
    world.up(&wire);
    let routes = world.client.routes("route show dev nsm-1");
    assert!(
        routes.contains(&"10.9.0.0/16 via 192.0.2.77 onlink".to_string()),
        "{routes:?}"
    );
    let routes = world.client.routes("-6 route show dev nsm-1");
    let wanted = "2001:db8:9::/48 via 2001:db8:77::1 metric 1024 onlink pref medium";
    assert!(routes.contains(&wanted.to_string()), "{routes:?}");
}

fn case_13_default_routes_of_both_families() {
    let world = World::new();
    let mut wire = world.dual("c13", "nsm-1");
    wire.client.routes.push(via("0.0.0.0/0", "172.16.1.100"));
    wire.client.routes.push(via("::/0", "2001:db8::1"));
    world.up(&wire);
    assert_eq!(
        world.client.routes("route show default"),
        ["default via 172.16.1.100 dev nsm-1 onlink"]
    );
    assert_eq!(
        world.client.routes("-6 route show default"),
        ["default via 2001:db8::1 dev nsm-1 metric 1024 onlink pref medium"]
    );
}

fn case_14_a_route_without_gateway_is_a_device_route() {
    let world = World::new();
    let mut wire = world.wire("c14", "nsm-1");
    // Host bits are masked away.
    wire.client.routes.push(route("172.16.9.77/24"));
    world.up(&wire);
    assert_eq!(
        world.client.routes("route show dev nsm-1"),
        ["172.16.1.100", "172.16.9.0/24"]
    );
}

fn case_15_a_prefix_that_covers_the_peer_needs_no_host_route() {
    let world = World::new();
    let mut wire = world.wire("c15", "nsm-1");
    wire.client.addresses = vec![net("172.16.1.101/24")];
    wire.client.routes.clear();
    world.up(&wire);
    assert_eq!(
        world.client.routes("route show dev nsm-1"),
        ["172.16.1.0/24 proto kernel scope link src 172.16.1.101"]
    );
    let shown = world.client.ip("addr show dev nsm-1");
    assert_eq!(shown[0]["addr_info"][0]["broadcast"], json!("172.16.1.255"));
    assert!(world.client.ping("172.16.1.100"));
}

fn case_16_named_neighbours_are_there() {
    let world = World::new();
    let mut wire = world.dual("c16", "nsm-1");
    wire.payload = Payload::Ethernet;
    for end in [&mut wire.client, &mut wire.endpoint] {
        for ip in ["172.16.1.50", "2001:db8::50"] {
            end.neighbours.push(Neighbour {
                ip: ip.parse().expect("an address"),
                mac: [2, 0, 0, 0, 0, 0x50],
            });
        }
    }
    world.up(&wire);
    for pod in [&world.client, &world.endpoint] {
        let shown = lines(&pod.run("ip neigh show dev nsm-1"));
        for ip in ["172.16.1.50", "2001:db8::50"] {
            let wanted = format!("{ip} lladdr 02:00:00:00:00:50 ");
            assert!(shown.iter().any(|line| line.starts_with(&wanted)), "{shown:?}");
        }
        assert!(!shown.iter().any(|line| line.ends_with("PERMANENT")), "{shown:?}");
    }
}

fn case_17_ip_peers_are_permanent_neighbours() {
    let world = World::new();
    world.up(&world.dual("c17", "nsm-1"));
    for (pod, other, peers) in [
        (&world.client, &world.endpoint, ["172.16.1.100", "2001:db8::1"]),
        (&world.endpoint, &world.client, ["172.16.1.101", "2001:db8::2"]),
    ] {
        let mac = other.link("nsm-1").expect("there")["address"]
            .as_str()
            .expect("text")
            .to_string();
        let shown = lines(&pod.run("ip neigh show dev nsm-1"));
        for ip in peers {
            assert!(
                shown.contains(&format!("{ip} lladdr {mac} PERMANENT")),
                "{shown:?}"
            );
        }
    }
}

fn case_18_mac_addresses_are_those_asked_for() {
    let world = World::new();
    let mut wire = world.wire("c18", "nsm-1");
    wire.client.mac = Some([2, 0, 0, 0, 0, 1]);
    wire.endpoint.mac = Some([2, 0, 0, 0, 0, 2]);
    world.up(&wire);
    assert_eq!(
        world.client.link("nsm-1").expect("there")["address"],
        json!("02:00:00:00:00:01")
    );
    assert_eq!(
        world.endpoint.link("nsm-1").expect("there")["address"],
        json!("02:00:00:00:00:02")
    );
    assert!(world.client.ping("172.16.1.100"));
}

fn case_19_everybody_may_ping() {
    let world = World::new();
    world.up(&world.wire("c19", "nsm-1"));
    // In a user namespace the kernel takes no group that is not mapped there.
    let is_whole = std::fs::read_to_string("/proc/self/gid_map")
        .expect("a map")
        .contains("4294967295");
    let wanted = if is_whole { "0 2147483647" } else { "0 0" };
    assert_eq!(world.client.sysctl("net.ipv4.ping_group_range"), wanted);
    assert_eq!(world.endpoint.sysctl("net.ipv4.ping_group_range"), wanted);
}

fn case_20_loopback_is_routed_at_the_endpoint_only() {
    let world = World::new();
    let mut wire = world.wire("c20", "nsm-1");
    wire.endpoint.route_localnet = true;
    world.up(&wire);
    assert_eq!(world.endpoint.sysctl("net.ipv4.conf.nsm-1.route_localnet"), "1");
    assert_eq!(world.client.sysctl("net.ipv4.conf.nsm-1.route_localnet"), "0");
    let mut without = wire.clone();
    without.endpoint.route_localnet = false;
    world.refresh(&without, &wire);
    assert_eq!(world.endpoint.sysctl("net.ipv4.conf.nsm-1.route_localnet"), "0");
}

fn case_41_nothing_is_left_after_close() {
    let world = World::new();
    let wire = world.dual("c41", "nsm-1");
    world.up(&wire);
    let closed = Instant::now();
    world.down(&wire);
    world.wait_clean();
    assert!(closed.elapsed().as_secs() < 1, "took {:?}", closed.elapsed());
    // The same names again, at once after the next close: the call waits for the removal.
    world.up(&wire);
    world.down(&wire);
    world.up(&wire);
    assert!(world.client.ping("172.16.1.100"));
}

fn case_42_closing_what_is_not_there_succeeds() {
    let mut world = World::new();
    let wire = world.wire("c42", "nsm-1");
    world.down(&wire);
    world.up(&wire);
    world.down(&wire);
    world.down(&wire);
    world.wait_clean();
    world.up(&wire);
    let pod = std::mem::replace(&mut world.endpoint, crate::world::Pod::new());
    drop(pod);
    world.down(&wire);
    world.wait_clean();
    world.up(&world.wire("c42b", "nsm-1"));
    let pod = std::mem::replace(&mut world.client, crate::world::Pod::new());
    let mut wire = world.wire("c42b", "nsm-1");
    wire.client.netns = pod.path();
    drop(pod);
    world.down(&wire);
    world.wait_clean();
}

fn case_46_fifty_interfaces_of_one_client_at_once() {
    let world = World::new();
    let wires: Vec<_> = (0..50)
        .map(|i| world.wire(&format!("c46-{i}"), &format!("nsm-{i}")))
        .collect();
    world.runtime.block_on(async {
        let deadline = Instant::now() + PATIENCE;
        let calls = wires
            .iter()
            .map(|wire| world.kernel().connect(wire, None, deadline));
        for done in futures::future::join_all(calls).await {
            done.expect("connects");
        }
    });
    assert_eq!(world.client.ip("link").as_array().expect("a list").len(), 51);
    world.runtime.block_on(async {
        let calls = wires.iter().map(|wire| world.kernel().disconnect(wire));
        for done in futures::future::join_all(calls).await {
            done.expect("disconnects");
        }
    });
    let closed = Instant::now();
    world.wait_clean();
    assert!(closed.elapsed().as_secs() < 1, "took {:?}", closed.elapsed());
}

fn case_66_counters_are_of_each_end() {
    let world = World::new();
    let wire = world.wire("c66", "nsm-1");
    world.up(&wire);
    let count = || {
        world
            .runtime
            .block_on(world.kernel().counters(&wire))
            .expect("counts")
    };
    let before = count();
    // 100 one way only: the endpoint does not answer what is not for it.
    world
        .client
        .run("ip neigh replace 172.16.1.7 lladdr 02:00:00:00:00:07 dev nsm-1");
    world.client.run("ip route add 172.16.1.7 dev nsm-1");
    world
        .client
        .try_run("ping -n -q -c 100 -i 0.002 -W 0.1 -s 1000 172.16.1.7");
    let after = count();
    assert!(after.0.tx_packets >= before.0.tx_packets + 100, "{after:?}");
    assert!(after.0.tx_bytes >= before.0.tx_bytes + 100_000, "{after:?}");
    assert!(after.1.rx_packets >= before.1.rx_packets + 100, "{after:?}");
    assert!(after.0.rx_packets < before.0.rx_packets + 50, "{after:?}");
    let shown = world.client.ip("-s link show dev nsm-1");
    assert_eq!(shown[0]["stats64"]["tx"]["packets"], json!(count().0.tx_packets));
}

fn case_67_aliases_name_side_and_connection() {
    let world = World::new();
    world.up(&world.wire("c67", "nsm-1"));
    assert_eq!(
        world.client.link("nsm-1").expect("there")["ifalias"],
        json!("server-c67")
    );
    assert_eq!(
        world.endpoint.link("nsm-1").expect("there")["ifalias"],
        json!("client-c67")
    );
}

fn case_70_a_thousand_cycles_leak_nothing() {
    let output = role::command("cycles", &[]).output().expect("starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn the_node_itself_can_be_an_end() {
    let world = World::new();
    let mut wire = world.wire("host", "nsm-host");
    wire.endpoint.netns = "/proc/self/ns/net".into();
    world.up(&wire);
    assert!(world.client.ping("172.16.1.100"));
    world.down(&wire);
    world.wait_clean();
}

fn both_ends_can_be_in_one_namespace() {
    let world = World::new();
    let mut wire = world.wire("loop", "nsm-a");
    wire.endpoint.netns = world.client.path();
    let error = world.connect(&wire, None).expect_err("one name for two");
    assert_eq!(error.reason(), "bad-interface-name");
    wire.endpoint.name = "nsm-b".into();
    world.up(&wire);
    assert!(world.client.link("nsm-a").is_some() && world.client.link("nsm-b").is_some());
    world.down(&wire);
    world.wait_clean();
}

fn a_bind_mounted_namespace_works() {
    let world = World::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pod");
    std::fs::write(&file, "").expect("a file");
    let mount = |from: &str| {
        let mut command = std::process::Command::new("mount");
        let done = command
            .args(["--bind", from])
            .arg(&file)
            .status()
            .expect("mount starts");
        assert!(done.success(), "cannot bind {from}");
    };
    let pid = world.client.path().display().to_string();
    mount(&pid);
    let mut wire = world.wire("bind", "nsm-1");
    wire.client.netns = file.clone();
    world.up(&wire);
    assert!(world.client.ping("172.16.1.100"));
    world.down(&wire);
    world.wait_clean();
    mount("/proc/self/ns/uts");
    let error = world.connect(&wire, None).expect_err("another kind of namespace");
    assert_eq!(error.reason(), "not-a-netns");
    for _ in 0..2 {
        let mut command = std::process::Command::new("umount");
        assert!(command.arg(&file).status().expect("umount starts").success());
    }
}
