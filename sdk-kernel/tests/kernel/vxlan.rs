// SPDX-License-Identifier: Apache-2.0
//! Wires between two nodes by VXLAN.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use futures::FutureExt;
use nsm_sdk::core::{Component, Error};
use nsm_sdk::dataplane::tunnel::{RemoteWire, Tunnel, Tunnels, Vxlan, WireGuard};
use nsm_sdk::dataplane::underlay::Underlay;
use nsm_sdk::dataplane::wireguard::{Towards, TunnelId};
use nsm_sdk::dataplane::{DataPlane, Interface, Payload, Route, Wire};
use nsm_sdk_kernel::{Config, Kernel};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::tests;
use crate::world::{PATIENCE, Pod, ip, net};

tests![
    pods_of_two_nodes_reach_each_other_over_ipv4,
    pods_of_two_nodes_reach_each_other_over_ipv6,
    a_refresh_of_a_tunnel_without_change_waits_for_nobody,
    what_changes_on_a_tunnel_changes_in_place,
    another_way_to_the_other_node_makes_the_device_anew,
    a_tunnel_is_adopted_as_it_is,
    a_tunnel_that_nobody_asks_for_again_is_removed,
    a_tunnel_that_the_pod_has_deleted_comes_back,
    a_number_that_another_connection_has_is_refused,
    a_number_that_a_stranger_has_is_refused,
    a_port_that_is_used_in_another_way_is_refused,
    a_connection_takes_its_number_along_to_another_pod,
    a_number_that_an_earlier_life_left_in_another_pod_is_taken_along,
    a_former_tunnel_is_closed_without_harm_to_the_present,
    the_numbers_of_a_pod_that_is_gone_are_free,
    tunnels_that_go_at_once_all_go,
    a_tunnel_that_cannot_be_is_refused,
    a_name_that_a_stranger_has_is_refused,
    case_36_37_a_wire_set_aside_carries_packets_until_the_next_one_does,
    a_wire_that_was_set_aside_is_put_back,
    case_52_numbers_of_strangers_are_listed,
    case_60_changes_of_the_underlay_are_told,
    a_thousand_addresses_need_many_messages,
];

/// What fits into a tunnel over IPv4, and over IPv6.
const MTU: u32 = 1446;
const MTU_6: u32 = 1426;

/// A node: a namespace with a data plane, and a pod.
pub(crate) struct Node {
    number: u8,
    pub(crate) home: Pod,
    pub(crate) pod: Pod,
    pub(crate) runtime: Runtime,
    config: Config,
    pub(crate) kernel: Option<Kernel>,
    _directory: TempDir,
}

