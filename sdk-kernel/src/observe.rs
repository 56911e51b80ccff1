// SPDX-License-Identifier: Apache-2.0
//! What the kernel says is there: links, and everything that is configured on one.
//!
//! **Cost**: a question for a link, and six [dumps](crate::dumps) for all that is on it: about 0.1 ms.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;

use netlink_packet_core::NlasIterator;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nsm_sdk::dataplane::Counters;
use rustix::io::Errno;

use crate::asked::Device;
use crate::dumps::{addresses, dump, neighbours, routes, rules};
use crate::end::{End, Link, RESERVED};
use crate::netlink::{Netlink, Request};
use crate::netns::NetnsId;
use crate::record::Place;
use crate::vxlan;

const LINK_HEADER: usize = 16;
const IFF_UP: u32 = 1;
/// Where a message about a route says of which kind it is.
const RTM_TYPE: usize = 7;
const RTN_LOCAL: u8 = 2;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_GROUP: u16 = 27;
const IF_OPER_UP: u8 = 6;

/// What a link says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) group: u32,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) up: bool,
    /// It sends what it is given.
    pub(crate) operational: bool,
    /// The index of the other end of a pair.
    pub(crate) peer: u32,
    pub(crate) device: Device,
    /// The port and the number of a VXLAN device, also of one that is no tunnel of ours.
    pub(crate) number: Option<(u16, u32)>,
    pub(crate) counters: Counters,
}

impl Seen {
    /// Reads the body of a message about a link. `None`: it is cut short.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let header: &[u8; LINK_HEADER] = body.first_chunk()?;
        let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
        let mut seen = Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            up: u32::from_ne_bytes([f0, f1, f2, f3]) & IFF_UP != 0,
            ..Self::default()
        };
        for attribute in NlasIterator::new(body.get(LINK_HEADER..)?).flatten() {
            let value = attribute.value();
            match attribute.kind() {
                IFLA_ADDRESS => seen.mac = value.try_into().unwrap_or_default(),
                IFLA_IFNAME => seen.name = text(value),
                IFLA_IFALIAS => seen.alias = text(value),
                IFLA_MTU => seen.mtu = number(value),
                IFLA_OPERSTATE => seen.operational = value == [IF_OPER_UP],
                IFLA_LINK => seen.peer = number(value),
                IFLA_GROUP => seen.group = number(value),
                IFLA_LINKINFO => {
                    seen.device = vxlan::parse(value);
                    seen.number = vxlan::number(value);
                }
                IFLA_STATS64 => seen.counters = counters(value),
                _ => {}
            }
        }
        Some(seen)
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_string()
}

fn number(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// The first eight numbers of `rtnl_link_stats64`.
fn counters(value: &[u8]) -> Counters {
    let mut numbers = value
        .chunks_exact(8)
        .map(|chunk| chunk.try_into().map_or(0, u64::from_ne_bytes));
    let mut next = || numbers.next().unwrap_or(0);
    let (rx_packets, tx_packets, rx_bytes, tx_bytes) = (next(), next(), next(), next());
    let (_rx_errors, _tx_errors, rx_dropped, tx_dropped) = (next(), next(), next(), next());
    Counters {
        rx_bytes,
        tx_bytes,
        rx_packets,
        tx_packets,
        drops: rx_dropped.saturating_add(tx_dropped),
    }
}

/// Which link to ask for.
pub(crate) enum Which<'a> {
    /// By its index.
    Index(u32),
    /// By its name.
    Name(&'a str),
}

impl Which<'_> {
    /// The question.
    pub(crate) fn request(&self) -> Request {
        let mut message = LinkMessage::default();
        match self {
            Self::Index(index) => message.header.index = *index,
            Self::Name(name) => message
                .attributes
                .push(LinkAttribute::IfName((*name).to_string())),
        }
        Request::plain(RouteNetlinkMessage::GetLink(message))
    }
}

