// SPDX-License-Identifier: Apache-2.0
//! Changes as netlink requests: the one place that knows how the kernel wants each to be said.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nsm_sdk::dataplane::Route;
use rustix::io::Errno;

use crate::end::{Entry, Rule};
use crate::netlink::Request;
use crate::plan::Change;

/// IPv4 prefixes that are shorter than this have a broadcast address.
const POINT_TO_POINT: u8 = 31;

impl Change {
    /// The change of interface `index`, as the kernel wants it said.
    pub(crate) fn request(&self, index: u32) -> Request {
        use RouteNetlinkMessage as Message;
        match self {
            Self::Link { mtu, mac, alias } => {
                Request::plain(Message::SetLink(link(index, *mtu, *mac, alias.as_deref())))
            }
            Self::Raise => Request::plain(Message::SetLink(raised(index))),
            Self::AddAddress(net) => Request::replace(Message::NewAddress(address(index, net))),
            Self::RemoveAddress(net) => Request::plain(Message::DelAddress(address(index, net))),
            Self::SetRoute(table, wanted) => {
                Request::replace(Message::NewRoute(route(index, *table, wanted)))
            }
            Self::RemoveRoute(table, old) => {
                let mut message = route(index, *table, old);
                message.header.scope = RouteScope::NoWhere;
                Request::plain(Message::DelRoute(message))
            }
            Self::SetNeighbour(ip, entry) => {
                Request::replace(Message::NewNeighbour(neighbour(index, *ip, Some(entry))))
            }
            Self::RemoveNeighbour(ip) => Request::plain(Message::DelNeighbour(neighbour(index, *ip, None))),
            Self::AddRule(wanted) => Request::create(Message::NewRule(rule(wanted))),
            Self::RemoveRule(old) => Request::plain(Message::DelRule(rule(old))),
        }
    }

    /// Whether the kernel's `errno` means that there was nothing to do.
    pub(crate) fn is_done(&self, errno: Errno) -> bool {
        match self {
            Self::RemoveAddress(_) => errno == Errno::ADDRNOTAVAIL,
            Self::RemoveRoute(..) => errno == Errno::SRCH || errno == Errno::NOENT,
            Self::RemoveNeighbour(_) | Self::RemoveRule(_) => errno == Errno::NOENT,
            Self::AddRule(_) => errno == Errno::EXIST,
            _ => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { mtu, mac, .. } => {
                f.write_str("prepare the link")?;
                mtu.map_or(Ok(()), |mtu| write!(f, ", set MTU {mtu}"))?;
                mac.map_or(Ok(()), |mac| write!(f, ", set MAC address {}", Mac(mac)))
            }
            Self::Raise => f.write_str("raise the link"),
            Self::AddAddress(net) => write!(f, "add address {net}"),
            Self::RemoveAddress(net) => write!(f, "remove address {net}"),
            Self::SetRoute(table, route) => write!(f, "set route {} in table {table}", Way(route)),
            Self::RemoveRoute(table, route) => write!(f, "remove route {} from table {table}", Way(route)),
            Self::SetNeighbour(ip, entry) => write!(f, "set neighbour {ip} at {}", Mac(entry.mac)),
            Self::RemoveNeighbour(ip) => write!(f, "remove neighbour {ip}"),
            Self::AddRule(rule) => write!(f, "add a rule to table {}", rule.table),
            Self::RemoveRule(rule) => write!(f, "remove the rule to table {}", rule.table),
        }
    }
}

/// A MAC address, as people write it.
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

struct Way<'a>(&'a Route);

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.via {
            Some(via) => write!(f, "{} via {via}", self.0.prefix),
            None => write!(f, "{}", self.0.prefix),
        }
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

fn raised(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn link(index: u32, mtu: Option<u32>, mac: Option<[u8; 6]>, alias: Option<&str>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message
        .attributes
        .extend(mac.map(|mac| LinkAttribute::Address(mac.into())));
    let alias = alias.map(|alias| LinkAttribute::IfAlias(alias.into()));
    message.attributes.extend(alias);
    message
}

fn address(index: u32, net: &IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    let mut flags = AddressFlags::Permanent;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    match net {
        IpNet::V4(net) if net.prefix_len() < POINT_TO_POINT => {
            message
                .attributes
                .push(AddressAttribute::Broadcast(net.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => flags |= AddressFlags::Nodad,
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

fn route(index: u32, table: u32, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.prefix.addr());
    header.destination_prefix_length = route.prefix.prefix_len();
    // A number that does not fit its byte goes into the attribute alone.
    header.table = u8::try_from(table).unwrap_or(0);
    // Seen in the output of `ip route`, which shows every other protocol but not this one.
    header.protocol = RouteProtocol::Boot;
    header.scope = if route.link {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Table(table));
    message
        .attributes
        .push(RouteAttribute::Destination(route.prefix.network().into()));
    message.attributes.push(RouteAttribute::Oif(index));
    if let Some(via) = route.via {
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    message
}

fn neighbour(index: u32, ip: IpAddr, entry: Option<&Entry>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = index;
    message
        .attributes
        .push(NeighbourAttribute::Destination(ip.into()));
    if let Some(entry) = entry {
        message.header.state = if entry.permanent {
            NeighbourState::Permanent
        } else {
            NeighbourState::Reachable
        };
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(entry.mac.into()));
    }
    message
}

fn rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    message.attributes.push(RuleAttribute::Table(rule.table));
    if let Some(from) = rule.from {
        message.header.src_len = from.prefix_len();
        message.attributes.push(RuleAttribute::Source(from.addr()));
    }
    let protocol = rule
        .protocol
        .map(|protocol| RuleAttribute::IpProtocol(protocol.into()));
    message.attributes.extend(protocol);
    let ports = |(start, end): (u16, u16)| RulePortRange { start, end };
    message
        .attributes
        .extend(rule.source_ports.map(ports).map(RuleAttribute::SourcePortRange));
    message.attributes.extend(
        rule.destination_ports
            .map(ports)
            .map(RuleAttribute::DestinationPortRange),
    );
    message
}
