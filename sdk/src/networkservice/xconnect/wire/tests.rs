// SPDX-License-Identifier: Apache-2.0

use nsm_api::connection::{Path, PathSegment};
use nsm_api::connectioncontext::{ConnectionContext, IpNeighbor};
use nsm_api::mechanism::{KERNEL, LOCAL};

use super::*;
use crate::dataplane::tunnel::{NODE, Transit};

/// The wire between two interfaces of this node.
fn wire(connection: &Connection, downstream: &Mechanism) -> Result<Wire> {
    match part(connection, downstream)? {
        Part::Whole(wire) => Ok(wire),
        other => panic!("no whole wire: {other:?}"),
    }
}

pub(in super::super) fn kernel(netns: &str, name: &str) -> Mechanism {
    let mut mechanism = Kernel::at(&format!("file://{netns}"));
    mechanism.set_parameter("name", name);
    mechanism
}

/// A connection between 172.16.1.101 and 172.16.1.100, as the usual address management makes it.
fn connection() -> Connection {
    let route = |prefix: &str| RouteText {
        prefix: prefix.into(),
        ..Default::default()
    };
    let ip = IpContext {
        src_ip_addrs: vec!["172.16.1.101/32".into()],
        dst_ip_addrs: vec!["172.16.1.100/32".into()],
        src_routes: vec![route("172.16.1.100/32")],
        dst_routes: vec![route("172.16.1.101/32")],
        ..Default::default()
    };
    let segment = |name: &str| PathSegment {
        name: name.into(),
        id: format!("{name}-0"),
        ..Default::default()
    };
    Connection {
        id: "forwarder-0".into(),
        mechanism: Some(kernel("/ns/client", "nsm-1")),
        context: Some(ConnectionContext {
            ip_context: Some(ip),
            ..Default::default()
        }),
        path: Some(Path {
            index: 1,
            path_segments: vec![segment("nsc"), segment("forwarder")],
        }),
        ..Default::default()
    }
}

/// The wire of [`connection`] with changes.
fn with(change: impl FnOnce(&mut Connection)) -> Result<Wire> {
    let mut connection = connection();
    change(&mut connection);
    wire(&connection, &kernel("/ns/endpoint", "nse-2"))
}

fn with_ip(change: impl FnOnce(&mut IpContext)) -> Result<Wire> {
    with(|connection| change(connection.ip_context_mut()))
}

fn route(prefix: &str, next_hop: &str) -> RouteText {
    RouteText {
        prefix: prefix.into(),
        next_hop: next_hop.into(),
    }
}

/// A route as `ip route` shows it.
fn shown(routes: &[Route]) -> Vec<String> {
    let show = |route: &Route| {
        let via = route
            .via
            .map(|via| format!(" via {via} onlink"))
            .unwrap_or_default();
        format!(
            "{}{via}{}",
            route.prefix,
            if route.link { " scope link" } else { "" }
        )
    };
    routes.iter().map(show).collect()
}

#[test]
fn the_usual_pair_is_two_addresses_and_two_device_routes() {
    let wire = with(|_| {}).unwrap();
    assert_eq!(
        (wire.connection.as_str(), wire.payload),
        ("nsc-0", Payload::Ethernet)
    );
    assert_eq!(
        (wire.client.netns.to_str(), &*wire.client.name),
        (Some("/ns/client"), "nsm-1")
    );
    assert_eq!(
        (wire.endpoint.netns.to_str(), &*wire.endpoint.name),
        (Some("/ns/endpoint"), "nse-2")
    );
    assert_eq!(wire.client.addresses, ["172.16.1.101/32".parse().unwrap()]);
    assert_eq!(wire.endpoint.addresses, ["172.16.1.100/32".parse().unwrap()]);
    assert_eq!(
        shown(&wire.client.routes),
        ["172.16.1.100/32"],
        "the context's route replaces the link's"
    );
    assert_eq!(shown(&wire.endpoint.routes), ["172.16.1.101/32"]);
    assert_eq!(wire.client.peers, ["172.16.1.100".parse::<IpAddr>().unwrap()]);
    assert_eq!(wire.endpoint.peers, ["172.16.1.101".parse::<IpAddr>().unwrap()]);
}