impl Node {
    pub(crate) fn new(number: u8) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let config = Config {
            journal: Some(directory.path().join("journal")),
            group: rand::random_range(1..1 << 30),
            ..Config::default()
        };
        let mut node = Self {
            number,
            home: Pod::new(),
            pod: Pod::new(),
            runtime,
            config,
            kernel: None,
            _directory: directory,
        };
        node.start();
        node
    }

    /// Starts a data plane in the node's namespace, as soon as its former life has let go of the journal.
    fn start(&mut self) {
        let home = File::open(self.home.path()).expect("a namespace");
        let (runtime, config) = (&self.runtime, &self.config);
        let start = || {
            move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)).expect("enters");
            let deadline = Instant::now() + PATIENCE;
            loop {
                match runtime.block_on(Kernel::start(&Component::new("test"), config.clone())) {
                    Ok(kernel) => return kernel,
                    Err(error) => assert!(
                        error.reason() == "journal" && Instant::now() < deadline,
                        "{error}"
                    ),
                }
                std::thread::yield_now();
            }
        };
        // The thread is in a foreign namespace and ends there.
        let kernel = std::thread::scope(|scope| scope.spawn(start).join());
        self.kernel = Some(kernel.expect("starts"));
    }

    pub(crate) fn restart(&mut self) {
        drop(self.kernel.take());
        self.start();
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().expect("it runs")
    }

    fn connect(&self, wire: &RemoteWire, before: Option<&RemoteWire>) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        let done = Tunnels::connect(self.kernel(), wire, before, deadline);
        self.runtime.block_on(done)
    }

    pub(crate) fn up(&self, wire: &RemoteWire) {
        self.connect(wire, None).expect("connects");
    }

    pub(crate) fn down(&self, wire: &RemoteWire) {
        let done = Tunnels::disconnect(self.kernel(), wire);
        self.runtime.block_on(done).expect("disconnects");
    }

    fn refused(&self, wire: &RemoteWire, reason: &str) -> Error {
        let error = self.connect(wire, None).expect_err(reason);
        assert_eq!(error.reason(), reason, "{error}");
        error
    }

    fn index(&self) -> u64 {
        self.pod.link("nsm-1").expect("there")["ifindex"]
            .as_u64()
            .expect("a number")
    }

    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "in vain: {what}");
            let pause = async { tokio::time::sleep(Duration::from_millis(5)).await };
            self.runtime.block_on(pause);
        }
    }

    pub(crate) fn wait_clean(&self) {
        self.wait("the pod clean", || self.pod.is_clean());
    }

    /// This node's part of connection `id`, to the other of two nodes.
    pub(crate) fn wire(&self, id: &str) -> RemoteWire {
        let there = 3 - self.number;
        let (own, other) = (self.number, there);
        let towards = match self.number {
            1 => Towards::Endpoint,
            _ => Towards::Client,
        };
        RemoteWire {
            id: TunnelId {
                connection: id.into(),
                towards,
            },
            payload: Payload::Ethernet,
            mtu: MTU,
            interface: Interface {
                netns: self.pod.path(),
                name: "nsm-1".into(),
                addresses: vec![
                    net(&format!("10.0.0.{own}/24")),
                    net(&format!("2001:db8::{own}/64")),
                ],
                peers: vec![ip(&format!("10.0.0.{other}"))],
                ..Interface::default()
            },
            tunnel: Tunnel::Vxlan(Vxlan {
                local: ip(&format!("10.77.0.{own}")),
                remote: ip(&format!("10.77.0.{there}")),
                port: 4789,
                vni: 77,
            }),
        }
    }
}

/// The same wire with another tunnel.
pub(crate) fn with(wire: &RemoteWire, change: impl FnOnce(&mut Vxlan)) -> RemoteWire {
    let mut wire = wire.clone();
    if let Tunnel::Vxlan(vxlan) = &mut wire.tunnel {
        change(vxlan);
    }
    wire
}

/// Two nodes with a cable between them.
pub(crate) fn nodes() -> [Node; 2] {
    let nodes = [Node::new(1), Node::new(2)];
    let [one, two] = [&nodes[0], &nodes[1]].map(|node| node.home.pid());
    let line = format!("link add underlay netns {one} type veth peer name underlay netns {two}");
    let done = Command::new("ip").args(line.split_whitespace()).status();
    assert!(done.expect("ip starts").success(), "ip {line}");
    for node in &nodes {
        let number = node.number;
        node.home
            .run(&format!("ip addr add 10.77.0.{number}/24 dev underlay"));
        node.home.run(&format!(
            "ip addr add 2001:db8:77::{number}/64 dev underlay nodad"
        ));
        node.home.run("ip link set underlay up");
    }
    nodes
}

/// Every packet of up to `mtu` bytes passes, both ways.
fn reach(nodes: &[Node; 2], mtu: u32) {
    let [one, two] = nodes;
    for (node, to) in [
        (one, "10.0.0.2"),
        (two, "10.0.0.1"),
        (one, "2001:db8::2"),
        (two, "2001:db8::1"),
    ] {
        assert!(node.pod.ping(to), "from node {} to {to}", node.number);
    }
    let fits = |bytes: u32| {
        one.pod
            .try_run(&format!("ping -n -q -c 1 -W 1 -M do -s {bytes} 10.0.0.2"))
            .0
    };
    assert!(fits(mtu - 28) && !fits(mtu - 27));
}

