// SPDX-License-Identifier: Apache-2.0
//! What a connection means to the two network stacks at its ends.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use nsm_api::connection::{Connection, Mechanism};
use nsm_api::connectioncontext::{EthernetContext, IpContext, PolicyRoute, Route as RouteText};
use nsm_api::context::parse_mac;
use nsm_api::mechanism::Kernel;
use nsm_api::{interface_name, payload};

use super::super::files;
use super::super::mtu::LOCAL_MTU;
use super::super::wireid::wire_id;
use super::plane::Part;
use crate::core::{Error, Result};
use crate::dataplane::tunnel::RemoteWire;
use crate::dataplane::wireguard::{Towards, TunnelId};
use crate::dataplane::{Interface, Neighbour, Payload, Policy, Route, Wire};

mod tunnel;

/// How many addresses, routes, neighbours or policies one end may have.
const MAX_ENTRIES: usize = 1024;

/// The smallest MTU of a link with IPv6 (RFC 8200 section 5), bytes.
const IPV6_MTU: u32 = 1280;

/// The smallest MTU that carries IPv4 (RFC 791), and the largest of a veth, bytes.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_535;

/// What of the wire is on this node that a connection, whose mechanism is the one towards the client, asks for.
///
/// Addresses that cannot be read are skipped, as by every implementation of this protocol. Host routes to peers that
/// no own prefix covers come first, then the routes of the context; of two routes with the same prefix the later one
/// counts, as with the kernel, which replaces the first.
///
/// Errors: `unsupported-mechanism`, `bad-netns`, `bad-interface-name`, `bad-payload`, `bad-mtu`, `bad-mac`, `bad-route`,
/// `bad-neighbour`, `bad-policy`, `too-many-entries`, `no-path`, and those of a tunnel's parameters.
pub fn part(connection: &Connection, downstream: &Mechanism) -> Result<Part> {
    let upstream = connection.mechanism.as_ref();
    let (here, there) = (upstream.and_then(Kernel::of), Kernel::of(downstream));
    let payload = payload(&connection.payload)?;
    let half = |towards, interface, mechanism: &Mechanism| {
        let id = TunnelId {
            connection: wire_id(connection)?,
            towards,
        };
        Ok(Part::Half(RemoteWire {
            id,
            payload,
            mtu: mtu(connection, tunnel::mtu(mechanism), [&interface])?,
            interface,
            tunnel: tunnel::of(mechanism, towards)?,
        }))
    };
    match (here, there, upstream) {
        (Some(here), Some(there), _) => {
            let (client, endpoint) = (client(connection, &here)?, endpoint(connection, &there)?);
            Ok(Part::Whole(Wire {
                connection: wire_id(connection)?,
                payload,
                mtu: mtu(connection, 0, [&client, &endpoint])?,
                client,
                endpoint,
            }))
        }
        (Some(here), None, _) if tunnel::is(downstream) => {
            half(Towards::Endpoint, client(connection, &here)?, downstream)
        }
        (None, Some(there), Some(upstream)) if tunnel::is(upstream) => {
            half(Towards::Client, endpoint(connection, &there)?, upstream)
        }
        (None, None, Some(upstream)) if tunnel::is(upstream) && upstream.r#type == downstream.r#type => {
            tunnel::transit(connection, payload, upstream, downstream)
        }
        _ => {
            let types = [upstream, Some(downstream)].map(|side| side.map_or("none", |m| &m.r#type));
            let text = format!(
                "unsupported mechanism: a wire from {} to {} cannot be made here",
                types[0], types[1]
            );
            Err(Error::invalid("unsupported-mechanism", text))
        }
    }
}

/// The end in the client's namespace.
fn client(connection: &Connection, kernel: &Kernel<&Mechanism>) -> Result<Interface> {
    let (no_ip, no_ethernet) = (IpContext::default(), EthernetContext::default());
    let ip = connection.ip_context().unwrap_or(&no_ip);
    Ok(Interface {
        mac: mac(&ethernet(connection).unwrap_or(&no_ethernet).src_mac)?,
        routes: routes(&ip.dst_ip_routes(), &ip.src_routes_with_explicit_next_hop())?,
        policies: policies(&ip.policies)?,
        neighbours: neighbours(ip)?,
        ..interface(kernel, &ip.src_nets(), &ip.dst_nets())?
    })
}

/// The end in the endpoint's namespace.
fn endpoint(connection: &Connection, kernel: &Kernel<&Mechanism>) -> Result<Interface> {
    let (no_ip, no_ethernet) = (IpContext::default(), EthernetContext::default());
    let ip = connection.ip_context().unwrap_or(&no_ip);
    Ok(Interface {
        mac: mac(&ethernet(connection).unwrap_or(&no_ethernet).dst_mac)?,
        routes: routes(&ip.src_ip_routes(), &ip.dst_routes_with_explicit_next_hop())?,
        neighbours: neighbours(ip)?,
        route_localnet: kernel.route_local_net(),
        ..interface(kernel, &ip.dst_nets(), &ip.src_nets())?
    })
}

fn ethernet(connection: &Connection) -> Option<&EthernetContext> {
    connection.context.as_ref()?.ethernet_context.as_ref()
}

fn payload(name: &str) -> Result<Payload> {
    match name {
        "" | payload::ETHERNET => Ok(Payload::Ethernet),
        payload::IP => Ok(Payload::Ip),
        other => {
            let text =
                format!("the payload {other:?} is none of ETHERNET and IP; register the service with one");
            Err(Error::invalid("bad-payload", text))
        }
    }
}

/// The MTU of the context, lowered to what `fits` into the tunnel (0: anything), and enough for the addresses.
fn mtu<const N: usize>(connection: &Connection, fits: u32, ends: [&Interface; N]) -> Result<u32> {
    let asked = connection.context.as_ref().map_or(0, |context| context.mtu);
    let mtu = match (asked, fits) {
        (0, 0) => LOCAL_MTU,
        (0, fits) => fits,
        (asked, 0) => asked,
        (asked, fits) => asked.min(fits),
    };
    let has_ipv6 = ends
        .iter()
        .any(|end| end.addresses.iter().any(|address| address.addr().is_ipv6()));
    let least = if has_ipv6 { IPV6_MTU } else { *MTUS.start() };
    if !(least..=*MTUS.end()).contains(&mtu) {
        let why = if has_ipv6 {
            ", as its IPv6 addresses need"
        } else {
            ""
        };
        let text = format!(
            "the MTU {mtu} of the connection is not between {least} and {}{why}; the request asks for {asked} (0: \
             anything), and the way to the other node leaves {fits} (0: there is none)",
            MTUS.end()
        );
        return Err(Error::invalid("bad-mtu", text));
    }
    Ok(mtu)
}

/// What of an end its mechanism and addresses say.
fn interface(kernel: &Kernel<&Mechanism>, own: &[IpNet], peers: &[IpNet]) -> Result<Interface> {
    let name = kernel.interface_name();
    interface_name::check(name).map_err(|error| Error::invalid("bad-interface-name", error.to_string()))?;
    if kernel.vlan() != 0 {
        let text = format!(
            "unsupported mechanism: the endpoint of {name} asks for a VLAN trunk, which was not offered"
        );
        return Err(Error::invalid("unsupported-mechanism", text));
    }
    bound("addresses", own.len().max(peers.len()))?;
    Ok(Interface {
        netns: netns(kernel.netns_url())?,
        name: name.into(),
        addresses: last_of_each(own.to_vec(), |address| *address),
        peers: last_of_each(peers.iter().map(IpNet::addr).collect(), |ip| *ip),
        ..Default::default()
    })
}

fn netns(url: &str) -> Result<PathBuf> {
    files::path(url).ok_or_else(|| {
        let text = format!(
            "{url:?} does not name a network namespace as file:///path; inode:// means that its file was not passed"
        );
        Error::invalid("bad-netns", text)
    })
}

fn mac(text: &str) -> Result<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let mac = parse_mac(text).map_err(|error| Error::invalid("bad-mac", error.to_string()))?;
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(Error::invalid(
            "bad-mac",
            format!("{text} is no address that one interface can have"),
        ));
    }
    Ok(Some(mac))
}