#[test]
fn an_unset_mtu_is_9000() {
    assert_eq!(with(|_| {}).unwrap().mtu, 9000);
    let set = |mtu| with(|connection| connection.context.get_or_insert_default().mtu = mtu);
    assert_eq!(set(1300).unwrap().mtu, 1300);
    for bad in [67, 65_536, u32::MAX] {
        assert_eq!(set(bad).unwrap_err().reason(), "bad-mtu");
    }
}

#[test]
fn a_name_that_linux_does_not_take_is_refused() {
    let named = |name: &str| with(|connection| connection.mechanism = Some(kernel("/ns/client", name)));
    assert!(named("nsm-45678901234").is_ok());
    for bad in ["", "nsm-456789012345", "a/b"] {
        assert_eq!(named(bad).unwrap_err().reason(), "bad-interface-name");
    }
}

#[test]
fn routes_of_the_context_go_by_the_peer_unless_it_covers_them() {
    let wire = with_ip(|ip| {
        ip.dst_routes = vec![route("10.0.0.0/8", "")];
        ip.src_routes = vec![
            route("0.0.0.0/0", ""),
            route("192.168.0.1/16", "10.9.9.9"),
            route("172.16.1.100/32", ""),
            route("::/0", ""),
        ];
        ip.dst_ip_addrs.push("fd00::1/128".into());
    });
    let wire = wire.unwrap();
    assert_eq!(
        shown(&wire.endpoint.routes),
        ["172.16.1.101/32 scope link", "10.0.0.0/8 via 172.16.1.101 onlink"]
    );
    assert_eq!(
        shown(&wire.client.routes),
        [
            "fd00::1/128 scope link",
            "0.0.0.0/0 via 172.16.1.100 onlink",
            "192.168.0.0/16 via 10.9.9.9 onlink",
            "172.16.1.100/32",
            "::/0 via fd00::1 onlink",
        ]
    );
}

#[test]
fn a_prefix_that_covers_the_peer_needs_no_route_to_it() {
    let wire = with_ip(|ip| {
        ip.src_ip_addrs = vec!["172.16.1.101/24".into(), "not an address".into()];
        ip.src_routes.clear();
    });
    let client = wire.unwrap().client;
    assert_eq!(client.addresses, ["172.16.1.101/24".parse().unwrap()]);
    assert!(client.routes.is_empty());
}

#[test]
fn of_two_routes_with_one_prefix_the_later_counts() {
    let wire = with_ip(|ip| {
        ip.src_routes = vec![
            route("10.0.0.0/8", "1.1.1.1"),
            route("11.0.0.0/8", ""),
            route("10.0.0.1/8", "2.2.2.2"),
        ];
    });
    let routes = shown(&wire.unwrap().client.routes);
    assert_eq!(
        routes[1..],
        [
            "11.0.0.0/8 via 172.16.1.100 onlink",
            "10.0.0.0/8 via 2.2.2.2 onlink"
        ]
    );
}

#[test]
fn a_route_that_cannot_be_is_refused() {
    for (prefix, next_hop) in [
        ("10.0.0.0", ""),
        ("", ""),
        ("10.0.0.0/8", "fd00::1"),
        ("::/0", "10.0.0.1"),
    ] {
        let error = with_ip(|ip| ip.src_routes = vec![route(prefix, next_hop)]).unwrap_err();
        assert_eq!(error.reason(), "bad-route", "{prefix} {next_hop}");
    }
}

