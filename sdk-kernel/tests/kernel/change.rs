// SPDX-License-Identifier: Apache-2.0
//! What happens to a wire that is there: cases 31–35 and 45 of the conformance list.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;

use futures::FutureExt;
use nsm_sdk::dataplane::{DataPlane, Neighbour, Payload};
use serde_json::json;
use tokio::time::Instant;

use crate::tests;
use crate::world::{PATIENCE, Pod, World, ip, net, route, via};

tests![
    case_31_a_refresh_without_change_asks_the_kernel_nothing,
    case_31_a_refresh_without_change_waits_for_nobody,
    case_32_a_replaced_address_leaves_the_rest,
    case_32_addresses_of_one_prefix_survive_each_other,
    case_33_a_route_that_is_wanted_no_more_goes,
    case_34_an_interface_that_was_deleted_comes_back,
    case_34_what_was_changed_by_hand_is_repaired,
    case_35_an_endpoint_in_another_pod_keeps_the_clients_interface,
    case_35_a_dead_endpoint_is_replaced,
    case_45_a_foreign_interface_is_named_and_untouched,
    case_45_what_another_forwarder_has_left_of_the_wire_is_replaced,
    an_interface_of_another_name_replaces_the_old_one,
    a_client_in_another_pod_leaves_nothing_in_the_old_one,
    the_mtu_and_mac_address_change_in_place,
    neighbours_change_with_the_context,
    a_new_connection_takes_a_name_over_from_a_former_one,
    the_loss_of_a_wire_is_told,
];

fn index(pod: &Pod, name: &str) -> u64 {
    pod.link(name).expect("there")["ifindex"]
        .as_u64()
        .expect("a number")
}

fn case_31_a_refresh_without_change_asks_the_kernel_nothing() {
    let world = World::new();
    let mut wire = world.dual("c31", "nsm-1");
    wire.client.routes.push(via("10.0.0.0/8", "172.16.1.100"));
    wire.client.policies = vec![nsm_sdk::dataplane::Policy {
        from: Some(net("10.1.0.0/16")),
        ..Default::default()
    }];
    world.up(&wire);
    let before = index(&world.client, "nsm-1");
    // Link-local addresses settle within two seconds; what the monitor shows afterwards is our doing.
    world.wait("duplicate address detection", || {
        let shown =
            world.client.run("ip -6 addr show dev nsm-1") + &world.endpoint.run("ip -6 addr show dev nsm-1");
        !shown.contains("tentative")
    });
    let monitors = [&world.client, &world.endpoint].map(Monitor::new);
    for (monitor, pod) in monitors.iter().zip([&world.client, &world.endpoint]) {
        // It is there when it shows what we do.
        world.wait("the monitor", || {
            pod.run("ip link set lo up");
            pod.run("ip link set lo down");
            monitor.reports.try_recv().is_ok()
        });
    }
    let (started, rounds, sent) = (Instant::now(), 1000, world.kernel().requests());
    for _ in 0..rounds {
        world.refresh(&wire, &wire);
    }
    let sent = world.kernel().requests() - sent;
    println!(
        "a refresh without change takes {:?}, {sent} requests",
        started.elapsed() / rounds
    );
    assert_eq!(index(&world.client, "nsm-1"), before);
    for (monitor, pod) in monitors.into_iter().zip([&world.client, &world.endpoint]) {
        pod.run("ip link add the-end type veth peer name another-end");
        for line in monitor
            .reports
            .iter()
            .take_while(|line| !line.contains("the-end"))
        {
            assert!(!line.contains("nsm-1"), "{line}");
        }
    }
}

/// What `ip monitor` says in a pod.
struct Monitor {
    child: Child,
    reports: mpsc::Receiver<String>,
}

