// SPDX-License-Identifier: Apache-2.0
//! What a connection's context means: addresses, routes, policies, names and MAC addresses.
//!
//! "src" is the client's end, "dst" the endpoint's. Addresses are texts with a prefix length, `10.0.0.1/24`,
//! whose host part counts. What cannot be read is skipped, as in every implementation of this protocol.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use crate::connection::Connection;
use crate::connectioncontext::{
    ConnectionContext, DnsConfig, DnsContext, EthernetContext, IpContext, PolicyRoute, Route,
};
use crate::port_range::{PortRange, PortRangeError};
use crate::text::{decimal, excerpt};

/// Reads an address with a prefix length; the host part is kept.
///
/// ```
/// let net = nsm_api::context::parse_net("10.0.0.1/24").expect("an address");
/// assert_eq!(net.addr().to_string(), "10.0.0.1");
/// ```
pub fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    IpNet::new(address.parse().ok()?, decimal(length)?).ok()
}

fn parse_nets(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| parse_net(text)).collect()
}

impl Connection {
    /// The IP context, if there is one.
    pub fn ip_context(&self) -> Option<&IpContext> {
        self.context.as_ref()?.ip_context.as_ref()
    }

    /// The IP context, made if there is none.
    pub fn ip_context_mut(&mut self) -> &mut IpContext {
        self.context.get_or_insert_default().ip_context_mut()
    }
}

impl ConnectionContext {
    /// The IP context, made if there is none.
    pub fn ip_context_mut(&mut self) -> &mut IpContext {
        self.ip_context.get_or_insert_default()
    }

    /// The DNS context, made if there is none.
    pub fn dns_context_mut(&mut self) -> &mut DnsContext {
        self.dns_context.get_or_insert_default()
    }
}

impl IpContext {
    /// The addresses of the client's end.
    pub fn src_nets(&self) -> Vec<IpNet> {
        parse_nets(&self.src_ip_addrs)
    }

    /// The addresses of the endpoint's end.
    pub fn dst_nets(&self) -> Vec<IpNet> {
        parse_nets(&self.dst_ip_addrs)
    }

    /// The prefixes from which no address may be chosen.
    pub fn excluded_nets(&self) -> Vec<IpNet> {
        parse_nets(&self.excluded_prefixes)
    }

    /// Routes to the client's addresses, for the endpoint's end: one for each that no prefix of the
    /// endpoint's covers.
    pub fn src_ip_routes(&self) -> Vec<Route> {
        uncovered(&self.src_nets(), &self.dst_nets())
    }

    /// Routes to the endpoint's addresses, for the client's end: one for each that no prefix of the client's
    /// covers.
    pub fn dst_ip_routes(&self) -> Vec<Route> {
        uncovered(&self.dst_nets(), &self.src_nets())
    }

    /// `src_routes`, which belong in the client's namespace, with the gateways they mean: a route without one
    /// goes by the endpoint's first address of its family, unless its own address lies in a prefix of the
    /// endpoint's. Routes that cannot be read are passed on as they are.
    pub fn src_routes_with_explicit_next_hop(&self) -> Vec<Route> {
        explicit(&self.src_routes, &self.dst_nets())
    }

    /// `dst_routes`, which belong in the endpoint's namespace, with the gateways they mean: as
    /// [`IpContext::src_routes_with_explicit_next_hop`], by the client's addresses.
    pub fn dst_routes_with_explicit_next_hop(&self) -> Vec<Route> {
        explicit(&self.dst_routes, &self.src_nets())
    }
}

/// A route to each of `peers` that no prefix of `own` covers.
fn uncovered(peers: &[IpNet], own: &[IpNet]) -> Vec<Route> {
    let is_covered = |peer: &&IpNet| own.iter().any(|net| net.contains(&peer.addr()));
    let uncovered = peers.iter().filter(|peer| !is_covered(peer));
    uncovered.map(|peer| Route::to(*peer)).collect()
}

fn explicit(routes: &[Route], peers: &[IpNet]) -> Vec<Route> {
    let with_gateway = |route: &Route| {
        let mut route = route.clone();
        if let (Some(prefix), None) = (route.prefix_net(), route.next_hop_ip())
            && let Some(gateway) = gateway(prefix.addr(), peers)
        {
            route.next_hop = gateway.to_string();
        }
        route
    };
    routes.iter().map(with_gateway).collect()
}

/// The first peer of the family of `destination`, unless a peer's prefix covers it.
fn gateway(destination: IpAddr, peers: &[IpNet]) -> Option<IpAddr> {
    if peers.iter().any(|peer| peer.contains(&destination)) {
        return None;
    }
    let mut peers = peers.iter().map(IpNet::addr);
    peers.find(|peer| peer.is_ipv4() == destination.is_ipv4())
}

