// SPDX-License-Identifier: Apache-2.0
//! Wires that pass through a node, between a tunnel to one other node and a tunnel to another.

use std::process::Command;

use futures::FutureExt;
use nsm_sdk::core::Error;
use nsm_sdk::dataplane::Interface;
use nsm_sdk::dataplane::tunnel::{RemoteWire, Transit, Tunnels};
use nsm_sdk::dataplane::wireguard::{Towards, TunnelId};
use tokio::time::Instant;

use crate::tests;
use crate::vxlan::{Node, nodes, with};
use crate::world::{PATIENCE, ip};

tests![
    packets_pass_through_a_node_between_two_tunnels,
    a_refresh_of_what_is_joined_waits_for_nobody,
    what_is_joined_carries_packets_without_us_and_is_adopted,
    a_tunnel_that_comes_back_is_joined_again,
    tunnels_that_are_not_there_are_not_joined,
];

const CLIENT: &str = "nsm-client";
const ENDPOINT: &str = "nsm-endpoint";

/// Three nodes in a row: the one in the middle has a cable to each of the others.
struct Row {
    first: Node,
    middle: Node,
    last: Node,
}

impl Row {
    fn new() -> Self {
        let [first, middle] = nodes();
        let last = Node::new(3);
        let [one, two] = [&middle, &last].map(|node| node.home.pid());
        let line = format!("link add beyond netns {one} type veth peer name beyond netns {two}");
        let done = Command::new("ip").args(line.split_whitespace()).status();
        assert!(done.expect("ip starts").success(), "ip {line}");
        for (node, number) in [(&middle, 2), (&last, 3)] {
            node.home
                .run(&format!("ip addr add 10.78.0.{number}/24 dev beyond"));
            node.home.run("ip link set beyond up");
        }
        Self { first, middle, last }
    }

    /// The ends of the connection in the pods of the outer nodes.
    fn ends(&self, id: &str) -> [RemoteWire; 2] {
        let here = self.first.wire(id);
        let mut there = with(&here, |vxlan| {
            vxlan.local = ip("10.78.0.3");
            vxlan.remote = ip("10.78.0.2");
            vxlan.vni = 78;
        });
        there.id.towards = Towards::Client;
        there.interface.netns = self.last.pod.path();
        there.interface.addresses = vec!["10.0.0.2/24", "2001:db8::2/64"]
            .into_iter()
            .map(|net| net.parse().expect("a prefix"))
            .collect();
        there.interface.peers = vec![ip("10.0.0.1")];
        [here, there]
    }

    /// What is between them.
    fn transit(&self, id: &str) -> Transit {
        let half = |towards, name: &str, outer: &RemoteWire| {
            let half = with(outer, |vxlan| {
                std::mem::swap(&mut vxlan.local, &mut vxlan.remote);
            });
            RemoteWire {
                id: TunnelId {
                    connection: id.into(),
                    towards,
                },
                interface: Interface {
                    netns: self.middle.home.path(),
                    name: name.into(),
                    passes: true,
                    ..Interface::default()
                },
                ..half
            }
        };
        let [here, there] = self.ends(id);
        Transit {
            client: half(Towards::Client, CLIENT, &here),
            endpoint: half(Towards::Endpoint, ENDPOINT, &there),
        }
    }

    fn join(&self, transit: &Transit) -> Result<(), Error> {
        let joined = Tunnels::join(self.middle.kernel(), transit, Instant::now() + PATIENCE);
        self.middle.runtime.block_on(joined)
    }

    fn pass(&self, transit: &Transit) {
        for half in transit.halves() {
            self.middle.up(half);
        }
        self.join(transit).expect("joins");
    }

    fn up(&self, id: &str) -> Transit {
        let [here, there] = self.ends(id);
        let transit = self.transit(id);
        self.last.up(&there);
        self.pass(&transit);
        self.first.up(&here);
        transit
    }