impl Monitor {
    fn new(pod: &Pod) -> Self {
        let mut command = pod.command("ip");
        command
            .args(["-o", "monitor", "link", "address", "route", "rule"])
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("ip starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, reports) = mpsc::channel();
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, reports }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn case_31_a_refresh_without_change_waits_for_nobody() {
    let world = World::new();
    let wire = world.dual("c31b", "nsm-1");
    world.up(&wire);
    let mut moved = wire.clone();
    // Another path to the same namespace is no change.
    moved.client.netns = format!(
        "{}/../ns/net",
        wire.client.netns.parent().expect("a folder").display()
    )
    .into();
    let _entered = world.runtime.enter();
    for wire in [&wire, &moved] {
        let late = Instant::now() + PATIENCE;
        let at_once = world
            .kernel()
            .connect(wire, Some(&wire.clone()), late)
            .now_or_never();
        at_once.expect("waits for nothing").expect("refreshes");
    }
}

fn case_32_a_replaced_address_leaves_the_rest() {
    let world = World::new();
    let before = world.dual("c32", "nsm-1");
    world.up(&before);
    let (old, local) = (
        index(&world.client, "nsm-1"),
        world.client.run("ip -6 addr show dev nsm-1 scope link"),
    );
    assert!(local.contains("fe80::"), "{local}");
    let mut wire = before.clone();
    wire.client.addresses = vec![net("172.16.1.103/32"), net("2001:db8::3/128")];
    wire.endpoint.routes = vec![route("172.16.1.103/32"), route("2001:db8::3/128")];
    wire.endpoint.peers = vec![ip("172.16.1.103"), ip("2001:db8::3")];
    world.refresh(&wire, &before);
    assert_eq!(
        world.client.addresses("nsm-1"),
        ["172.16.1.103/32", "2001:db8::3/128"]
    );
    assert_eq!(world.client.routes("route show dev nsm-1"), ["172.16.1.100"]);
    assert_eq!(world.endpoint.routes("route show dev nsm-1"), ["172.16.1.103"]);
    assert!(
        world
            .client
            .run("ip -6 addr show dev nsm-1 scope link")
            .contains("fe80::")
    );
    assert_eq!(index(&world.client, "nsm-1"), old);
    assert!(world.client.ping("172.16.1.100") && world.client.ping("2001:db8::1"));
    assert!(
        !world
            .endpoint
            .run("ip neigh show dev nsm-1")
            .contains("172.16.1.101 ")
    );
}

fn case_32_addresses_of_one_prefix_survive_each_other() {
    let world = World::new();
    let mut before = world.wire("c32b", "nsm-1");
    before.client.addresses = vec![net("172.16.1.101/24"), net("172.16.1.102/24")];
    before.client.routes = vec![via("10.0.0.0/8", "172.16.1.100")];
    world.up(&before);
    let mut wire = before.clone();
    wire.client.addresses = vec![net("172.16.1.102/24"), net("172.16.1.103/24")];
    world.refresh(&wire, &before);
    let mut shown = world.client.addresses("nsm-1");
    shown.sort();
    assert_eq!(shown, ["172.16.1.102/24", "172.16.1.103/24"]);
    let routes = world.client.routes("route show dev nsm-1");
    assert!(
        routes.contains(&"10.0.0.0/8 via 172.16.1.100 onlink".to_string()),
        "{routes:?}"
    );
}

fn case_33_a_route_that_is_wanted_no_more_goes() {
    let world = World::new();
    let mut before = world.dual("c33", "nsm-1");
    before.client.routes.extend([
        via("10.0.0.0/8", "172.16.1.100"),
        via("2001:db8:9::/48", "2001:db8::1"),
    ]);
    world.up(&before);
    let wire = world.dual("c33", "nsm-1");
    world.refresh(&wire, &before);
    assert_eq!(world.client.routes("route show dev nsm-1"), ["172.16.1.100"]);
    assert!(
        !world
            .client
            .run("ip -6 route show dev nsm-1")
            .contains("2001:db8:9::")
    );
    // A route to a gateway that becomes one without.
    let mut changed = before.clone();
    changed.client.routes.push(route("10.0.0.0/8"));
    world.refresh(&before, &wire);
    world.refresh(&changed, &before);
    assert_eq!(
        world.client.routes("route show dev nsm-1"),
        ["10.0.0.0/8", "172.16.1.100"]
    );
}

fn case_34_an_interface_that_was_deleted_comes_back() {
    let world = World::new();
    let mut wire = world.dual("c34", "nsm-1");
    wire.client.policies = vec![nsm_sdk::dataplane::Policy {
        from: Some(net("10.1.0.0/16")),
        ..Default::default()
    }];
    world.up(&wire);
    let (routes, rules) = (
        world.client.routes("route show table all dev nsm-1"),
        world.client.routes("rule"),
    );
    for pod in [&world.client, &world.endpoint] {
        pod.run("ip link del nsm-1");
        world.refresh(&wire, &wire);
        assert!(world.client.ping("172.16.1.100") && world.client.ping("2001:db8::1"));
        assert_eq!(world.client.routes("route show table all dev nsm-1"), routes);
        assert_eq!(world.client.routes("rule"), rules);
    }
}

fn case_34_what_was_changed_by_hand_is_repaired() {
    let world = World::new();
    let wire = world.dual("c34b", "nsm-1");
    world.up(&wire);
    let before = index(&world.client, "nsm-1");
    for line in [
        "ip addr flush dev nsm-1 scope global",
        "ip link set nsm-1 down",
        "ip -6 addr del 2001:db8::2/128 dev nsm-1",
    ] {
        world.client.run(line);
        world.refresh(&wire, &wire);
        for to in ["172.16.1.100", "2001:db8::1"] {
            let state = || {
                let show = |pod: &Pod| {
                    pod.run("ip addr") + &pod.run("ip -6 route show table all") + &pod.run("ip neigh")
                };
                format!("{}\n{}", show(&world.client), show(&world.endpoint))
            };
            assert!(world.client.ping(to), "no way to {to} after {line}:\n{}", state());
        }
        assert_eq!(
            world.client.routes("route show dev nsm-1"),
            ["172.16.1.100"],
            "after {line}"
        );
        assert_eq!(index(&world.client, "nsm-1"), before, "after {line}");
    }
    world.client.run("ip link set nsm-1 down");
    world.client.run("ip link set nsm-1 name other");
    world.refresh(&wire, &wire);
    assert!(world.client.ping("172.16.1.100"));
    assert!(world.client.link("other").is_none());
}

fn case_35_an_endpoint_in_another_pod_keeps_the_clients_interface() {
    let mut world = World::new();
    let before = world.dual("c35", "nsm-1");
    world.up(&before);
    let (old, mac) = (
        index(&world.client, "nsm-1"),
        world.endpoint.link("nsm-1").expect("there")["address"].clone(),
    );
    let former = std::mem::replace(&mut world.endpoint, Pod::new());
    let mut wire = world.dual("c35", "nsm-1");
    wire.endpoint.name = "other-name".into();
    world.refresh(&wire, &before);
    assert_eq!(index(&world.client, "nsm-1"), old);
    assert_eq!(world.endpoint.link("other-name").expect("there")["address"], mac);
    assert_eq!(
        world.endpoint.link("other-name").expect("there")["ifalias"],
        json!("client-c35")
    );
    assert_eq!(
        world.endpoint.addresses("other-name"),
        ["172.16.1.100/32", "2001:db8::1/128"]
    );
    assert!(world.client.ping("172.16.1.100") && world.client.ping("2001:db8::1"));
    assert!(former.is_clean());
    // A close of what is there no more changes nothing; one of what is there removes it.
    world.down(&before);
    assert!(world.client.ping("172.16.1.100"));
    world.down(&wire);
    world.wait_clean();
}

fn case_35_a_dead_endpoint_is_replaced() {
    let mut world = World::new();
    let before = world.wire("c35b", "nsm-1");
    world.up(&before);
    drop(std::mem::replace(&mut world.endpoint, Pod::new()));
    let wire = world.wire("c35b", "nsm-1");
    world.refresh(&wire, &before);
    assert!(world.client.ping("172.16.1.100"));
    assert_eq!(world.client.ip("link").as_array().expect("a list").len(), 2);
}

fn case_45_what_another_forwarder_has_left_of_the_wire_is_replaced() {
    let world = World::new();
    let wire = world.wire("c45b", "nsm-1");
    world.client.run("ip link add nsm-1 type veth peer name theirs");
    world.client.run("ip link set nsm-1 up alias server-c45b");
    world.client.run("ip addr add 172.16.9.9/32 dev nsm-1");
    world.up(&wire);
    assert!(world.client.ping("172.16.1.100"));
    assert_eq!(world.client.ip("link").as_array().expect("a list").len(), 2);
    world.down(&wire);
    world.wait_clean();
    // What it has left of another wire is a stranger's.
    world.client.run("ip link add nsm-1 type veth peer name theirs");
    world.client.run("ip link set nsm-1 alias server-other");
    let error = world.connect(&wire, None).expect_err("taken");
    assert_eq!(error.reason(), "interface-taken");
}

fn case_45_a_foreign_interface_is_named_and_untouched() {
    let world = World::new();
    world.client.run("ip link add nsm-1 type veth peer name foreign");
    let before = world.client.run("ip link show dev nsm-1");
    let error = world
        .connect(&world.wire("c45", "nsm-1"), None)
        .expect_err("taken");
    assert_eq!(error.reason(), "interface-taken");
    assert!(
        error.text().contains("nsm-1") && error.text().contains("remove or rename"),
        "{error}"
    );
    assert_eq!(world.client.run("ip link show dev nsm-1"), before);
    assert!(world.endpoint.is_clean());
    // The same at the endpoint, and for the close of what never came to be.
    let wire = world.wire("c45", "foreign");
    world.connect(&wire, None).expect_err("taken");
    world.down(&wire);
    world.down(&world.wire("c45", "nsm-1"));
    assert_eq!(world.client.run("ip link show dev nsm-1"), before);
    world.client.run("ip link del nsm-1");
    world.up(&world.wire("c45", "nsm-1"));
}

fn an_interface_of_another_name_replaces_the_old_one() {
    let world = World::new();
    let before = world.wire("rename", "nsm-1");
    world.up(&before);
    let wire = world.wire("rename", "nsm-2");
    world.refresh(&wire, &before);
    assert!(world.client.ping("172.16.1.100"));
    world.wait("the old one gone", || world.client.link("nsm-1").is_none());
    assert!(world.client.link("nsm-2").is_some());
}

fn a_client_in_another_pod_leaves_nothing_in_the_old_one() {
    let mut world = World::new();
    let before = world.wire("move", "nsm-1");
    world.up(&before);
    let former = std::mem::replace(&mut world.client, Pod::new());
    let wire = world.wire("move", "nsm-1");
    world.refresh(&wire, &before);
    assert!(world.client.ping("172.16.1.100"));
    world.wait("the old pod clean", || former.is_clean());
    assert_eq!(world.endpoint.ip("link").as_array().expect("a list").len(), 2);
}

fn the_mtu_and_mac_address_change_in_place() {
    let world = World::new();
    let before = world.dual("change", "nsm-1");
    world.up(&before);
    let old = index(&world.client, "nsm-1");
    let mut wire = before.clone();
    wire.mtu = 1400;
    wire.endpoint.mac = Some([2, 0, 0, 0, 0, 9]);
    world.refresh(&wire, &before);
    assert_eq!(world.client.link("nsm-1").expect("there")["mtu"], json!(1400));
    assert_eq!(
        world.endpoint.link("nsm-1").expect("there")["address"],
        json!("02:00:00:00:00:09")
    );
    assert_eq!(index(&world.client, "nsm-1"), old);
    assert!(world.client.ping("172.16.1.100") && world.client.ping("2001:db8::1"));
}

fn neighbours_change_with_the_context() {
    let world = World::new();
    let mut before = world.wire("neigh", "nsm-1");
    before.payload = Payload::Ethernet;
    before.client.neighbours = vec![Neighbour {
        ip: ip("172.16.1.50"),
        mac: [2, 0, 0, 0, 0, 5],
    }];
    world.up(&before);
    let mut wire = before.clone();
    wire.client.neighbours = vec![Neighbour {
        ip: ip("172.16.1.60"),
        mac: [2, 0, 0, 0, 0, 6],
    }];
    world.refresh(&wire, &before);
    let shown = world.client.run("ip neigh show dev nsm-1");
    assert!(shown.contains("172.16.1.60 lladdr 02:00:00:00:00:06"), "{shown}");
    assert!(!shown.contains("02:00:00:00:00:05"), "{shown}");
}

fn a_new_connection_takes_a_name_over_from_a_former_one() {
    let mut world = World::new();
    let mut former = world.wire("former", "nsm-1");
    former.client.policies = vec![nsm_sdk::dataplane::Policy {
        from: Some(net("10.1.0.0/16")),
        ..Default::default()
    }];
    world.up(&former);
    let wire = world.wire("newcomer", "nsm-1");
    world.up(&wire);
    assert_eq!(
        world.client.link("nsm-1").expect("there")["ifalias"],
        json!("server-newcomer")
    );
    assert!(!world.client.run("ip rule").contains("10.1.0.0"));
    // The former owner's refresh does not take it back, and its close removes nothing.
    let error = world.connect(&former, Some(&former)).expect_err("taken");
    assert_eq!(error.reason(), "interface-taken");
    assert!(error.text().contains("server-newcomer"), "{error}");
    world.down(&former);
    world.end();
    assert!(world.client.ping("172.16.1.100"));
}

fn the_loss_of_a_wire_is_told() {
    let world = World::new();
    let wire = world.wire("lost", "nsm-1");
    world.up(&wire);
    let mut lost = world.kernel().lost();
    world.endpoint.run("ip link del nsm-1");
    let told = world
        .runtime
        .block_on(async { tokio::time::timeout(PATIENCE, lost.recv()).await });
    assert_eq!(told.expect("in time").expect("told"), "lost");
}