fn pods_of_two_nodes_reach_each_other_over_ipv4() {
    let nodes = nodes();
    for node in &nodes {
        node.up(&node.wire("over-4"));
    }
    reach(&nodes, MTU);
    let link = nodes[0].pod.link("nsm-1").expect("there");
    let data = &link["linkinfo"]["info_data"];
    assert_eq!(link["linkinfo"]["info_kind"], "vxlan");
    assert_eq!(
        (data["id"].as_u64(), data["port"].as_u64()),
        (Some(77), Some(4789))
    );
    assert_eq!(
        (&data["local"], &data["remote"]),
        (&"10.77.0.1".into(), &"10.77.0.2".into())
    );
    assert_eq!(data["learning"].as_bool(), Some(false), "{data}");
    assert_eq!(
        (&link["mtu"], &link["ifalias"]),
        (&MTU.into(), &"server-over-4".into())
    );
    let far = nodes[1].pod.link("nsm-1").expect("there");
    assert_eq!(far["ifalias"], "client-over-4");
    let wire = nodes[0].wire("over-4");
    let counted = Tunnels::counters(nodes[0].kernel(), &wire);
    let counted = nodes[0].runtime.block_on(counted).expect("counted");
    assert!(counted.rx_packets > 0 && counted.tx_bytes > 0, "{counted:?}");
    // One end goes, then the other: each node does its part.
    for node in &nodes {
        node.down(&node.wire("over-4"));
        node.wait_clean();
        node.down(&node.wire("over-4"));
    }
}

fn pods_of_two_nodes_reach_each_other_over_ipv6() {
    let nodes = nodes();
    for node in &nodes {
        let wire = with(&node.wire("over-6"), |vxlan| {
            vxlan.local = ip(&format!("2001:db8:77::{}", node.number));
            vxlan.remote = ip(&format!("2001:db8:77::{}", 3 - node.number));
        });
        node.up(&RemoteWire { mtu: MTU_6, ..wire });
    }
    reach(&nodes, MTU_6);
    let link = nodes[0].pod.link("nsm-1").expect("there");
    let data = &link["linkinfo"]["info_data"];
    assert_eq!(
        (&data["local6"], &data["remote6"]),
        (&"2001:db8:77::1".into(), &"2001:db8:77::2".into())
    );
}

fn a_refresh_of_a_tunnel_without_change_waits_for_nobody() {
    let [node, _other] = nodes();
    let wire = node.wire("refresh");
    node.up(&wire);
    let _entered = node.runtime.enter();
    let late = Instant::now() + PATIENCE;
    let at_once = Tunnels::connect(node.kernel(), &wire, Some(&wire), late).now_or_never();
    at_once.expect("waits for nothing").expect("refreshes");
}

fn what_changes_on_a_tunnel_changes_in_place() {
    let nodes = nodes();
    for node in &nodes {
        node.up(&node.wire("change"));
    }
    let [node, _] = &nodes;
    let (before, index) = (node.wire("change"), node.index());
    let mut wire = before.clone();
    wire.mtu = 1400;
    wire.interface.addresses = vec![net("10.0.0.9/24"), net("2001:db8::1/64")];
    node.connect(&wire, Some(&before)).expect("changes");
    assert_eq!(node.index(), index);
    assert_eq!(node.pod.addresses("nsm-1"), ["10.0.0.9/24", "2001:db8::1/64"]);
    assert_eq!(node.pod.link("nsm-1").expect("there")["mtu"], 1400);
    assert!(node.pod.ping("10.0.0.2"));
    wire.interface.addresses.push(net("ff02::5/128"));
    let error = node
        .connect(&wire, Some(&before))
        .expect_err("no address for an interface");
    assert_eq!(error.reason(), "kernel");
    assert!(node.pod.ping("10.0.0.2"), "a failed change leaves what was there");
}

fn another_way_to_the_other_node_makes_the_device_anew() {
    let nodes = nodes();
    let changes: [fn(&mut Vxlan); 3] = [|_| (), |vxlan| vxlan.vni = 78, |vxlan| vxlan.port = 4790];
    let mut before = [None, None];
    for change in changes {
        for (node, before) in nodes.iter().zip(&mut before) {
            let wire = with(&node.wire("anew"), change);
            node.connect(&wire, before.as_ref()).expect("connects");
            *before = Some(wire);
        }
        reach(&nodes, MTU);
    }
    for (node, before) in nodes.iter().zip(before) {
        node.down(&before.expect("connected"));
        node.wait_clean();
    }
}

