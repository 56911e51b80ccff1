// SPDX-License-Identifier: Apache-2.0
//! The least changes that make one end of a wire into another.
//!
//! **Guarantees**: no input or output, no clock. The plan of two equal ends is empty; what a plan makes of one is the
//! other, with what the kernel does on its own taken into account: it removes routes with the last address, and
//! neighbours with the MAC address.
//! **Cost**: a comparison of lists that are a few entries long.

use std::net::IpAddr;

use ipnet::IpNet;
use nsm_sdk::dataplane::Route;

use crate::end::{End, Entry, Rule};

/// One change of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    RemoveRule(Rule),
    /// What differs of MTU, MAC address and alias.
    Link {
        mtu: Option<u32>,
        mac: Option<[u8; 6]>,
        alias: Option<String>,
    },
    Raise,
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
    let is_new_alias = now.link.alias != wanted.link.alias;
    if is_new_mac || is_new_mtu || is_new_alias {
        changes.push(Change::Link {
            mtu: is_new_mtu.then_some(wanted.link.mtu),
            mac: is_new_mac.then_some(wanted.link.mac),
            alias: is_new_alias.then(|| wanted.link.alias.clone()),
        });
    }
    // In a message of its own, after the rest: what changes on a link that is up the kernel tells IPv6, which then
    // looks through every route of the namespace.
    if !now.link.up {
        changes.push(Change::Raise);
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
