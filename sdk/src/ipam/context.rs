// SPDX-License-Identifier: Apache-2.0
//! The addresses and routes of an IP context, as address management reads and changes them.

use std::net::IpAddr;

use ipnet::IpNet;
use nsm_api::connectioncontext::{IpContext, Route};
use nsm_api::context::parse_net;

/// The prefixes that the client excludes, without those that do not parse, merged.
pub(super) fn excluded(context: &IpContext) -> Vec<IpNet> {
    let nets = context
        .excluded_prefixes
        .iter()
        .filter_map(|prefix| prefix.parse().ok());
    IpNet::aggregate(&nets.collect())
}

/// Whether one of the addresses is excluded.
pub(super) fn is_excluded(ips: &[IpAddr], excluded: &[IpNet]) -> bool {
    ips.iter().any(|ip| excluded.iter().any(|net| net.contains(ip)))
}

/// The IP of an address in CIDR notation.
pub(super) fn ip_of(address: &str) -> Option<IpAddr> {
    parse_net(address).map(|net| net.addr())
}

/// Adds an address unless its IP is there.
pub(super) fn add_address(addresses: &mut Vec<String>, address: IpNet) {
    if !addresses.iter().any(|there| ip_of(there) == Some(address.addr())) {
        addresses.push(address.to_string());
    }
}

/// Adds a device route to the host unless there is a route to it.
pub(super) fn add_route(routes: &mut Vec<Route>, host: IpAddr) {
    if !routes.iter().any(|route| leads_to(route, host)) {
        routes.push(Route::to(host.into()));
    }
}

/// Removes the addresses with this IP.
pub(super) fn remove_address(addresses: &mut Vec<String>, ip: IpAddr) {
    addresses.retain(|address| ip_of(address) != Some(ip));
}

/// Removes the routes to exactly this host.
pub(super) fn remove_route(routes: &mut Vec<Route>, host: IpAddr) {
    routes.retain(|route| !leads_to(route, host));
}

fn leads_to(route: &Route, host: IpAddr) -> bool {
    route.prefix_net() == Some(IpNet::from(host))
}