#[test]
fn neighbours_are_on_both_sides_and_need_a_mac() {
    let neighbour = |mac: &str| IpNeighbor {
        ip: "10.0.0.7".into(),
        hardware_address: mac.into(),
    };
    let wire = with_ip(|ip| ip.ip_neighbors = vec![neighbour("02:00:00:00:00:07")]).unwrap();
    let expected = [Neighbour {
        ip: "10.0.0.7".parse().unwrap(),
        mac: [2, 0, 0, 0, 0, 7],
    }];
    assert_eq!(
        (&wire.client.neighbours[..], &wire.endpoint.neighbours[..]),
        (&expected[..], &expected[..])
    );
    for bad in ["", "nonsense", "01:00:00:00:00:07", "00:00:00:00:00:00"] {
        assert_eq!(
            with_ip(|ip| ip.ip_neighbors = vec![neighbour(bad)])
                .unwrap_err()
                .reason(),
            "bad-mac"
        );
    }
}

#[test]
fn macs_of_the_ethernet_context_are_each_sides() {
    let set = |src: &str, dst: &str| {
        with(|connection| {
            let ethernet = EthernetContext {
                src_mac: src.into(),
                dst_mac: dst.into(),
                ..Default::default()
            };
            connection.context.get_or_insert_default().ethernet_context = Some(ethernet);
        })
    };
    let wire = set("02:00:00:00:00:01", "02:00:00:00:00:02").unwrap();
    assert_eq!(
        (wire.client.mac, wire.endpoint.mac),
        (Some([2, 0, 0, 0, 0, 1]), Some([2, 0, 0, 0, 0, 2]))
    );
    assert_eq!(set("", "").unwrap().client.mac, None);
    assert_eq!(set("", "ff:ff:ff:ff:ff:ff").unwrap_err().reason(), "bad-mac");
}

#[test]
fn loopback_routing_is_the_endpoints_only() {
    let mut downstream = kernel("/ns/endpoint", "nse-2");
    downstream.set_parameter("routeLocalNet", "true");
    let wire = wire(&connection(), &downstream).unwrap();
    assert!(wire.endpoint.route_localnet && !wire.client.route_localnet);
}

#[test]
fn policies_are_the_clients_only_with_selectors_and_routes_as_given() {
    let policy =
        |from: &str, proto: &str, dst_port: &str, src_port: &str, routes: Vec<RouteText>| PolicyRoute {
            from: from.into(),
            proto: proto.into(),
            dst_port: dst_port.into(),
            src_port: src_port.into(),
            routes,
        };
    let set = |policies: Vec<PolicyRoute>| with_ip(|ip| ip.policies = policies);
    let wire = set(vec![
        policy(
            "172.16.2.201/24",
            "6",
            "6666",
            "",
            vec![route("172.16.3.0/24", "172.16.2.200")],
        ),
        policy("172.16.2.201/24", "6", "", "5555", vec![]),
        policy("", "17", "6667-6670", "", vec![]),
        policy("", "253", "", "", vec![]),
    ]);
    let wire = wire.unwrap();
    assert!(wire.endpoint.policies.is_empty());
    let [first, second, third, fourth] = &wire.client.policies[..] else {
        panic!("four policies")
    };
    assert_eq!(
        first.from,
        Some("172.16.2.201/24".parse().unwrap()),
        "its host part is kept"
    );
    assert_eq!(
        (first.protocol, first.destination_ports),
        (Some(6), Some((6666, 6666)))
    );
    assert_eq!(shown(&first.routes), ["172.16.3.0/24 via 172.16.2.200 onlink"]);
    assert_eq!(
        (second.source_ports, second.routes.len()),
        (Some((5555, 5555)), 0)
    );
    assert_eq!((third.from, third.destination_ports), (None, Some((6667, 6670))));
    assert_eq!(fourth.protocol, Some(253));
    for bad in [
        policy("10.0.0.1", "", "", "", vec![]),
        policy("", "tcp", "", "", vec![]),
        policy("", "6", "x", "", vec![]),
    ] {
        assert_eq!(set(vec![bad]).unwrap_err().reason(), "bad-policy");
    }
}

#[test]
fn what_cannot_be_joined_is_an_unsupported_mechanism() {
    let other = Mechanism::new("REMOTE", "MEMIF");
    let mut trunk = kernel("/ns/endpoint", "nse-2");
    trunk.set_parameter("vlan", "7");
    let refused = [
        wire(&connection(), &other),
        wire(&connection(), &trunk),
        with(|connection| connection.mechanism = Some(other.clone())),
        with(|connection| connection.mechanism = None),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(error.text().contains("unsupported mechanism"), "{error}");
    }
}

