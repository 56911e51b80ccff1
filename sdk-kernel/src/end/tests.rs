// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use nsm_sdk::dataplane::Neighbour;
use proptest::prelude::*;

use super::*;
use crate::plan::{Change, plan};

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn route(prefix: &str, via: Option<&str>, link: bool) -> Route {
    Route {
        prefix: net(prefix),
        via: via.map(|via| via.parse().expect("an address")),
        link,
    }
}

fn frame(tables: Vec<u32>) -> Frame {
    Frame {
        device: Device::Veth,
        alias: "server-a".into(),
        mtu: 9000,
        mac: [2, 0, 0, 0, 0, 1],
        peer: Some([2, 0, 0, 0, 0, 2]),
        tables,
    }
}

fn render(interface: &Interface) -> End {
    let tables = (1..).take(interface.policies.len()).collect();
    End::render(interface, frame(tables))
}

#[test]
fn a_link_route_gives_way_to_a_later_route_to_the_same_prefix() {
    let interface = Interface {
        routes: vec![
            route("172.16.1.1/32", None, true),
            route("172.16.1.2/32", None, true),
            route("172.16.1.1/32", None, false),
        ],
        ..Interface::default()
    };
    let end = render(&interface);
    assert_eq!(
        end.routes,
        [
            (MAIN, route("172.16.1.2/32", None, true)),
            (MAIN, route("172.16.1.1/32", None, false))
        ]
    );
}

#[test]
fn prefixes_are_masked_and_addresses_are_not() {
    let interface = Interface {
        addresses: vec![net("10.1.2.3/8"), net("10.1.2.3/8")],
        routes: vec![route("10.1.2.3/8", None, false)],
        ..Interface::default()
    };
    let end = render(&interface);
    assert_eq!(end.addresses, [net("10.1.2.3/8")]);
    assert_eq!(end.routes, [(MAIN, route("10.0.0.0/8", None, false))]);
}

#[test]
fn a_peer_stays_permanent_though_the_context_names_it() {
    let ip: IpAddr = "10.0.0.1".parse().expect("an address");
    let interface = Interface {
        peers: vec![ip],
        neighbours: vec![Neighbour { ip, mac: [9; 6] }],
        ..Interface::default()
    };
    assert_eq!(
        render(&interface).neighbours[&ip],
        Entry {
            mac: [2, 0, 0, 0, 0, 2],
            permanent: true
        }
    );
}

#[test]
fn a_policy_has_a_rule_in_the_families_that_it_is_about() {
    let v4 = Policy {
        from: Some(net("10.0.0.1/24")),
        ..Policy::default()
    };
    let routed = Policy {
        routes: vec![route("2001:db8::/32", None, false)],
        ..Policy::default()
    };
    let any = Policy::default();
    let interface = Interface {
        addresses: vec![net("10.0.0.1/32"), net("2001:db8::1/128")],
        policies: vec![v4, routed, any],
        ..Interface::default()
    };
    let end = render(&interface);
    let found: Vec<(u32, bool)> = end.rules.iter().map(|rule| (rule.table, rule.v6)).collect();
    assert_eq!(found, [(1, false), (2, true), (3, false), (3, true)]);
    assert!(end.routes.contains(&(1, route("0.0.0.0/0", None, false))));
    assert!(end.routes.contains(&(3, route("::/0", None, false))));
    // Without an address there is no family, and so nothing to do.
    let bare = Interface {
        policies: vec![Policy::default()],
        ..Interface::default()
    };
    assert_eq!(render(&bare).rules, []);
}

#[test]
fn new_addresses_come_before_old_ones_go() {
    let [now, wanted] = ["10.0.0.1/32", "10.0.0.2/32"].map(|address| {
        let routes = vec![route("10.9.0.0/16", None, false)];
        render(&Interface {
            addresses: vec![net(address)],
            routes,
            ..Interface::default()
        })
    });
    let kept = Change::SetRoute(MAIN, route("10.9.0.0/16", None, false));
    assert_eq!(
        plan(&now, &wanted),
        [
            Change::AddAddress(net("10.0.0.2/32")),
            Change::RemoveAddress(net("10.0.0.1/32")),
            kept
        ]
    );
}

