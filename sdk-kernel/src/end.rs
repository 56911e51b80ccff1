// SPDX-License-Identifier: Apache-2.0
//! One end of a wire as plain data: what it is to be, or what it is, and the least changes from one to the other.
//!
//! **Guarantees**: no input or output, no clock. [`plan`] of two equal ends is empty, and what it makes of one is
//! the other, with what the kernel does on its own taken into account (it removes routes with the last address,
//! and neighbours with the MAC address).
//! **Cost**: a comparison of lists that are a few entries long.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nsm_sdk::dataplane::{Interface, Policy, Route};
use serde::{Deserialize, Serialize};

/// The number of the main routing table.
pub(crate) const MAIN: u32 = 254;

/// The tables that are the kernel's own: default, main and local.
pub(crate) const RESERVED: std::ops::RangeInclusive<u32> = 253..=255;

/// One end of a wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) link: Link,
    pub(crate) addresses: Vec<IpNet>,
    /// Each with its table, at most one to a prefix and table.
    pub(crate) routes: Vec<(u32, Route)>,
    pub(crate) neighbours: BTreeMap<IpAddr, Entry>,
    pub(crate) rules: Vec<Rule>,
}

/// The interface itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) up: bool,
    pub(crate) route_localnet: bool,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) mac: [u8; 6],
    /// It never ages.
    pub(crate) permanent: bool,
}

/// A rule that leads to a table of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    pub(crate) v6: bool,
    pub(crate) from: Option<IpNet>,
    pub(crate) protocol: Option<u8>,
    pub(crate) destination_ports: Option<(u16, u16)>,
    pub(crate) source_ports: Option<(u16, u16)>,
    pub(crate) table: u32,
}

impl Rule {
    /// Whether it selects the same packets as `policy`, in its own family.
    pub(crate) fn selects(&self, policy: &Policy) -> bool {
        self.from == policy.from
            && self.protocol == policy.protocol
            && self.destination_ports == policy.destination_ports
            && self.source_ports == policy.source_ports
    }
}

/// What an end is to be that the context does not say.
pub(crate) struct Frame {
    pub(crate) alias: String,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    /// The other end's MAC address, where the payload is IP.
    pub(crate) peer: Option<[u8; 6]>,
    /// The table of each policy.
    pub(crate) tables: Vec<u32>,
}

impl End {
    /// What `interface` is to be.
    pub(crate) fn render(interface: &Interface, frame: Frame) -> Self {
        let mut end = Self {
            link: Link {
                name: interface.name.clone(),
                alias: frame.alias,
                mtu: frame.mtu,
                mac: frame.mac,
                up: true,
                route_localnet: interface.route_localnet,
            },
            ..Self::default()
        };
        for address in &interface.addresses {
            if !end.addresses.contains(address) {
                end.addresses.push(*address);
            }
        }
        for route in &interface.routes {
            end.route(MAIN, route);
        }
        if let Some(mac) = frame.peer {
            let entry = Entry { mac, permanent: true };
            end.neighbours
                .extend(interface.peers.iter().map(|ip| (*ip, entry)));
        }
        for neighbour in &interface.neighbours {
            // A peer stays permanent, whatever the context says about it besides.
            let entry = Entry {
                mac: neighbour.mac,
                permanent: false,
            };
            end.neighbours.entry(neighbour.ip).or_insert(entry);
        }
        for (policy, table) in interface.policies.iter().zip(frame.tables) {
            end.policy(policy, table, interface);
        }
        end
    }

    /// Adds a route; a later one to the same prefix wins, as it would in the kernel.
    fn route(&mut self, table: u32, route: &Route) {
        let prefix = route.prefix.trunc();
        let link = route.link && matches!(prefix, IpNet::V4(_));
        self.routes
            .retain(|(other, old)| (*other, old.prefix) != (table, prefix));
        self.routes.push((
            table,
            Route {
                prefix,
                via: route.via,
                link,
            },
        ));
    }

    fn policy(&mut self, policy: &Policy, table: u32, interface: &Interface) {
        let families = families(policy, interface);
        for route in &policy.routes {
            self.route(table, route);
        }
        for v6 in families {
            if policy.routes.is_empty() {
                let (prefix, via, link) = (everything(v6), None, false);
                self.route(table, &Route { prefix, via, link });
            }
            self.rules.push(Rule {
                v6,
                from: policy.from,
                protocol: policy.protocol,
                destination_ports: policy.destination_ports,
                source_ports: policy.source_ports,
                table,
            });
        }
    }

    /// What either has, on the link of `other`.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut both = other.clone();
        let new = |address: &&IpNet| !other.addresses.contains(address);
        both.addresses.extend(self.addresses.iter().filter(new));
        let new = |route: &&(u32, Route)| !other.routes.contains(route);
        both.routes.extend(self.routes.iter().filter(new).cloned());
        let new = |rule: &&Rule| !other.rules.contains(rule);
        both.rules.extend(self.rules.iter().filter(new).cloned());
        for (ip, entry) in &self.neighbours {
            both.neighbours.entry(*ip).or_insert(*entry);
        }
        both
    }

    /// What is here of `known`, changed or not; the rest is somebody else's.
    pub(crate) fn only(mut self, known: &Self) -> Self {
        self.addresses.retain(|address| known.addresses.contains(address));
        let is_to =
            |one: &(u32, Route), other: &(u32, Route)| (one.0, one.1.prefix) == (other.0, other.1.prefix);
        self.routes
            .retain(|route| known.routes.iter().any(|other| is_to(route, other)));
        self.neighbours.retain(|ip, _| known.neighbours.contains_key(ip));
        self.rules.retain(|rule| known.rules.contains(rule));
        self
    }

    /// Whether anything here needs IPv6.
    pub(crate) fn uses_v6(&self) -> bool {
        self.addresses
            .iter()
            .any(|address| matches!(address, IpNet::V6(_)))
            || self
                .routes
                .iter()
                .any(|(_, route)| matches!(route.prefix, IpNet::V6(_)))
            || self.neighbours.keys().any(IpAddr::is_ipv6)
    }
}

