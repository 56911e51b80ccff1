// SPDX-License-Identifier: Apache-2.0
//! Policy routes: cases 22–30 of the conformance list.

use nsm_sdk::dataplane::{DataPlane, Policy, Wire};
use tokio::time::Instant;

use crate::tests;
use crate::world::{PATIENCE, Pod, World, net, route, via};

tests![
    case_22_the_five_upstream_policies,
    case_23_parallel_connections_have_disjoint_tables,
    case_24_a_changed_list_changes_what_differs,
    case_25_the_same_selectors_with_other_routes,
    case_26_an_ipv6_policy_without_routes,
    case_27_a_restart_makes_no_duplicates,
    case_28_a_late_close_of_a_former_wire_leaves_the_rules_of_this_one,
    case_29_foreign_rules_and_tables_are_untouched,
    case_30_port_ranges_and_unknown_protocols,
    a_policy_without_source_has_a_rule_in_each_family,
    a_close_removes_rules_and_tables,
];

/// The rules of ours, as `ip rule` shows them.
fn rules(pod: &Pod, family: &str) -> Vec<String> {
    let shown = pod.routes(&format!("{family} rule"));
    let kernels = ["lookup local", "lookup main", "lookup default"];
    shown
        .into_iter()
        .filter(|line| !kernels.iter().any(|end| line.ends_with(end)))
        .collect()
}

fn table(pod: &Pod, family: &str, table: u32) -> Vec<String> {
    pod.routes(&format!("{family} route show table {table}"))
}

fn from(source: &str) -> Policy {
    Policy {
        from: Some(net(source)),
        ..Policy::default()
    }
}

/// The example of the reference's `policy-based-routing`.
fn upstream(world: &World) -> Wire {
    let mut wire = world.wire("pbr", "nsm-1");
    wire.client.addresses = ["172.16.2.201/32", "172.16.2.201/24", "2004::5/120"]
        .map(net)
        .into();
    wire.client.routes = vec![route("172.16.2.200/32")];
    wire.client.policies = vec![
        Policy {
            protocol: Some(6),
            destination_ports: Some((6666, 6666)),
            routes: vec![via("172.16.3.0/24", "172.16.2.200")],
            ..from("172.16.2.201/24")
        },
        Policy {
            protocol: Some(6),
            source_ports: Some((5555, 5555)),
            ..from("172.16.2.201/24")
        },
        Policy {
            protocol: Some(17),
            destination_ports: Some((6666, 6666)),
            routes: everywhere(),
            ..Policy::default()
        },
        Policy {
            protocol: Some(17),
            destination_ports: Some((6667, 6670)),
            routes: everywhere(),
            ..Policy::default()
        },
        Policy {
            protocol: Some(6),
            destination_ports: Some((6666, 6666)),
            routes: vec![via("2004::/120", "2004::6")],
            ..from("2004::5/120")
        },
    ];
    wire
}

fn everywhere() -> Vec<nsm_sdk::dataplane::Route> {
    vec![route("0.0.0.0/0")]
}

fn case_22_the_five_upstream_policies() {
    let world = World::new();
    world.up(&upstream(&world));
    assert_eq!(
        rules(&world.client, ""),
        [
            "32762:\tfrom all ipproto udp dport 6667-6670 lookup 4",
            "32763:\tfrom all ipproto udp dport 6666 lookup 3",
            "32764:\tfrom 172.16.2.201/24 ipproto tcp sport 5555 lookup 2",
            "32765:\tfrom 172.16.2.201/24 ipproto tcp dport 6666 lookup 1",
        ]
    );
    assert_eq!(
        rules(&world.client, "-6"),
        ["32765:\tfrom 2004::5/120 ipproto tcp dport 6666 lookup 5"]
    );
    assert_eq!(
        table(&world.client, "", 1),
        ["172.16.3.0/24 via 172.16.2.200 dev nsm-1 onlink"]
    );
    for number in 2..=4 {
        assert_eq!(table(&world.client, "", number), ["default dev nsm-1"]);
    }
    assert_eq!(
        table(&world.client, "-6", 5),
        ["2004::/120 via 2004::6 dev nsm-1 metric 1024 onlink pref medium"]
    );
    let way = |words: &str| {
        world
            .client
            .run(&format!("ip {words}"))
            .lines()
            .next()
            .unwrap_or_default()
            .to_string()
    };
    let tcp = way("route get 172.16.3.1 from 172.16.2.201 ipproto tcp dport 6666");
    assert!(
        tcp.starts_with("172.16.3.1 from 172.16.2.201 via 172.16.2.200 dev nsm-1 table 1"),
        "{tcp}"
    );
    let sport = way("route get 172.16.3.1 from 172.16.2.201 ipproto tcp sport 5555");
    assert!(
        sport.starts_with("172.16.3.1 from 172.16.2.201 dev nsm-1 table 2"),
        "{sport}"
    );
    for (port, number) in [(6666, 3), (6668, 4)] {
        let udp = way(&format!("route get 172.16.4.1 ipproto udp dport {port}"));
        assert!(
            udp.starts_with(&format!("172.16.4.1 dev nsm-1 table {number} ")),
            "{udp}"
        );
    }
    let six = way("-6 route get 2004::6 from 2004::5 ipproto tcp dport 6666");
    assert!(
        six.starts_with("2004::6 from 2004::5 via 2004::6 dev nsm-1 table 5"),
        "{six}"
    );
}