fn a_tunnel_is_adopted_as_it_is() {
    let mut nodes = nodes();
    for node in &nodes {
        node.up(&node.wire("adopted"));
    }
    let journal = nodes[0].config.journal.clone();
    for journal in [journal, None] {
        nodes[0].config.journal = journal;
        let index = nodes[0].index();
        nodes[0].restart();
        assert!(nodes[0].pod.ping("10.0.0.2"), "packets stop with the forwarder");
        nodes[0].up(&nodes[0].wire("adopted"));
        assert_eq!(nodes[0].index(), index);
        reach(&nodes, MTU);
    }
    let [node, _] = &nodes;
    node.down(&node.wire("adopted"));
    node.wait_clean();
}

fn a_tunnel_that_nobody_asks_for_again_is_removed() {
    let [mut node, _other] = nodes();
    let wire = node.wire("forgotten");
    for journal in [node.config.journal.clone(), None] {
        node.config.journal = journal;
        node.up(&wire);
        node.config.grace = Duration::ZERO;
        node.restart();
        node.wait_clean();
    }
    // Its number is free again.
    node.up(&node.wire("next"));
}

fn a_tunnel_that_the_pod_has_deleted_comes_back() {
    let nodes = nodes();
    for node in &nodes {
        node.up(&node.wire("deleted"));
    }
    let [node, _] = &nodes;
    node.pod.run("ip link del nsm-1");
    let wire = node.wire("deleted");
    node.connect(&wire, Some(&wire)).expect("comes back");
    reach(&nodes, MTU);
}

fn a_number_that_another_connection_has_is_refused() {
    let [node, _other] = nodes();
    let first = node.wire("first");
    node.up(&first);
    let mut second = node.wire("second");
    second.interface.name = "nsm-2".into();
    let error = node.refused(&second, "vni-taken");
    assert!(
        error.text().contains("77") && error.text().contains("first"),
        "{error}"
    );
    assert!(node.pod.link("nsm-2").is_none());
    node.up(&with(&second, |vxlan| vxlan.vni = 78));
    let mut third = with(&node.wire("third"), |vxlan| vxlan.port = 4790);
    third.interface.name = "nsm-3".into();
    node.up(&third);
}

fn a_number_that_a_stranger_has_is_refused() {
    let [node, _other] = nodes();
    node.home
        .run("ip link add stranger type vxlan id 77 dstport 4789 local 10.77.0.1 remote 10.77.0.9");
    let error = node.refused(&node.wire("c"), "vni-taken");
    assert!(error.text().contains("not made by this forwarder"), "{error}");
    assert!(node.pod.is_clean() && node.home.link("stranger").is_some());
}

fn a_port_that_is_used_in_another_way_is_refused() {
    let [node, _other] = nodes();
    node.home
        .run("ip link add stranger type vxlan external dstport 4789");
    node.home.run("ip link set stranger up");
    let error = node.refused(&node.wire("c"), "port-taken");
    assert!(error.text().contains("another port"), "{error}");
    node.wait_clean();
    node.up(&with(&node.wire("c"), |vxlan| vxlan.port = 4790));
}

fn a_connection_takes_its_number_along_to_another_pod() {
    let [node, _other] = nodes();
    let other = Pod::new();
    let wire = node.wire("moves");
    node.up(&wire);
    let mut moved = wire.clone();
    moved.interface.netns = other.path();
    node.connect(&moved, Some(&wire)).expect("moves");
    assert!(other.link("nsm-1").is_some());
    node.wait_clean();
}

fn a_number_that_an_earlier_life_left_in_another_pod_is_taken_along() {
    let [mut node, _other] = nodes();
    let former = node.wire("moves");
    node.up(&former);
    node.restart();
    let other = Pod::new();
    let mut present = former.clone();
    present.interface.netns = other.path();
    // Who has passed a pod's namespace to the program keeps it in being for a while after the pod has gone.
    let passed = File::open(&former.interface.netns).expect("the pod is there");
    drop(std::mem::replace(&mut node.pod, Pod::new()));
    node.up(&present);
    assert!(other.link("nsm-1").is_some());
    drop(passed);
}

fn a_former_tunnel_is_closed_without_harm_to_the_present() {
    let [node, _other] = nodes();
    let former = node.wire("c");
    let present = with(&former, |vxlan| vxlan.vni = 78);
    node.up(&former);
    node.connect(&present, Some(&former)).expect("connects");
    let index = node.index();
    node.down(&former);
    assert_eq!(node.index(), index);
}