fn routes(link: &[RouteText], context: &[RouteText]) -> Result<Vec<Route>> {
    bound("routes", context.len())?;
    let link = link
        .iter()
        .map(|text| route(text).map(|route| Route { link: true, ..route }));
    let all: Result<Vec<_>> = link.chain(context.iter().map(route)).collect();
    Ok(last_of_each(all?, |route| route.prefix))
}

fn route(text: &RouteText) -> Result<Route> {
    let bad = |why: &str| {
        let text = format!("the route to {:?} by {:?} {why}", text.prefix, text.next_hop);
        Error::invalid("bad-route", text)
    };
    let prefix = text
        .prefix_net()
        .ok_or_else(|| bad("leads to no prefix such as 10.0.0.0/8"))?
        .trunc();
    let via = match text.next_hop.as_str() {
        "" => None,
        _ => Some(
            text.next_hop_ip()
                .ok_or_else(|| bad("has a next hop that is no address"))?,
        ),
    };
    if via.is_some_and(|via| via.is_ipv4() != prefix.addr().is_ipv4()) {
        return Err(bad("has a next hop of the other family"));
    }
    Ok(Route {
        prefix,
        via,
        link: false,
    })
}

fn neighbours(ip: &IpContext) -> Result<Vec<Neighbour>> {
    bound("neighbours", ip.ip_neighbors.len())?;
    let neighbour = |text: &nsm_api::connectioncontext::IpNeighbor| {
        let address: Option<IpAddr> = text.ip.parse().ok();
        let address = address.ok_or_else(|| {
            Error::invalid(
                "bad-neighbour",
                format!("the neighbour {:?} is no address", text.ip),
            )
        })?;
        let mac = mac(&text.hardware_address)?.ok_or_else(|| {
            Error::invalid(
                "bad-mac",
                format!("the neighbour {address} has no hardware address"),
            )
        })?;
        Ok(Neighbour { ip: address, mac })
    };
    let all: Result<Vec<_>> = ip.ip_neighbors.iter().map(neighbour).collect();
    Ok(last_of_each(all?, |neighbour| neighbour.ip))
}