fn case_23_parallel_connections_have_disjoint_tables() {
    let world = World::new();
    let wires: Vec<Wire> = (0..8)
        .map(|i| {
            let mut wire = world.wire(&format!("c23-{i}"), &format!("nsm-{i}"));
            wire.client.policies = vec![from("172.16.1.101/32"), from("172.16.2.0/24")];
            wire
        })
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
    let mut tables: Vec<String> = rules(&world.client, "")
        .iter()
        .map(|line| line.rsplit(' ').next().expect("a word").to_string())
        .collect();
    tables.sort_by_key(|table| table.parse::<u32>().expect("a number"));
    assert_eq!(
        tables,
        (1..=16).map(|table| table.to_string()).collect::<Vec<_>>()
    );
    for number in 1..=16 {
        assert_eq!(table(&world.client, "", number).len(), 1);
    }
    world.down(&wires[3]);
    world.wait("the rules of one gone", || rules(&world.client, "").len() == 14);
    world.wait("the interface gone", || world.client.link("nsm-3").is_none());
    for line in rules(&world.client, "") {
        let number = line
            .rsplit(' ')
            .next()
            .and_then(|word| word.parse().ok())
            .expect("a number");
        assert_eq!(table(&world.client, "", number).len(), 1, "{line}");
    }
}

fn case_24_a_changed_list_changes_what_differs() {
    let world = World::new();
    let mut before = world.wire("c24", "nsm-1");
    before.client.policies = vec![from("10.1.0.0/16"), from("10.2.0.0/16"), from("10.3.0.0/16")];
    world.up(&before);
    let mut wire = before.clone();
    wire.client.policies = vec![from("10.1.0.0/16"), from("10.3.0.0/16"), from("10.4.0.0/16")];
    world.refresh(&wire, &before);
    let mut shown: Vec<String> = rules(&world.client, "")
        .iter()
        .map(|line| line.split_once('\t').expect("a tab").1.to_string())
        .collect();
    shown.sort();
    // The new one is made while the old one's table still is in use.
    assert_eq!(
        shown,
        [
            "from 10.1.0.0/16 lookup 1",
            "from 10.3.0.0/16 lookup 3",
            "from 10.4.0.0/16 lookup 4"
        ]
    );
    assert_eq!(table(&world.client, "", 2), [""; 0]);
    assert_eq!(table(&world.client, "", 4), ["default dev nsm-1"]);
    world.refresh(&before, &wire);
    assert_eq!(rules(&world.client, "").len(), 3);
}

fn case_25_the_same_selectors_with_other_routes() {
    let world = World::new();
    let mut before = world.wire("c25", "nsm-1");
    before.client.policies = vec![Policy {
        routes: vec![via("10.9.0.0/16", "172.16.1.100"), route("10.8.0.0/16")],
        ..from("10.1.0.0/16")
    }];
    world.up(&before);
    let shown = rules(&world.client, "");
    let mut wire = before.clone();
    wire.client.policies[0].routes = vec![via("10.9.0.0/16", "172.16.1.1"), route("10.7.0.0/16")];
    world.refresh(&wire, &before);
    assert_eq!(rules(&world.client, ""), shown);
    assert_eq!(
        table(&world.client, "", 1),
        [
            "10.7.0.0/16 dev nsm-1",
            "10.9.0.0/16 via 172.16.1.1 dev nsm-1 onlink"
        ]
    );
    let mut bare = wire.clone();
    bare.client.policies[0].routes.clear();
    world.refresh(&bare, &wire);
    assert_eq!(table(&world.client, "", 1), ["default dev nsm-1"]);
}

fn case_26_an_ipv6_policy_without_routes() {
    let world = World::new();
    let mut wire = world.dual("c26", "nsm-1");
    wire.client.policies = vec![from("2001:db8::2/128")];
    world.up(&wire);
    assert_eq!(rules(&world.client, "-6"), ["32765:\tfrom 2001:db8::2 lookup 1"]);
    assert_eq!(
        table(&world.client, "-6", 1),
        ["default dev nsm-1 metric 1024 pref medium"]
    );
    assert_eq!(rules(&world.client, ""), [""; 0]);
}