/// The families in which `policy` needs a rule: that of its source, else those of its routes, else those in which
/// the interface has an address.
pub(crate) fn families(policy: &Policy, interface: &Interface) -> Vec<bool> {
    let is_v6 = |net: &IpNet| matches!(net, IpNet::V6(_));
    if let Some(from) = &policy.from {
        return vec![is_v6(from)];
    }
    let mut families: Vec<bool> = policy.routes.iter().map(|route| is_v6(&route.prefix)).collect();
    if families.is_empty() {
        families = interface.addresses.iter().map(is_v6).collect();
    }
    families.sort_unstable();
    families.dedup();
    families
}

fn everything(v6: bool) -> IpNet {
    if v6 {
        Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into()
    }
}

/// One change of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    RemoveRule(Rule),
    /// What differs of MTU and MAC address; raises the link and sets its alias besides.
    Link {
        mtu: Option<u32>,
        mac: Option<[u8; 6]>,
        alias: String,
    },
    AddAddress(IpNet),
    RemoveAddress(IpNet),
    RemoveRoute(u32, Route),
    SetRoute(u32, Route),
    RemoveNeighbour(IpAddr),
    SetNeighbour(IpAddr, Entry),
    AddRule(Rule),
}

/// What makes `now` into `wanted`, in the order in which it must be done. Sysctls are not part of it.
pub(crate) fn plan(now: &End, wanted: &End) -> Vec<Change> {
    let mut changes = Vec::new();
    let gone = now.rules.iter().filter(|rule| !wanted.rules.contains(rule));
    changes.extend(gone.cloned().map(Change::RemoveRule));
    let is_new_mac = now.link.mac != wanted.link.mac;
    let is_new_mtu = now.link.mtu != wanted.link.mtu;
    if is_new_mac || is_new_mtu || !now.link.up || now.link.alias != wanted.link.alias {
        changes.push(Change::Link {
            mtu: is_new_mtu.then_some(wanted.link.mtu),
            mac: is_new_mac.then_some(wanted.link.mac),
            alias: wanted.link.alias.clone(),
        });
    }
    addresses(now, wanted, &mut changes);
    routes(now, wanted, &mut changes);
    neighbours(now, wanted, is_new_mac, &mut changes);
    let new = wanted.rules.iter().filter(|rule| !now.rules.contains(rule));
    changes.extend(new.cloned().map(Change::AddRule));
    changes
}

/// New addresses come before old ones go: with its last address an interface loses its routes.
fn addresses(now: &End, wanted: &End, changes: &mut Vec<Change>) {
    let new = wanted
        .addresses
        .iter()
        .filter(|address| !now.addresses.contains(address));
    changes.extend(new.copied().map(Change::AddAddress));
    let mut removed = Vec::new();
    for address in now
        .addresses
        .iter()
        .filter(|address| !wanted.addresses.contains(address))
    {
        changes.push(Change::RemoveAddress(*address));
        removed.push(address.trunc());
    }
    // With the first address of a prefix the kernel removes the others in it.
    let again = wanted
        .addresses
        .iter()
        .filter(|address| removed.contains(&address.trunc()));
    changes.extend(again.copied().map(Change::AddAddress));
}

fn routes(now: &End, wanted: &End, changes: &mut Vec<Change>) {
    for (table, route) in &now.routes {
        if !wanted
            .routes
            .iter()
            .any(|(other, new)| (other, new.prefix) == (table, route.prefix))
        {
            changes.push(Change::RemoveRoute(*table, route.clone()));
        }
    }
    // The kernel may have removed routes of this family along with an address.
    let is_shaken = |v6: bool| {
        let is_removal = |change: &Change| matches!(change, Change::RemoveAddress(address) if matches!(address, IpNet::V6(_)) == v6);
        changes.iter().any(is_removal)
    };
    let shaken = [is_shaken(false), is_shaken(true)];
    for route in &wanted.routes {
        let is_v6 = matches!(route.1.prefix, IpNet::V6(_));
        if shaken[usize::from(is_v6)] || !now.routes.contains(route) {
            changes.push(Change::SetRoute(route.0, route.1.clone()));
        }
    }
}

fn neighbours(now: &End, wanted: &End, is_new_mac: bool, changes: &mut Vec<Change>) {
    for ip in now
        .neighbours
        .keys()
        .filter(|ip| !wanted.neighbours.contains_key(ip))
    {
        changes.push(Change::RemoveNeighbour(*ip));
    }
    for (ip, entry) in &wanted.neighbours {
        // With the MAC address the kernel forgets all neighbours.
        if is_new_mac || now.neighbours.get(ip) != Some(entry) {
            changes.push(Change::SetNeighbour(*ip, *entry));
        }
    }
}

#[cfg(test)]
mod tests;
