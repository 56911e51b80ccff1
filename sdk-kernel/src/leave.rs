// SPDX-License-Identifier: Apache-2.0
//! Which wire is meant when one is to go.
//!
//! **Guarantees**: only the wire between the interfaces that are named goes: a late close of a former wire leaves the
//! present one of the same connection alone.

use std::sync::Arc;

use nsm_sdk::core::Result;
use nsm_sdk::dataplane::{Interface, Wire};

use crate::doomed::Remains;
use crate::make::alias;
use crate::netns::{NetnsId, identify};
use crate::observe::{self, Seen, Which};
use crate::record::Place;
use crate::shared::Shared;
use crate::station::Station;
use crate::veth;

/// Has what `before` left in another pod than the client of `wire` is in removed.
pub(crate) fn former(shared: &Shared, wire: &Wire, before: &Wire) -> Result<()> {
    let client = identify(&wire.client.netns)?;
    let state = shared.state();
    let elsewhere = state.of(&before.connection).filter(|record| {
        let is_before = |asked: &Wire| {
            asked.client.netns == before.client.netns && asked.client.name == before.client.name
        };
        record.client.netns != client && record.asked.as_ref().is_some_and(is_before)
    });
    let serials: Vec<u64> = elsewhere.map(|record| record.serial).collect();
    drop(state);
    serials.into_iter().for_each(|serial| shared.doom(serial));
    Ok(())
}

/// The number of the record that `wire` is about.
pub(crate) fn recorded(shared: &Shared, wire: &Wire) -> Option<u64> {
    let id = |interface: &Interface| identify(&interface.netns).ok();
    let (client, endpoint) = (id(&wire.client), id(&wire.endpoint));
    let state = shared.state();
    let mut records = state.of(&wire.connection);
    let found = records.find(|record| {
        let asked = |end: fn(&Wire) -> &Interface| record.asked.as_ref().map(end);
        is(&record.client, client, &wire.client, asked(|wire| &wire.client))
            && is(
                &record.endpoint,
                endpoint,
                &wire.endpoint,
                asked(|wire| &wire.endpoint),
            )
    });
    found.map(|record| record.serial)
}

/// Whether `place` is the end that `interface` names. A path that leads nowhere any more is compared as it is written.
fn is(place: &Place, netns: Option<NetnsId>, interface: &Interface, asked: Option<&Interface>) -> bool {
    let is_there = match netns {
        Some(netns) => place.netns == netns,
        None => asked.is_some_and(|asked| asked.netns == interface.netns),
    };
    is_there && place.end.link.name == interface.name
}

/// Has what an earlier life made of `wire`, and nobody has a record of, removed.
pub(crate) fn unrecorded(station: &mut Station, shared: &Shared, wire: &Wire) -> Result<()> {
    let mut ends = Vec::new();
    for (side, interface) in [("server", &wire.client), ("client", &wire.endpoint)] {
        let Ok(netns) = station.open(&interface.netns) else {
            continue;
        };
        let broken = |error| veth::broken(&netns.id(), &error);
        let mut socket = station.socket(&netns)?;
        let seen = observe::link(&mut socket, &Which::Name(&interface.name)).map_err(broken)?;
        let is_ours = |seen: &Seen| {
            seen.group == shared.group()
                && seen.alias == alias(side, &wire.connection)
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
