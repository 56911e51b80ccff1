// SPDX-License-Identifier: Apache-2.0
//! Which wire is meant when one is to go.
//!
//! **Guarantees**: only the wire between the interfaces that are named goes: a late close of a former wire leaves the
//! present one of the same connection alone.

use std::sync::Arc;

use nsm_sdk::core::Result;
use nsm_sdk::dataplane::Interface;

use crate::asked::Asked;
use crate::doomed::Remains;
use crate::netns::{NetnsId, identify};
use crate::observe::{self, Seen, Which};
use crate::record::Place;
use crate::shared::Shared;
use crate::station::Station;
use crate::veth;

/// Has what `before` left in another pod than the first end of `wire` is in removed.
pub(crate) fn former(shared: &Shared, wire: &Asked, before: &Asked, spaces: &[NetnsId]) {
    let first = |wire: &Asked| {
        let (face, interface) = wire.ends.first()?;
        let Interface { netns, name, .. } = interface;
        Some((*face, netns.clone(), name.clone()))
    };
    let state = shared.state();
    let elsewhere = state.of(&wire.connection).filter(|record| {
        let is_elsewhere = record.ends.first().map(|place| place.netns) != spaces.first().copied();
        is_elsewhere
            && record
                .asked
                .as_ref()
                .is_some_and(|asked| first(asked) == first(before))
    });
    let serials: Vec<u64> = elsewhere.map(|record| record.serial).collect();
    drop(state);
    serials.into_iter().for_each(|serial| shared.doom(serial));
}

/// The number of the record that `wire` is about.
pub(crate) fn recorded(shared: &Shared, wire: &Asked) -> Option<u64> {
    let ids: Vec<Option<NetnsId>> = wire
        .interfaces()
        .map(|interface| identify(&interface.netns).ok())
        .collect();
    let state = shared.state();
    let mut records = state.of(&wire.connection);
    let found = records.find(|record| {
        let is_end = |at: usize| {
            let asked = record.asked.as_ref().and_then(|asked| asked.ends.get(at));
            let place = record.ends.get(at).zip(wire.ends.get(at));
            place.is_some_and(|(place, (face, interface))| {
                let netns = ids.get(at).copied().flatten();
                place.end.link.alias == face.alias(&wire.connection)
                    && place.end.link.device == wire.device
                    && is(place, netns, interface, asked.map(|(_, interface)| interface))
            })
        };
        record.ends.len() == wire.ends.len() && (0..wire.ends.len()).all(is_end)
    });
    found.map(|record| record.serial)
}

/// Whether `place` is the end that `interface` names, or named before it was set aside. A path that leads nowhere any
/// more is compared as it is written.
fn is(place: &Place, netns: Option<NetnsId>, interface: &Interface, asked: Option<&Interface>) -> bool {
    let is_there = match netns {
        Some(netns) => place.netns == netns,
        None => asked.is_some_and(|asked| asked.netns == interface.netns),
    };
    let is_called = |name: &str| name == interface.name;
    let was_called = || asked.is_some_and(|asked| is_called(&asked.name));
    is_there && (is_called(&place.end.link.name) || was_called())
}

/// Has what an earlier life made of `wire`, and nobody has a record of, removed.
pub(crate) fn unrecorded(station: &mut Station, shared: &Shared, wire: &Asked) -> Result<()> {
    let mut ends = Vec::new();
    for (face, interface) in &wire.ends {
        let Ok(netns) = station.open(&interface.netns) else {
            continue;
        };
        let broken = |error| veth::broken(&netns.id(), &error);
        let mut socket = station.socket(&netns)?;
        let seen = observe::link(&mut socket, &Which::Name(&interface.name)).map_err(broken)?;
        let is_ours = |seen: &Seen| {
            seen.group == shared.group()
                && seen.device == wire.device
                && seen.alias == face.alias(&wire.connection)
                && shared.state().by_index(seen.index).is_none()
        };
        let Some(seen) = seen.filter(is_ours) else {
            continue;
        };
        // One that has gone meanwhile, since it was being removed already, needs no more.
        if let Some(place) = observe::place(&mut socket, netns.id(), &seen).map_err(broken)? {
            ends.push(Remains {
                place,
                netns: Some(Arc::new(netns)),
                path: None,
            });
        }
    }
    shared.doom_remains(ends);
    Ok(())
}