fn case_27_a_restart_makes_no_duplicates() {
    let mut world = World::new();
    let wire = upstream(&world);
    world.up(&wire);
    let picture = |world: &World| {
        let tables = (1..=6).map(|number| world.client.routes(&format!("route show table {number}")));
        let six = (1..=6).map(|number| world.client.routes(&format!("-6 route show table {number}")));
        let rules = [rules(&world.client, ""), rules(&world.client, "-6")];
        tables.chain(six).chain(rules).collect::<Vec<_>>()
    };
    let before = picture(&world);
    for journal in [world.config.journal.clone(), None] {
        world.config.journal = journal;
        world.crash();
        world.start();
        world.refresh(&wire, &wire);
        assert_eq!(picture(&world), before);
        world.up(&wire);
        assert_eq!(picture(&world), before);
    }
    world.down(&wire);
    world.wait_clean();
}

fn case_28_a_late_close_of_a_former_wire_leaves_the_rules_of_this_one() {
    let mut world = World::new();
    let mut former = world.wire("c28", "nsm-1");
    former.client.policies = vec![from("10.1.0.0/16")];
    world.up(&former);
    let other = Pod::new();
    let mut wire = former.clone();
    wire.endpoint.netns = other.path();
    world.up(&wire);
    let shown = rules(&world.client, "");
    assert_eq!(shown.len(), 1);
    world.down(&former);
    world.end();
    assert_eq!(rules(&world.client, ""), shown);
    assert!(world.client.ping("172.16.1.100"));
}

fn case_29_foreign_rules_and_tables_are_untouched() {
    let world = World::new();
    world.client.run("ip link set lo up");
    world.client.run("ip route add 198.51.100.0/24 dev lo table 1");
    world.client.run("ip rule add from 10.1.0.0/16 lookup 2");
    for number in 3..=252 {
        world
            .client
            .run(&format!("ip route add 198.51.100.0/24 dev lo table {number}"));
    }
    let picture = || {
        (
            world.client.routes("rule"),
            table(&world.client, "", 1),
            table(&world.client, "", 252),
        )
    };
    let before = picture();
    let mut wire = world.wire("c29", "nsm-1");
    wire.client.policies = vec![from("10.1.0.0/16"), from("10.2.0.0/16")];
    world.up(&wire);
    // With 252 in use the next number that is nobody's is 256: 253 to 255 are the kernel's.
    assert_eq!(table(&world.client, "", 256), ["default dev nsm-1"]);
    assert_eq!(table(&world.client, "", 257), ["default dev nsm-1"]);
    assert!(
        !table(&world.client, "", 255)
            .iter()
            .any(|line| line.contains("default"))
    );
    world.down(&wire);
    world.wait("the interface gone", || world.client.link("nsm-1").is_none());
    assert_eq!(picture(), before);
}

fn case_30_port_ranges_and_unknown_protocols() {
    let world = World::new();
    let mut wire = world.wire("c30", "nsm-1");
    wire.client.policies = vec![
        Policy {
            protocol: Some(6),
            destination_ports: Some((6667, 6670)),
            ..from("10.1.0.0/16")
        },
        Policy {
            protocol: Some(253),
            ..from("10.2.0.0/16")
        },
    ];
    world.up(&wire);
    assert_eq!(
        rules(&world.client, ""),
        [
            "32764:\tfrom 10.2.0.0/16 ipproto ipproto-253 lookup 2",
            "32765:\tfrom 10.1.0.0/16 ipproto tcp dport 6667-6670 lookup 1",
        ]
    );
}

fn a_policy_without_source_has_a_rule_in_each_family() {
    let world = World::new();
    let mut wire = world.dual("families", "nsm-1");
    wire.client.policies = vec![
        Policy {
            protocol: Some(17),
            ..Policy::default()
        },
        Policy {
            protocol: Some(6),
            routes: vec![route("2001:db8:9::/48")],
            ..Policy::default()
        },
    ];
    world.up(&wire);
    assert_eq!(
        rules(&world.client, ""),
        ["32765:\tfrom all ipproto udp lookup 1"]
    );
    assert_eq!(
        rules(&world.client, "-6"),
        [
            "32764:\tfrom all ipproto tcp lookup 2",
            "32765:\tfrom all ipproto udp lookup 1"
        ]
    );
    assert_eq!(table(&world.client, "", 1), ["default dev nsm-1"]);
    assert_eq!(
        table(&world.client, "-6", 1),
        ["default dev nsm-1 metric 1024 pref medium"]
    );
}

fn a_close_removes_rules_and_tables() {
    let world = World::new();
    let wire = upstream(&world);
    world.up(&wire);
    world.down(&wire);
    world.wait_clean();
    // The numbers are free again.
    world.up(&wire);
    assert_eq!(table(&world.client, "", 1).len(), 1);
}
