// SPDX-License-Identifier: Apache-2.0
//! Where a packet goes in the model.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::{Model, Pair, State, inode};
use crate::core::{Inode, Result};
use crate::dataplane::{Interface, Payload, Policy, Route};

/// How many namespaces a packet may cross.
const MAX_HOPS: usize = 16;

/// The bytes of an echo request with its headers.
const PING_BYTES: u64 = 84;

/// One end of a pair: the connection, and 0 for the client's end.
type At = (String, usize);

impl Model {
    /// Whether a ping from `source` in the namespace at `netns` to `destination` is answered.
    ///
    /// Errors: `netns-gone`.
    pub fn can_reach(&self, netns: &Path, source: IpAddr, destination: IpAddr) -> Result<bool> {
        let from = inode(netns)?;
        let mut state = self.0.lock();
        if !state.owns(from, source) {
            return Ok(false);
        }
        let Some(there) = state.send(from, source, destination) else {
            return Ok(false);
        };
        Ok(state.send(there, destination, source) == Some(from))
    }
}

impl State {
    /// Whether an interface of the namespace has the address.
    fn owns(&self, netns: Inode, ip: IpAddr) -> bool {
        let mut interfaces = self.interfaces(netns);
        interfaces.any(|(_, interface)| interface.addresses.iter().any(|address| address.addr() == ip))
    }

    /// The interfaces of the namespace that are up, in the order in which they were made.
    fn interfaces(&self, netns: Inode) -> impl DoubleEndedIterator<Item = (At, &Interface)> {
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort_by_key(|(_, pair)| pair.index);
        let ends = pairs
            .into_iter()
            .flat_map(|(owner, pair)| [(owner, pair, 0), (owner, pair, 1)]);
        let here = ends.filter(move |(_, pair, at)| pair.ends[*at].netns == netns && pair.ends[*at].is_up);
        here.map(|(owner, pair, at)| ((owner.clone(), at), pair.interface(at)))
    }

    /// The namespace in which a packet ends, if it arrives.
    fn send(&mut self, from: Inode, source: IpAddr, destination: IpAddr) -> Option<Inode> {
        let mut here = from;
        for _ in 0..MAX_HOPS {
            if self.owns(here, destination) {
                return Some(here);
            }
            let ((owner, at), via) = self.route(here, source, destination)?;
            let there = 1 - at;
            let pair = self.pairs.get(&owner)?;
            let next = via.unwrap_or(destination);
            if !pair.ends[there].is_up || !(knows(pair, at, next) || self.owns(pair.ends[there].netns, next))
            {
                return None;
            }
            here = pair.ends[there].netns;
            let pair = self.pairs.get_mut(&owner)?;
            pair.ends[at].counters.tx_packets += 1;
            pair.ends[at].counters.tx_bytes += PING_BYTES;
            pair.ends[there].counters.rx_packets += 1;
            pair.ends[there].counters.rx_bytes += PING_BYTES;
        }
        None
    }

    /// The interface and the gateway by which a packet leaves the namespace.
    fn route(&self, netns: Inode, source: IpAddr, destination: IpAddr) -> Option<(At, Option<IpAddr>)> {
        let interfaces: Vec<_> = self.interfaces(netns).collect();
        // A rule that was added later is looked at earlier.
        for (at, interface) in interfaces.iter().rev() {
            for policy in interface
                .policies
                .iter()
                .rev()
                .filter(|policy| applies(policy, source))
            {
                if policy.routes.is_empty() {
                    return Some((at.clone(), None));
                }
                if let Some((_, via)) = longest(&policy.routes, &[], destination) {
                    return Some((at.clone(), via));
                }
            }
        }
        let found = interfaces.into_iter().filter_map(|(at, interface)| {
            let (length, via) = longest(&interface.routes, &interface.addresses, destination)?;
            Some((length, at, via))
        });
        let best = found.reduce(|best, other| if other.0 > best.0 { other } else { best })?;
        Some((best.1, best.2))
    }
}

/// Whether a ping with this source is one of the packets that the policy is about.
fn applies(policy: &Policy, source: IpAddr) -> bool {
    let is_ping = match (policy.protocol, source) {
        (None, _) | (Some(1), IpAddr::V4(_)) | (Some(58), IpAddr::V6(_)) => true,
        (Some(_), _) => false,
    };
    let ports = policy.destination_ports.is_some() || policy.source_ports.is_some();
    is_ping && !ports && policy.from.is_none_or(|from| from.contains(&source))
}

/// The longest prefix that leads there: its length and gateway.
fn longest(routes: &[Route], own: &[IpNet], destination: IpAddr) -> Option<(u8, Option<IpAddr>)> {
    let connected = own.iter().filter(|net| net.prefix_len() < net.max_prefix_len());
    let connected = connected.map(|net| (*net, None));
    let all = routes
        .iter()
        .map(|route| (route.prefix, route.via))
        .chain(connected);
    let fitting = all.filter(|(prefix, _)| prefix.contains(&destination));
    let fitting = fitting.map(|(prefix, via)| (prefix.prefix_len(), via));
    fitting.reduce(|best, other| if other.0 > best.0 { other } else { best })
}

/// Whether the end has a static neighbour for `next`.
fn knows(pair: &Pair, at: usize, next: IpAddr) -> bool {
    let here = pair.interface(at);
    let permanent = pair.wire.payload == Payload::Ip && here.peers.contains(&next);
    permanent || here.neighbours.iter().any(|neighbour| neighbour.ip == next)
}
