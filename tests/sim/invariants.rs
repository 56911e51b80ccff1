// SPDX-License-Identifier: Apache-2.0
//! What must be true of a world, whatever has happened in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use nsm_api::connection::{Connection, PathSegment};
use nsm_sdk::core::Request;
use nsm_sdk::dataplane::model::{Kind, Object};
use nsm_sdk::identity::jwt::Claims;

use crate::wire::Wire;
use crate::world::World;

/// The hops of a connection on one node.
const HOPS: usize = 4;

/// I6: the path of an answer is that of a wire on one node, and its tokens hold it together.
pub(crate) fn answer(request: &Request, id: &str, now: SystemTime) -> Result<(), String> {
    let connection = &request.connection;
    let path = connection.path.as_ref().ok_or("it has no path")?;
    let segments = &path.path_segments;
    if connection.id != id || path.index != 0 || segments.len() != HOPS {
        let names: Vec<_> = segments.iter().map(|segment| &segment.name).collect();
        return Err(format!(
            "id {:?}, index {}, path {names:?}",
            connection.id, path.index
        ));
    }
    let claims = segments
        .iter()
        .map(|segment| promise(segment, now))
        .collect::<Result<Vec<_>, _>>()?;
    for (at, pair) in claims.windows(2).enumerate() {
        if !pair[0].aud.contains(&pair[1].sub) {
            return Err(format!(
                "the token of segment {at} is for {:?} and not for {}",
                pair[0].aud, pair[1].sub
            ));
        }
    }
    let mechanism = connection.mechanism.as_ref().ok_or("it has no mechanism")?;
    let addresses = connection
        .ip_context()
        .map(|ip| (ip.src_ip_addrs.len(), ip.dst_ip_addrs.len()));
    match addresses {
        Some((1, 1)) if !mechanism.parameter("name").is_empty() => Ok(()),
        other => Err(format!(
            "it has the addresses {other:?} and the interface {:?}",
            mechanism.parameter("name")
        )),
    }
}

/// What a segment's token claims, which must last as long as the segment says, and still do so.
fn promise(segment: &PathSegment, now: SystemTime) -> Result<Claims, String> {
    let name = &segment.name;
    if segment.id.is_empty() {
        return Err(format!("{name} has no id"));
    }
    let claims = Claims::of(&segment.token).map_err(|error| format!("{name}: {error}"))?;
    let told = segment
        .expires
        .and_then(|expires| SystemTime::try_from(expires).ok());
    let (Some(told), Some(end)) = (told, claims.expires()) else {
        return Err(format!("{name} does not say when its promise ends"));
    };
    if told <= now || end <= now {
        return Err(format!("the promise of {name} has ended"));
    }
    match told.duration_since(end) {
        Ok(longer) if longer.as_secs() > 0 => Err(format!("{name} promises {longer:?} more than its token")),
        _ => Ok(claims),
    }
}

/// What an application has that wants its wire: as it was told, or as the client has mended it since.
fn wanted(wire: &Wire) -> Option<Connection> {
    wire.answer()
        .and_then(|told| wire.current().or(Some(told.connection)))
}

/// I1: everything that the kernel holds is of a connection that an application has, and that one is complete.
pub(crate) fn owned(world: &World) -> Result<(), String> {
    let mut objects: BTreeMap<String, Vec<Object>> = BTreeMap::new();
    for object in world.node().kernel().objects() {
        objects.entry(object.owner.clone()).or_default().push(object);
    }
    for wire in world.wires() {
        let (Some(current), Some(held)) = (wanted(wire), objects.remove(&wire.id)) else {
            continue;
        };
        let count = |kind| held.iter().filter(|object| object.kind == kind).count();
        let ip = current.ip_context().cloned().unwrap_or_default();
        let told: BTreeSet<_> = ip.src_ip_addrs.iter().chain(&ip.dst_ip_addrs).collect();
        let there = held.iter().filter(|object| object.kind == Kind::Address);
        let there: BTreeSet<_> = there
            .filter_map(|object| object.name.split_once(' '))
            .map(|(_, ip)| ip)
            .collect();
        if count(Kind::Link) != 2 || !there.iter().copied().eq(told.iter().map(|ip| ip.as_str())) {
            return Err(format!("I1: {} was told {told:?}; there is {held:?}", wire.id));
        }
    }
    match objects.pop_first() {
        None => Ok(()),
        Some((owner, held)) => Err(format!("I1: nobody has {owner}, but there is {held:?}")),
    }
}

/// Every application that was told that it is connected is: its pings are answered.
pub(crate) fn connected(world: &World) -> Result<(), String> {
    for wire in world.wires() {
        let Some(current) = wanted(wire) else { continue };
        let ip = current.ip_context().cloned().unwrap_or_default();
        let netns = world.node().netns(nsm_sdk::sandbox::Program::Client(wire.client));
        for (source, destination) in ip.src_nets().iter().zip(ip.dst_nets()) {
            let reached = world
                .node()
                .kernel()
                .can_reach(&netns, source.addr(), destination.addr());
            if !reached.is_ok_and(|reached| reached) {
                return Err(format!(
                    "I1: {} cannot reach {destination} from {source}",
                    wire.id
                ));
            }
        }
    }
    Ok(())
}

/// I3: no two connections have the same address in one endpoint's network, or the same interface in one namespace.
/// Those count that are `live`.
pub(crate) fn apart(world: &World, live: impl Fn(&Wire) -> bool) -> Result<(), String> {
    let live: BTreeSet<_> = world
        .wires()
        .iter()
        .filter(|wire| live(wire))
        .map(|wire| &wire.id)
        .collect();
    let mut seen = BTreeMap::new();
    for object in world.node().kernel().objects() {
        let what = match object.kind {
            Kind::Address => object.name.split_once(' ').map_or("", |(_, ip)| ip).to_string(),
            Kind::Link => object.name.clone(),
            _ => continue,
        };
        if !live.contains(&object.owner) {
            continue;
        }
        if let Some(other) = seen.insert((object.netns, what.clone()), object.owner.clone())
            && other != object.owner
        {
            return Err(format!("I3: {other} and {} share {what}", object.owner));
        }
    }
    Ok(())
}