fn the_numbers_of_a_pod_that_is_gone_are_free() {
    let [mut node, _other] = nodes();
    let wire = node.wire("gone");
    node.up(&wire);
    drop(std::mem::replace(&mut node.pod, Pod::new()));
    node.wait("the number free", || {
        match node.connect(&node.wire("next"), None) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.reason(), "vni-taken");
                false
            }
        }
    });
    node.down(&wire);
    assert!(node.pod.link("nsm-1").is_some());
}

fn tunnels_that_go_at_once_all_go() {
    let [node, _other] = nodes();
    for _ in 0..2 {
        let wires: Vec<RemoteWire> = (0..20)
            .map(|number| {
                let mut wire = with(&node.wire(&format!("many-{number}")), |vxlan| {
                    vxlan.vni = 100 + number
                });
                wire.interface.name = format!("nsm-{number}");
                wire.interface.addresses = vec![net(&format!("10.1.{number}.1/24"))];
                wire
            })
            .collect();
        wires.iter().for_each(|wire| node.up(wire));
        wires.iter().for_each(|wire| node.down(wire));
    }
    node.wait_clean();
}

fn a_tunnel_that_cannot_be_is_refused() {
    let [node, _other] = nodes();
    let wire = node.wire("c");
    node.refused(&with(&wire, |vxlan| vxlan.vni = 0), "bad-vni");
    node.refused(&with(&wire, |vxlan| vxlan.vni = 1 << 24), "bad-vni");
    node.refused(&with(&wire, |vxlan| vxlan.port = 0), "bad-port");
    node.refused(
        &with(&wire, |vxlan| vxlan.remote = ip("2001:db8::9")),
        "bad-tunnel-ip",
    );
    node.refused(
        &with(&wire, |vxlan| vxlan.remote = ip("224.0.0.1")),
        "bad-tunnel-ip",
    );
    let mut packets = wire.clone();
    packets.payload = Payload::Ip;
    node.refused(&packets, "bad-payload");
    let mut encrypted = packets;
    encrypted.tunnel = Tunnel::WireGuard(WireGuard {
        remote: "10.77.0.2:51820".parse().expect("an address"),
        public_key: [7; 32],
    });
    // Its device is an engine's, which has made none.
    node.refused(&encrypted, "interface-gone");
    encrypted.payload = Payload::Ethernet;
    node.refused(&encrypted, "bad-payload");
    assert!(node.pod.is_clean());
}

fn a_name_that_a_stranger_has_is_refused() {
    let [node, _other] = nodes();
    node.pod.run("ip link add nsm-1 type veth peer name stranger");
    node.refused(&node.wire("c"), "interface-taken");
    node.pod.run("ip link del nsm-1");
    node.up(&node.wire("c"));
}

/// A pair from this node's pod to another one's, by the same names and addresses as the tunnel's.
fn pair(node: &Node, endpoint: &Pod) -> Wire {
    let mut client = node.wire("pair").interface;
    client.addresses = vec![net("10.0.0.1/32")];
    let far = Interface {
        netns: endpoint.path(),
        name: "nse-1".into(),
        addresses: vec![net("10.0.0.2/32")],
        peers: vec![ip("10.0.0.1")],
        routes: vec![route("10.0.0.1/32")],
        ..Interface::default()
    };
    client.routes = vec![route("10.0.0.2/32")];
    Wire {
        connection: "moves".into(),
        payload: Payload::Ethernet,
        mtu: 1500,
        client,
        endpoint: far,
    }
}

fn route(prefix: &str) -> Route {
    Route {
        prefix: net(prefix),
        via: None,
        link: true,
    }
}

/// The tunnel's halves, with the addresses of the pair.
fn halves(nodes: &[Node; 2], pair: &Wire) -> [RemoteWire; 2] {
    let [one, two] = nodes;
    let [mut near, mut far] = [one.wire("moves"), two.wire("moves")];
    near.interface = pair.client.clone();
    far.interface = Interface {
        netns: two.pod.path(),
        ..pair.endpoint.clone()
    };
    [near, far]
}

fn whole(node: &Node, wire: &Wire, before: Option<&Wire>) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let done = DataPlane::connect(node.kernel(), wire, before, deadline);
    node.runtime.block_on(done)
}