/// The link in the socket's namespace, if it is there.
pub(crate) fn link(netlink: &mut Netlink, which: &Which<'_>) -> io::Result<Option<Seen>> {
    match netlink.execute(which.request())? {
        Ok(body) => Ok(body.and_then(|body| Seen::parse(&body))),
        Err(refusal) if refusal.errno == Errno::NODEV => Ok(None),
        Err(refusal) => Err(refusal.errno.into()),
    }
}

/// All links in the socket's namespace.
pub(crate) fn links(netlink: &mut Netlink) -> io::Result<Vec<Seen>> {
    let mut links = Vec::new();
    let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
    dump(netlink, &message, |body| links.extend(Seen::parse(body)))?;
    Ok(links)
}

/// The link itself, with nothing on it.
fn identity(seen: &Seen) -> Link {
    Link {
        name: seen.name.clone(),
        alias: seen.alias.clone(),
        mtu: seen.mtu,
        mac: seen.mac,
        up: seen.up,
        route_localnet: false,
        passes: false,
        device: seen.device,
    }
}

/// Everything on the link `seen`, and all rules that lead to `tables`; where nobody knows which tables are ours, to
/// those with a route through the link. `None`: it has gone since it was seen.
pub(crate) fn end(
    netlink: &mut Netlink,
    seen: &Seen,
    tables: Option<&BTreeSet<u32>>,
) -> io::Result<Option<End>> {
    match still(netlink, seen, tables) {
        // What the kernel says when it is asked for all that is on an index that it does not know.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
        found => found.map(Some),
    }
}

/// The same, where it is still there.
fn still(netlink: &mut Netlink, seen: &Seen, tables: Option<&BTreeSet<u32>>) -> io::Result<End> {
    let mut end = End {
        link: identity(seen),
        ..End::default()
    };
    end.addresses = addresses(netlink, seen.index)?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        end.routes.extend(routes(netlink, family, Some(seen.index))?);
        end.neighbours.extend(neighbours(netlink, family, seen.index)?);
    }
    let through = end.routes.iter().map(|(table, _)| *table);
    let tables = tables
        .cloned()
        .unwrap_or_else(|| through.filter(|table| !RESERVED.contains(table)).collect());
    if !tables.is_empty() {
        end.rules = rules(netlink)?;
        end.rules.retain(|rule| tables.contains(&rule.table));
    }
    Ok(end)
}

/// The link `seen` with everything on it, where it is. `None`: it has gone since it was seen.
pub(crate) fn place(netlink: &mut Netlink, netns: NetnsId, seen: &Seen) -> io::Result<Option<Place>> {
    let index = seen.index;
    let end = end(netlink, seen, None)?;
    Ok(end.map(|end| Place { netns, index, end }))
}

/// The question which route packets to `ip` take.
pub(crate) fn way(ip: &Ipv6Addr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = 128;
    message.header.flags = RouteFlags::FibMatch;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::Inet6(*ip)));
    Request::plain(RouteNetlinkMessage::GetRoute(message))
}

/// Whether the answer to such a question is that they are for us.
pub(crate) fn is_local(body: &[u8]) -> bool {
    body.get(RTM_TYPE) == Some(&RTN_LOCAL)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_link_that_goes_while_it_is_looked_at_is_no_error() {
        let mut netlink = Netlink::open().expect("opens");
        let gone = Seen {
            index: i32::MAX.unsigned_abs(),
            name: "gone".into(),
            ..Seen::default()
        };
        let by_index = link(&mut netlink, &Which::Index(gone.index)).expect("asked");
        assert!(by_index.is_none());
        assert_eq!(end(&mut netlink, &gone, None).expect("looked at"), None);
        let lo = link(&mut netlink, &Which::Name("lo"))
            .expect("asked")
            .expect("there");
        assert!(end(&mut netlink, &lo, None).expect("looked at").is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Seen::parse(&bytes);
            let _ = is_local(&bytes);
        }
    }
}