fn policies(texts: &[PolicyRoute]) -> Result<Vec<Policy>> {
    bound("policies", texts.len())?;
    let policy = |text: &PolicyRoute| {
        let selectors = text
            .selectors()
            .map_err(|error| Error::invalid("bad-policy", error.to_string()))?;
        let ports =
            |range: Option<nsm_api::port_range::PortRange>| range.map(|range| (range.first, range.last));
        Ok(Policy {
            from: selectors.from,
            protocol: selectors.protocol,
            destination_ports: ports(selectors.destination_ports),
            source_ports: ports(selectors.source_ports),
            routes: routes(&[], &text.routes)?,
        })
    };
    let all: Result<Vec<_>> = texts.iter().map(policy).collect();
    Ok(last_of_each(all?, |policy| {
        (
            policy.from,
            policy.protocol,
            policy.destination_ports,
            policy.source_ports,
        )
    }))
}

fn bound(what: &str, count: usize) -> Result<()> {
    if count > MAX_ENTRIES {
        let text = format!("the connection has {count} {what}, one end may have {MAX_ENTRIES}");
        return Err(Error::exhausted("too-many-entries", text));
    }
    Ok(())
}

/// The items in their order, without those of which a later one has the same key.
fn last_of_each<T, K: Eq + std::hash::Hash>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    if items.len() < 2 {
        return items;
    }
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<_> = items
        .into_iter()
        .rev()
        .filter(|item| seen.insert(key(item)))
        .collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests;