fn case_36_37_a_wire_set_aside_carries_packets_until_the_next_one_does() {
    let (nodes, endpoint) = (nodes(), Pod::new());
    let node = &nodes[0];
    let pair = pair(node, &endpoint);
    let [near, far] = halves(&nodes, &pair);
    whole(node, &pair, None).expect("connects");
    nodes[1].up(&far);
    for _ in 0..2 {
        let aside = DataPlane::set_aside(node.kernel(), &pair);
        node.runtime.block_on(aside).expect("set aside");
        assert!(node.pod.link("nsm-1").is_none() && node.pod.ping("10.0.0.2"));
        node.up(&near);
        let gone = DataPlane::disconnect(node.kernel(), &pair);
        node.runtime.block_on(gone).expect("disconnects");
        node.wait("the pair gone", || endpoint.is_clean());
        assert!(node.pod.ping("10.0.0.2"));
        assert_eq!(
            node.pod.link("nsm-1").expect("there")["linkinfo"]["info_kind"],
            "vxlan"
        );
        let aside = Tunnels::set_aside(node.kernel(), &near);
        node.runtime.block_on(aside).expect("set aside");
        assert!(node.pod.link("nsm-1").is_none() && node.pod.ping("10.0.0.2"));
        whole(node, &pair, None).expect("connects");
        node.down(&near);
        assert!(node.pod.ping("10.0.0.2"));
        assert_eq!(
            node.pod.link("nsm-1").expect("there")["linkinfo"]["info_kind"],
            "veth"
        );
    }
    let gone = DataPlane::disconnect(node.kernel(), &pair);
    node.runtime.block_on(gone).expect("disconnects");
    node.wait_clean();
}

fn a_wire_that_was_set_aside_is_put_back() {
    let (nodes, endpoint) = (nodes(), Pod::new());
    let node = &nodes[0];
    let pair = pair(node, &endpoint);
    whole(node, &pair, None).expect("connects");
    let index = node.index();
    let aside = DataPlane::set_aside(node.kernel(), &pair);
    node.runtime.block_on(aside).expect("set aside");
    whole(node, &pair, Some(&pair)).expect("put back");
    assert_eq!(node.index(), index);
    assert!(node.pod.ping("10.0.0.2"));
    // What was set aside is removed as what it was.
    let aside = DataPlane::set_aside(node.kernel(), &pair);
    node.runtime.block_on(aside).expect("set aside");
    let gone = DataPlane::disconnect(node.kernel(), &pair);
    node.runtime.block_on(gone).expect("disconnects");
    node.wait_clean();
    node.wait("the endpoint clean", || endpoint.is_clean());
}

fn case_52_numbers_of_strangers_are_listed() {
    let [node, _other] = nodes();
    for line in [
        "ip link add calico type vxlan id 4096 dstport 4789 local 10.77.0.1",
        "ip link add flannel type vxlan id 1 dstport 8472 local 10.77.0.1",
    ] {
        node.home.run(line);
    }
    let mut numbers = node.runtime.block_on(node.kernel().numbers()).expect("listed");
    numbers.sort_unstable();
    assert_eq!(numbers, [(4789, 4096), (8472, 1)]);
}

fn case_60_changes_of_the_underlay_are_told() {
    let [node, _other] = nodes();
    let mut changes = Underlay::changes(node.kernel());
    for line in [
        "ip link set underlay mtu 1400",
        "ip route add 10.99.0.0/24 via 10.77.0.2",
    ] {
        changes.mark_unchanged();
        node.home.run(line);
        let told = async { tokio::time::timeout(PATIENCE, changes.changed()).await };
        let told = node.runtime.block_on(told);
        told.expect("in time").expect("told");
    }
}

fn a_thousand_addresses_need_many_messages() {
    let nodes = nodes();
    let node = &nodes[0];
    let mut wire = node.wire("many");
    let address = |number: u32| net(&format!("10.{}.{}.1/32", number / 250, number % 250));
    wire.interface.addresses = (0..1000).map(address).collect();
    node.up(&wire);
    assert_eq!(node.pod.addresses("nsm-1").len(), 1000);
    node.down(&wire);
    node.wait_clean();
}