impl Route {
    /// A route to `prefix` without a gateway.
    pub fn to(prefix: IpNet) -> Self {
        Self {
            prefix: prefix.to_string(),
            ..Default::default()
        }
    }

    /// Where it leads, with the host part that was written.
    pub fn prefix_net(&self) -> Option<IpNet> {
        parse_net(&self.prefix)
    }

    /// The gateway, if it names one.
    pub fn next_hop_ip(&self) -> Option<IpAddr> {
        self.next_hop.parse().ok()
    }
}

/// Why a policy route cannot be programmed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// The source is no address with a prefix length.
    #[error("policy route has source {0:?}, write an address and a prefix length")]
    From(String),
    /// The protocol is no number.
    #[error("policy route has protocol {0:?}, write a number from 0 to 255 or nothing")]
    Protocol(String),
    /// The destination ports are no range.
    #[error("policy route has bad destination ports: {0}")]
    DestinationPorts(PortRangeError),
    /// The source ports are no range.
    #[error("policy route has bad source ports: {0}")]
    SourcePorts(PortRangeError),
}

/// What a policy route selects by; what it leaves empty may be anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicySelectors {
    /// The source, host part kept.
    pub from: Option<IpNet>,
    /// The number of the IP protocol.
    pub protocol: Option<u8>,
    /// The destination ports.
    pub destination_ports: Option<PortRange>,
    /// The source ports.
    pub source_ports: Option<PortRange>,
}

impl PolicyRoute {
    /// What it selects by. Two policies with the same selectors are the same policy, whatever their routes.
    pub fn selectors(&self) -> Result<PolicySelectors, PolicyError> {
        let from = match self.from.as_str() {
            "" => None,
            from => Some(parse_net(from).ok_or_else(|| PolicyError::From(excerpt(from)))?),
        };
        let protocol = match self.proto.as_str() {
            "" => None,
            proto => Some(decimal(proto).ok_or_else(|| PolicyError::Protocol(excerpt(proto)))?),
        };
        Ok(PolicySelectors {
            from,
            protocol,
            destination_ports: PortRange::parse(&self.dst_port).map_err(PolicyError::DestinationPorts)?,
            source_ports: PortRange::parse(&self.src_port).map_err(PolicyError::SourcePorts)?,
        })
    }
}

impl DnsContext {
    /// Appends `config` unless it is there already, and tells whether it did.
    pub fn add(&mut self, config: &DnsConfig) -> bool {
        let is_new = !self.configs.contains(config);
        if is_new {
            self.configs.push(config.clone());
        }
        is_new
    }
}

/// A text that is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("MAC address {0:?} cannot be read, write six bytes as 02:00:00:00:00:01")]
pub struct MacError(String);

/// Reads a MAC address of six bytes: `02:00:00:00:00:01`, `02-00-00-00-00-01` or `0200.0000.0001`.
pub fn parse_mac(text: &str) -> Result<[u8; 6], MacError> {
    read_mac(text).ok_or_else(|| MacError(excerpt(text)))
}

fn read_mac(text: &str) -> Option<[u8; 6]> {
    let (separator, digits) = match text.as_bytes().get(2)? {
        b':' => (':', 2),
        b'-' => ('-', 2),
        _ => ('.', 4),
    };
    let groups: Vec<&str> = text.split(separator).collect();
    let is_group = |group: &&str| group.len() == digits && group.bytes().all(|byte| byte.is_ascii_hexdigit());
    if groups.len() * digits != 12 || !groups.iter().all(is_group) {
        return None;
    }
    let number = u64::from_str_radix(&groups.concat(), 16).ok()?;
    let [_, _, mac @ ..] = number.to_be_bytes();
    Some(mac)
}

impl EthernetContext {
    /// The MAC address that the client's interface is to have, if one is asked for.
    pub fn src_mac_address(&self) -> Result<Option<[u8; 6]>, MacError> {
        optional_mac(&self.src_mac)
    }

    /// The MAC address that the endpoint's interface is to have, if one is asked for.
    pub fn dst_mac_address(&self) -> Result<Option<[u8; 6]>, MacError> {
        optional_mac(&self.dst_mac)
    }
}

fn optional_mac(text: &str) -> Result<Option<[u8; 6]>, MacError> {
    if text.is_empty() {
        return Ok(None);
    }
    parse_mac(text).map(Some)
}

#[cfg(test)]
mod tests;