/// What the kernel makes of changes, with what it does on its own.
fn apply(mut end: End, changes: &[Change]) -> End {
    for change in changes {
        match change {
            Change::Raise => end.link.up = true,
            Change::Link { mtu, mac, alias } => {
                end.link.mtu = mtu.unwrap_or(end.link.mtu);
                end.link.alias = alias.clone().unwrap_or(end.link.alias);
                if let Some(mac) = mac {
                    end.link.mac = *mac;
                    end.neighbours.clear();
                }
            }
            Change::AddAddress(address) => {
                if !end.addresses.contains(address) {
                    end.addresses.push(*address);
                }
            }
            Change::RemoveAddress(address) => {
                let is_v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
                let mut same = end
                    .addresses
                    .iter()
                    .filter(|other| other.trunc() == address.trunc());
                // With the first address of a prefix the others go too.
                if is_v4(address) && same.next() == Some(address) {
                    end.addresses.retain(|other| other.trunc() != address.trunc());
                }
                end.addresses.retain(|other| other != address);
                if is_v4(address) && !end.addresses.iter().any(is_v4) {
                    end.routes.retain(|(_, route)| !is_v4(&route.prefix));
                }
            }
            Change::SetRoute(table, route) => {
                end.routes
                    .retain(|(other, old)| (*other, old.prefix) != (*table, route.prefix));
                end.routes.push((*table, route.clone()));
            }
            Change::RemoveRoute(table, route) => end.routes.retain(|other| *other != (*table, route.clone())),
            Change::SetNeighbour(ip, entry) => drop(end.neighbours.insert(*ip, *entry)),
            Change::RemoveNeighbour(ip) => drop(end.neighbours.remove(ip)),
            Change::AddRule(rule) => end.rules.push(rule.clone()),
            Change::RemoveRule(rule) => end.rules.retain(|other| other != rule),
        }
    }
    end
}

/// The end without the order of what it has.
fn unordered(end: &End) -> (Link, BTreeSet<String>, BTreeMap<IpAddr, Entry>) {
    let addresses = end.addresses.iter().map(|address| format!("{address:?}"));
    let routes = end.routes.iter().map(|route| format!("{route:?}"));
    let rules = end.rules.iter().map(|rule| format!("{rule:?}"));
    (
        end.link.clone(),
        addresses.chain(routes).chain(rules).collect(),
        end.neighbours.clone(),
    )
}

fn any_net() -> impl Strategy<Value = IpNet> {
    let v4 = (0..4_u8, 0..4_u8, prop::sample::select(vec![0_u8, 8, 24, 32]))
        .prop_map(|(b, d, length)| IpNet::new([10, b, 0, d].into(), length).expect("a length"));
    let v6 = (0..4_u16, prop::sample::select(vec![0_u8, 64, 128])).prop_map(|(h, length)| {
        IpNet::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, h].into(), length).expect("a length")
    });
    prop_oneof![v4, v6]
}

fn any_route() -> impl Strategy<Value = Route> {
    (any_net(), any::<bool>(), any::<bool>()).prop_map(|(prefix, via, link)| Route {
        prefix,
        via: via.then_some(prefix.addr()),
        link: link && !via,
    })
}

fn any_interface() -> impl Strategy<Value = Interface> {
    let policy = (
        prop::option::of(any_net()),
        prop::option::of(0..3_u8),
        prop::collection::vec(any_route(), 0..3),
    )
        .prop_map(|(from, protocol, routes)| Policy {
            from,
            protocol,
            routes,
            ..Policy::default()
        });
    (
        prop::collection::vec(any_net(), 0..4),
        prop::collection::vec(any_route(), 0..5),
        prop::collection::vec(any_net(), 0..3),
        prop::collection::vec(policy, 0..3),
    )
        .prop_map(|(addresses, routes, peers, policies)| Interface {
            name: "nsm-1".into(),
            addresses,
            routes,
            peers: peers.iter().map(IpNet::addr).collect(),
            policies,
            ..Interface::default()
        })
}

proptest! {
    #[test]
    fn nothing_is_to_be_done_twice(interface in any_interface()) {
        let end = render(&interface);
        prop_assert_eq!(plan(&end, &end), []);
    }

    #[test]
    fn a_plan_makes_one_end_into_the_other(now in any_interface(), wanted in any_interface(), mac: bool) {
        let now = render(&now);
        let mut wanted = render(&wanted);
        wanted.link.mac[5] += u8::from(mac);
        let made = apply(now.clone(), &plan(&now, &wanted));
        prop_assert_eq!(unordered(&made), unordered(&wanted));
        let back = apply(made.clone(), &plan(&made, &now));
        prop_assert_eq!(unordered(&back), unordered(&now));
    }

    #[test]
    fn what_either_has_is_known_of_both(one in any_interface(), other in any_interface()) {
        let (one, other) = (render(&one), render(&other));
        let both = one.union(&other);
        prop_assert_eq!(unordered(&one.clone().only(&both)).1, unordered(&one).1);
        prop_assert_eq!(unordered(&other.clone().only(&both)).1, unordered(&other).1);
    }
}
