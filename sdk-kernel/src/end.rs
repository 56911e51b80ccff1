// SPDX-License-Identifier: Apache-2.0
//! One end of a wire as plain data: what it is to be, or what it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nsm_sdk::dataplane::{Interface, Policy, Route};
use serde::{Deserialize, Serialize};

use crate::asked::Device;

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
    /// Nobody of its namespace is to be reached through it.
    #[serde(default)]
    pub(crate) passes: bool,
    /// It is made with this, and cannot become another.
    #[serde(default)]
    pub(crate) device: Device,
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
    pub(crate) device: Device,
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
                passes: interface.passes,
                device: frame.device,
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

    /// Whether its namespace needs no IPv6 through it, ever: only where the payload is IP is what passes known beforehand.
    pub(crate) fn is_v4_only(&self) -> bool {
        let is_ip =
            self.link.device == Device::WireGuard || self.neighbours.values().any(|peer| peer.permanent);
        (is_ip || self.link.passes) && !self.uses_v6()
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

#[cfg(test)]
mod tests;