    /// Both pods reach each other, with packets of every size that fits.
    fn reach(&self) {
        for (node, to) in [
            (&self.first, "10.0.0.2"),
            (&self.last, "10.0.0.1"),
            (&self.first, "2001:db8::2"),
            (&self.last, "2001:db8::1"),
        ] {
            assert!(node.pod.ping(to), "to {to}");
        }
        let whole = "ping -n -q -c 1 -W 1 -M do -s 1418 10.0.0.2";
        assert!(self.first.pod.try_run(whole).0);
    }

    fn indexes(&self) -> [u64; 2] {
        [CLIENT, ENDPOINT].map(|name| {
            let link = self.middle.home.link(name).expect("there");
            link["ifindex"].as_u64().expect("a number")
        })
    }

    fn wait_clean(&self) {
        let gone = |name| self.middle.home.link(name).is_none();
        self.middle
            .wait("the node clean", || gone(CLIENT) && gone(ENDPOINT));
    }
}

fn packets_pass_through_a_node_between_two_tunnels() {
    let row = Row::new();
    let ping = || row.middle.home.run("cat /proc/sys/net/ipv4/ping_group_range");
    let before = ping();
    let transit = row.up("through");
    row.reach();
    for name in [CLIENT, ENDPOINT] {
        let shown = row.middle.home.ip(&format!("addr show dev {name}"));
        let addresses = shown[0]["addr_info"].as_array().map(Vec::len);
        assert_eq!(
            addresses,
            Some(0),
            "nobody of the node is to be reached by it: {shown}"
        );
    }
    assert_eq!(ping(), before, "settings of the node stay");
    let counted = transit.halves().map(|half| {
        let counted = Tunnels::counters(row.middle.kernel(), half);
        row.middle.runtime.block_on(counted).expect("counted")
    });
    assert!(
        counted.iter().all(|end| end.rx_packets > 0 && end.tx_packets > 0),
        "{counted:?}"
    );
    for half in transit.halves() {
        row.middle.down(half);
        row.middle.down(half);
    }
    row.wait_clean();
    assert!(!row.first.pod.ping("10.0.0.2"));
}

fn a_refresh_of_what_is_joined_waits_for_nobody() {
    let row = Row::new();
    let transit = row.up("refreshed");
    let _entered = row.middle.runtime.enter();
    let late = Instant::now() + PATIENCE;
    for half in transit.halves() {
        let at_once = Tunnels::connect(row.middle.kernel(), half, Some(half), late).now_or_never();
        at_once.expect("waits for nothing").expect("refreshes");
    }
    let at_once = Tunnels::join(row.middle.kernel(), &transit, late).now_or_never();
    at_once.expect("waits for nothing").expect("is joined");
}

fn what_is_joined_carries_packets_without_us_and_is_adopted() {
    let mut row = Row::new();
    let transit = row.up("adopted");
    let indexes = row.indexes();
    drop(row.middle.kernel.take());
    row.reach();
    row.middle.restart();
    let numbers = row.middle.runtime.block_on(row.middle.kernel().numbers());
    assert!(
        numbers.expect("listed").is_empty(),
        "its numbers are not another's"
    );
    row.pass(&transit);
    assert_eq!(row.indexes(), indexes);
    row.reach();
    for half in transit.halves() {
        row.middle.down(half);
    }
    row.wait_clean();
}

fn a_tunnel_that_comes_back_is_joined_again() {
    let row = Row::new();
    let transit = row.up("back");
    row.middle.home.run(&format!("ip link del {ENDPOINT}"));
    assert!(!row.first.pod.ping("10.0.0.2"));
    row.pass(&transit);
    row.reach();
}

fn tunnels_that_are_not_there_are_not_joined() {
    let row = Row::new();
    let transit = row.transit("nowhere");
    row.middle.up(&transit.client);
    let error = row.join(&transit).expect_err("half of it is not there");
    assert_eq!(error.reason(), "interface-gone", "{error}");
    row.middle.down(&transit.client);
    row.wait_clean();
}