#[test]
fn what_a_peer_sends_is_bounded_and_checked() {
    let many = |count: usize| {
        (0..count)
            .map(|at| format!("10.{}.{}.1/32", at / 256, at % 256))
            .collect::<Vec<_>>()
    };
    assert!(with_ip(|ip| ip.src_ip_addrs = many(MAX_ENTRIES)).is_ok());
    let error = with_ip(|ip| ip.src_ip_addrs = many(MAX_ENTRIES + 1)).unwrap_err();
    assert_eq!(error.reason(), "too-many-entries");
    let mut unpassed = Mechanism::new(LOCAL, KERNEL);
    unpassed.set_parameter("inodeURL", "inode://4/5");
    unpassed.set_parameter("name", "nsm-1");
    assert_eq!(wire(&connection(), &unpassed).unwrap_err().reason(), "bad-netns");
    assert_eq!(
        with(|connection| connection.payload = "WARP".into())
            .unwrap_err()
            .reason(),
        "bad-payload"
    );
    assert_eq!(
        with(|connection| connection.path = None).unwrap_err().reason(),
        "no-path"
    );
    assert_eq!(
        with(|connection| connection.payload = "IP".into())
            .unwrap()
            .payload,
        Payload::Ip
    );
}

/// A tunnel between 10.77.0.1, where the client is, and 10.77.0.2.
fn tunnel(r#type: &str, more: &[(&str, &str)]) -> Mechanism {
    let mut mechanism = Mechanism::new("REMOTE", r#type);
    let ends = [("src_ip", "10.77.0.1"), ("dst_ip", "10.77.0.2"), ("MTU", "1400")];
    for (key, value) in ends.iter().chain(more) {
        mechanism.set_parameter(key, *value);
    }
    mechanism
}

fn half(connection: &Connection, downstream: &Mechanism) -> Result<RemoteWire> {
    match part(connection, downstream)? {
        Part::Half(half) => Ok(half),
        other => panic!("no half of a wire: {other:?}"),
    }
}

#[test]
fn a_tunnel_downstream_is_the_interface_of_the_client() {
    let vxlan = tunnel("VXLAN", &[("dst_port", "4790"), ("vni", "77")]);
    let wire = half(&connection(), &vxlan).expect("half a wire");
    assert_eq!((wire.id.towards, wire.mtu), (Towards::Endpoint, 1400));
    assert_eq!(wire.interface.name, "nsm-1");
    let expected = crate::dataplane::tunnel::Vxlan {
        local: "10.77.0.1".parse().expect("an address"),
        remote: "10.77.0.2".parse().expect("an address"),
        port: 4790,
        vni: 77,
    };
    assert_eq!(wire.tunnel, crate::dataplane::tunnel::Tunnel::Vxlan(expected));
}

#[test]
fn a_tunnel_upstream_is_the_interface_of_the_endpoint() {
    let (ours, theirs) = (
        "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    );
    let keys = [
        ("src_port", "51821"),
        ("src_public_key", theirs),
        ("dst_port", "51840"),
        ("dst_public_key", ours),
    ];
    let mut connection = connection();
    connection.mechanism = Some(tunnel("WIREGUARD", &keys));
    let wire = half(&connection, &kernel("/ns/endpoint", "nse-2")).expect("half a wire");
    assert_eq!(
        (wire.id.towards, wire.interface.name.as_str()),
        (Towards::Client, "nse-2")
    );
    let expected = crate::dataplane::tunnel::WireGuard {
        remote: "10.77.0.1:51821".parse().expect("an address"),
        public_key: [1; 32],
    };
    assert_eq!(wire.tunnel, crate::dataplane::tunnel::Tunnel::WireGuard(expected));
}

/// What a node has of a connection that comes by one tunnel and goes on by another.
fn transit(upstream: &Mechanism, downstream: &Mechanism) -> Result<Transit> {
    let mut connection = connection();
    connection.mechanism = Some(upstream.clone());
    match part(&connection, downstream)? {
        Part::Transit(transit) => Ok(*transit),
        other => panic!("it ends here: {other:?}"),
    }
}

#[test]
fn two_tunnels_of_one_kind_pass_through_the_node() {
    let upstream = tunnel("VXLAN", &[("dst_port", "4789"), ("vni", "77")]);
    let onwards = [("src_ip", "10.77.0.2"), ("dst_ip", "10.77.0.3"), ("MTU", "1350")];
    let downstream = tunnel(
        "VXLAN",
        &[&[("dst_port", "4790"), ("vni", "78")][..], &onwards].concat(),
    );
    let passing = transit(&upstream, &downstream).expect("two halves");
    assert_eq!(passing, transit(&upstream, &downstream).expect("two halves"));
    let [client, endpoint] = passing.halves();
    assert_eq!(
        (client.id.towards, endpoint.id.towards),
        (Towards::Client, Towards::Endpoint)
    );
    let way = |half: &RemoteWire| match &half.tunnel {
        crate::dataplane::tunnel::Tunnel::Vxlan(vxlan) => (vxlan.local, vxlan.remote, vxlan.port, vxlan.vni),
        other => panic!("another tunnel: {other:?}"),
    };
    let ip = |last: u8| IpAddr::from([10, 77, 0, last]);
    assert_eq!(way(client), (ip(2), ip(1), 4789, 77));
    assert_eq!(way(endpoint), (ip(2), ip(3), 4790, 78));
    for half in [client, endpoint] {
        assert_eq!(half.mtu, 1350, "what fits through both");
        let name = &half.interface.name;
        assert!(
            name.len() == 15 && nsm_api::interface_name::check(name).is_ok(),
            "{name}"
        );
        let nothing = Interface {
            netns: NODE.into(),
            name: name.clone(),
            passes: true,
            ..Interface::default()
        };
        assert_eq!(half.interface, nothing, "the connection's addresses are for pods");
    }
    assert_ne!(client.interface.name, endpoint.interface.name);
    let names = Part::Transit(Box::new(passing)).names();
    assert_eq!(names, ["VXLAN/77", "VXLAN/78"]);
}

#[test]
fn tunnels_of_two_kinds_and_garbage_make_no_wire() {
    let vxlan = tunnel("VXLAN", &[("dst_port", "4789"), ("vni", "77")]);
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let wireguard = tunnel("WIREGUARD", &[("dst_port", "51840"), ("dst_public_key", key)]);
    for (upstream, downstream) in [(&vxlan, &wireguard), (&wireguard, &vxlan)] {
        let error = transit(upstream, downstream).unwrap_err();
        assert_eq!(error.reason(), "unsupported-mechanism");
        assert!(
            error.text().contains("VXLAN") && error.text().contains("WIREGUARD"),
            "{error}"
        );
    }
    for (key, value, reason) in [
        ("vni", "16777216", "bad-vni"),
        ("dst_port", "70000", "bad-port"),
        ("dst_ip", "2001:db8::1", "bad-tunnel-ip"),
        ("src_ip", "", "bad-tunnel-ip"),
    ] {
        let mut garbage = vxlan.clone();
        garbage.set_parameter(key, value);
        assert_eq!(
            part(&connection(), &garbage).unwrap_err().reason(),
            reason,
            "{key}={value}"
        );
    }
}

#[test]
fn a_tunnel_that_is_too_narrow_for_ipv6_is_refused() {
    let narrow = tunnel("VXLAN", &[("dst_port", "4789"), ("vni", "77"), ("MTU", "1279")]);
    assert_eq!(
        half(&connection(), &narrow).expect("wide enough for IPv4").mtu,
        1279
    );
    let mut dual = connection();
    dual.ip_context_mut().src_ip_addrs.push("2001:db8::1/128".into());
    let error = part(&dual, &narrow).unwrap_err();
    assert!(
        error.reason() == "bad-mtu" && error.text().contains("1280"),
        "{error}"
    );
}
