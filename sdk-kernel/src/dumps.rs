// SPDX-License-Identifier: Apache-2.0
//! Lists of what the kernel has: addresses, routes, neighbours, rules.
//!
//! **Guarantees**: an entry that cannot be understood is left out rather than believed or fatal: namespaces hold
//! things of others, and kernels are newer than we are.
//! **Cost**: a dump each, which the kernel filters from 4.20 on: about 15 µs.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NlasIterator, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nsm_sdk::dataplane::Route;
use rustix::io::Errno;

use crate::end::{Entry, Rule};
use crate::netlink::Netlink;

/// Where a message about a rule says which table it leads to, if the number fits there, and the attribute that says
/// it in any case.
const RULE_HEADER: usize = 12;
const RULE_TABLE: usize = 4;
const FRA_TABLE: u16 = 15;

/// Every routing table of the socket's namespace that a rule leads to.
pub(crate) fn ruled(netlink: &mut Netlink) -> io::Result<BTreeSet<u32>> {
    let mut tables = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        // There may be thousands: only what is asked for is read.
        dump(netlink, &RouteNetlinkMessage::GetRule(message), |body| {
            let attributes = NlasIterator::new(body.get(RULE_HEADER..).unwrap_or_default());
            let mut attributes = attributes.flatten();
            let number = attributes.find(|attribute| attribute.kind() == FRA_TABLE);
            let number = number.and_then(|number| number.value().try_into().ok().map(u32::from_ne_bytes));
            tables.extend(number.or_else(|| body.get(RULE_TABLE).map(|number| (*number).into())));
        })?;
    }
    Ok(tables)
}

/// Whether routing table `number` of the socket's namespace has any route.
pub(crate) fn is_used(netlink: &mut Netlink, number: u32) -> io::Result<bool> {
    Ok(in_tables(netlink, Some(number))?.contains(&number))
}

/// Every routing table of the socket's namespace that has a route.
pub(crate) fn routed(netlink: &mut Netlink) -> io::Result<BTreeSet<u32>> {
    in_tables(netlink, None)
}

/// The tables that have routes, among them table `number` if it has.
fn in_tables(netlink: &mut Netlink, number: Option<u32>) -> io::Result<BTreeSet<u32>> {
    let mut tables = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.attributes.extend(number.map(RouteAttribute::Table));
        let done = dump(netlink, &RouteNetlinkMessage::GetRoute(message), |body| {
            tables.extend(RouteMessage::parse(body).map(|route| table(&route)));
        });
        match done {
            // There never was such a table.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
            done => done?,
        }
    }
    Ok(tables)
}

pub(crate) fn dump(
    netlink: &mut Netlink,
    message: &RouteNetlinkMessage,
    take: impl FnMut(&[u8]),
) -> io::Result<()> {
    match netlink.dump(message, take)? {
        Ok(()) => Ok(()),
        // A kernel without IPv6 has nothing to show of it.
        Err(refusal) if refusal.errno == Errno::OPNOTSUPP || refusal.errno == Errno::AFNOSUPPORT => Ok(()),
        Err(refusal) => Err(refusal.errno.into()),
    }
}

/// The addresses of global scope: link-local ones are the kernel's.
pub(crate) fn addresses(netlink: &mut Netlink, index: u32) -> io::Result<Vec<IpNet>> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let mut found = Vec::new();
    dump(netlink, &RouteNetlinkMessage::GetAddress(message), |body| {
        let Ok(address) = AddressMessage::parse(body) else {
            return;
        };
        if address.header.index != index || address.header.scope != AddressScope::Universe {
            return;
        }
        let of = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        };
        let any = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        };
        let ip = address.attributes.iter().find_map(of);
        let ip = ip.or_else(|| address.attributes.iter().find_map(any));
        found.extend(ip.and_then(|ip| IpNet::new(ip, address.header.prefix_len).ok()));
    })?;
    Ok(found)
}

/// Our kind of routes: unicast, of protocol `boot`, through the interface.
pub(crate) fn routes(
    netlink: &mut Netlink,
    family: AddressFamily,
    index: Option<u32>,
) -> io::Result<Vec<(u32, Route)>> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.attributes.extend(index.map(RouteAttribute::Oif));
    let mut found = Vec::new();
    dump(netlink, &RouteNetlinkMessage::GetRoute(message), |body| {
        let Ok(message) = RouteMessage::parse(body) else {
            return;
        };
        if message.header.kind != RouteType::Unicast || message.header.protocol != RouteProtocol::Boot {
            return;
        }
        let (mut out, mut via, mut destination) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => out = Some(*index),
                RouteAttribute::Gateway(gateway) => via = ip(gateway),
                RouteAttribute::Destination(to) => destination = ip(to),
                _ => {}
            }
        }
        if out != index {
            return;
        }
        let any = if family == AddressFamily::Inet6 {
            IpAddr::from([0_u16; 8])
        } else {
            IpAddr::from([0_u8; 4])
        };
        let to = destination.unwrap_or(any);
        let link = message.header.scope == RouteScope::Link && to.is_ipv4();
        if let Ok(prefix) = IpNet::new(to, message.header.destination_prefix_length) {
            found.push((table(&message), Route { prefix, via, link }));
        }
    })?;
    Ok(found)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn table(message: &RouteMessage) -> u32 {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    };
    message
        .attributes
        .iter()
        .find_map(of)
        .unwrap_or_else(|| message.header.table.into())
}

/// The neighbours that we could have set: permanent ones, and whoever else has a MAC address.
pub(crate) fn neighbours(
    netlink: &mut Netlink,
    family: AddressFamily,
    index: u32,
) -> io::Result<Vec<(IpAddr, Entry)>> {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::IfIndex(index));
    let mut found = Vec::new();
    dump(netlink, &RouteNetlinkMessage::GetNeighbour(message), |body| {
        let Ok(message) = NeighbourMessage::parse(body) else {
            return;
        };
        let ignored = matches!(message.header.state, NeighbourState::Noarp | NeighbourState::None);
        if message.header.ifindex != index || ignored {
            return;
        }
        let (mut ip, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => ip = Some((*to).into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(to)) => ip = Some((*to).into()),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        if let (Some(ip), Some(mac)) = (ip, mac) {
            let permanent = message.header.state == NeighbourState::Permanent;
            found.push((ip, Entry { mac, permanent }));
        }
    })?;
    Ok(found)
}

/// All rules that lead to a table, of both families.
pub(crate) fn rules(netlink: &mut Netlink) -> io::Result<Vec<Rule>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        dump(netlink, &RouteNetlinkMessage::GetRule(message), |body| {
            if let Ok(message) = RuleMessage::parse(body) {
                found.push(rule(&message, family == AddressFamily::Inet6));
            }
        })?;
    }
    Ok(found)
}

fn rule(message: &RuleMessage, v6: bool) -> Rule {
    let mut rule = Rule {
        v6,
        from: None,
        protocol: None,
        destination_ports: None,
        source_ports: None,
        table: message.header.table.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Source(ip) => rule.from = IpNet::new(*ip, message.header.src_len).ok(),
            RuleAttribute::IpProtocol(protocol) => rule.protocol = Some((*protocol).into()),
            RuleAttribute::SourcePortRange(ports) => rule.source_ports = Some((ports.start, ports.end)),
            RuleAttribute::DestinationPortRange(ports) => {
                rule.destination_ports = Some((ports.start, ports.end));
            }
            _ => {}
        }
    }
    rule
}
