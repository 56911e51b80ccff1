// SPDX-License-Identifier: Apache-2.0
//! What the data plane knows of the network between nodes.

use std::process::Command;

use nsm_sdk::core::Error;
use nsm_sdk::dataplane::underlay::Underlay;

use crate::tests;
use crate::world::{World, ip};

tests![
    an_mtu_is_that_of_the_route_or_of_its_device,
    who_has_no_way_to_the_other_node_is_told_so,
];

/// The device between this node and another.
const DEVICE: &str = "underlay-0";

fn node(line: &str) {
    let done = Command::new("ip").args(line.split_whitespace()).status();
    assert!(done.expect("ip starts").success(), "ip {line}");
}

fn mtu(world: &World, local: &str, remote: Option<&str>) -> Result<u32, Error> {
    let asked = world.kernel().mtu(ip(local), remote.map(ip));
    world.runtime.block_on(asked)
}

fn an_mtu_is_that_of_the_route_or_of_its_device() {
    let world = World::new();
    let other = &world.client;
    node(&format!(
        "link add {DEVICE} mtu 1400 type veth peer name there netns {}",
        other.pid()
    ));
    node(&format!("addr add 10.77.0.1/24 dev {DEVICE}"));
    node(&format!("addr add 2001:db8:77::1/64 dev {DEVICE} nodad"));
    node(&format!("link set {DEVICE} up"));
    for (local, remote) in [("10.77.0.1", "10.77.0.2"), ("2001:db8:77::1", "2001:db8:77::2")] {
        assert_eq!(mtu(&world, local, None).expect("known"), 1400);
        assert_eq!(mtu(&world, local, Some(remote)).expect("known"), 1400);
    }
    node("route add 10.78.0.0/24 via 10.77.0.2 mtu 1300");
    assert_eq!(mtu(&world, "10.77.0.1", Some("10.78.0.9")).expect("known"), 1300);
    node(&format!("link set {DEVICE} mtu 1350"));
    assert_eq!(mtu(&world, "10.77.0.1", Some("10.77.0.2")).expect("known"), 1350);
    node(&format!("link del {DEVICE}"));
}

fn who_has_no_way_to_the_other_node_is_told_so() {
    let world = World::new();
    for (local, remote) in [
        ("10.99.0.1", None),
        ("10.99.0.1", Some("10.99.0.2")),
        ("127.0.0.1", Some("203.0.113.1")),
        ("2001:db8:99::1", Some("2001:db8:99::2")),
    ] {
        let error = mtu(&world, local, remote).expect_err("no way");
        assert_eq!(error.reason(), "no-underlay");
        assert!(
            error.text().contains(local) && error.text().contains("NSM_TUNNEL_IP"),
            "{error}"
        );
    }
}
