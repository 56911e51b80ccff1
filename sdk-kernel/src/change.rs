// SPDX-License-Identifier: Apache-2.0
//! Changes a wire that is there: adds and removes what differs, and moves its endpoint's end.
//!
//! **Guarantees**: the client's interface keeps its index, and what it is to keep, whatever happens to the endpoint.
//! **On failure**: what was there before is put back, as far as the kernel lets us, and the wire is looked at again
//! the next time.

use std::collections::BTreeSet;
use std::sync::Arc;

use nsm_sdk::core::Result;

use crate::end::{End, Link};
use crate::make::{Attempt, Spaces, halves};
use crate::netns::Netns;
use crate::observe::{self, Seen, Which};
use crate::outcome::Outcome;
use crate::plan::Change;
use crate::record::{Place, Record};
use crate::recover;
use crate::veth::{self, Half};

impl Attempt<'_> {
    /// Makes the wire of `record`, whose ends are where they are to be, into what is asked for.
    pub(crate) fn change(&mut self, spaces: &Spaces, record: Record) -> Result<Outcome> {
        let now = if record.broken {
            match self.look(spaces, &record)? {
                Some(now) => now,
                None => {
                    self.shared.doom(record.serial);
                    return Ok(Outcome::Again);
                }
            }
        } else {
            record.ends.iter().map(|place| place.end.clone()).collect()
        };
        let wanted = self.wanted(spaces, &record, &now)?;
        self.begin(&record, &wanted);
        if let Err(error) = self.configure_all(spaces, &wanted, &now) {
            if self.has_vanished(spaces, &record) {
                self.shared.doom(record.serial);
                return Ok(Outcome::Vanished(error));
            }
            self.restore(spaces, &record, &wanted);
            return Err(error);
        }
        self.release(&record, &wanted);
        self.settle(wanted);
        Ok(Outcome::Kept)
    }

    /// The record as it is to be.
    fn wanted(&mut self, spaces: &Spaces, record: &Record, now: &[End]) -> Result<Record> {
        let known: Vec<End> = record.ends.iter().map(|place| place.end.clone()).collect();
        let tables = self.tables(spaces, &known)?;
        let macs: Vec<[u8; 6]> = now.iter().map(|end| end.link.mac).collect();
        let mut wanted = record.clone();
        for (place, end) in wanted.ends.iter_mut().zip(self.ends(&macs, tables)) {
            place.end = end;
        }
        Ok(wanted)
    }

    /// Notes that the wire of `record` is being made into `wanted`, and may have of both for a while: what the kernel
    /// reports from here on is our own doing.
    fn begin(&mut self, record: &Record, wanted: &Record) {
        self.shared.hear();
        let mut both = wanted.clone();
        for (place, old) in both.ends.iter_mut().zip(&record.ends) {
            place.end = old.end.union(&place.end);
        }
        self.shared.note(Record {
            settling: true,
            broken: false,
            ..both
        });
    }

    /// Puts back what `record` says, after an attempt at `wanted`.
    fn restore(&mut self, spaces: &Spaces, record: &Record, wanted: &Record) {
        for (half, tried) in halves(spaces, record).into_iter().zip(&wanted.ends) {
            let known = tried.end.union(half.end);
            let done = self.look_at(&half, &known).and_then(|now| match now {
                Some((_, now)) => self.configure(&half, &now, false).map(drop),
                None => Ok(()),
            });
            if let Err(error) = done {
                tracing::warn!(%error, connection = record.connection, "a failed change is not undone");
            }
        }
        self.release(wanted, record);
        let back = Record {
            settling: false,
            broken: true,
            ..record.clone()
        };
        self.shared.note(back);
    }

    /// Gives back the routing tables of `old` that `new` does not have.
    fn release(&self, old: &Record, new: &Record) {
        for (old, new) in old.places().iter().zip(new.places()) {
            let kept: BTreeSet<u32> = new.end.rules.iter().map(|rule| rule.table).collect();
            let tables = old.end.rules.iter().map(|rule| rule.table);
            let gone: Vec<u32> = tables.filter(|table| !kept.contains(table)).collect();
            self.shared.state().release(old.netns, gone);
        }
    }

    /// What the kernel has of the ends. `None`: not all of one device.
    fn look(&mut self, spaces: &Spaces, record: &Record) -> Result<Option<Vec<End>>> {
        let mut found = Vec::with_capacity(record.ends.len());
        for half in halves(spaces, record) {
            match self.look_at(&half, half.end)? {
                Some(seen) => found.push(seen),
                None => return Ok(None),
            }
        }
        let (seen, ends): (Vec<Seen>, Vec<End>) = found.into_iter().unzip();
        let is_whole = match &seen[..] {
            [client, endpoint] => client.peer == endpoint.index && endpoint.peer == client.index,
            _ => true,
        };
        Ok(is_whole.then_some(ends))
    }

    /// What the kernel has of what is `known` of one end, if that is still ours, under its name.
    fn look_at(&mut self, half: &Half<'_>, known: &End) -> Result<Option<(Seen, End)>> {
        let broken = |error| veth::broken(&half.netns.id(), &error);
        let mut socket = self.station.socket(half.netns)?;
        let seen = observe::link(&mut socket, &Which::Index(half.index)).map_err(broken)?;
        let ours = self.shared.group();
        let is_it = |seen: &Seen| {
            let link = &half.end.link;
            seen.group == ours && seen.name == link.name && seen.device == link.device
        };
        let Some(seen) = seen.filter(is_it) else {
            return Ok(None);
        };
        let tables = known.rules.iter().map(|rule| rule.table).collect();
        let Some(end) = observe::end(&mut socket, &seen, Some(&tables)).map_err(broken)? else {
            return Ok(None);
        };
        let mut end = end.only(known);
        end.link.route_localnet = half.end.link.route_localnet;
        end.link.passes = half.end.link.passes;
        Ok(Some((seen, end)))
    }

    /// Moves the endpoint's end of `record` to where it is to be. False: it cannot be moved, so the wire must be made
    /// anew.
    pub(crate) fn replug(&mut self, spaces: &Spaces, record: &Record) -> Result<bool> {
        let ([client, endpoint], [(_, asked), (_, to)], [_, netns]) =
            (&record.ends[..], &self.wire.ends[..], spaces)
        else {
            return Ok(false);
        };
        if client.end.link.name != asked.name {
            return Ok(false);
        }
        let (Some(old), false) = (self.old_endpoint(netns, endpoint, record), record.broken) else {
            return Ok(false);
        };
        let link = Link {
            name: to.name.clone(),
            up: false,
            route_localnet: false,
            ..endpoint.end.link.clone()
        };
        let place = Place {
            netns: netns.id(),
            index: self.index(),
            end: End {
                link,
                ..End::default()
            },
        };
        let moved = Record {
            ends: vec![client.clone(), place.clone()],
            ..record.clone()
        };
        if !self.transfer([&old, netns], [endpoint, &place], record, &moved)? {
            return Ok(false);
        }
        // A kernel before 5.13 moves it but chooses the index itself: then the wire has to be made anew as well.
        let done = self.change(spaces, moved);
        Ok(matches!(done, Ok(Outcome::Kept)))
    }

    /// The namespace where the endpoint's end is, if that is another than where it is to be.
    fn old_endpoint(&mut self, to: &Netns, endpoint: &Place, record: &Record) -> Option<Arc<Netns>> {
        let id = endpoint.netns;
        if id == to.id() {
            return None;
        }
        let asked = record.asked.as_ref().and_then(|asked| asked.ends.last());
        let by_path = asked.and_then(|(_, interface)| self.station.open(&interface.netns).ok());
        let by_path = by_path.filter(|netns| netns.id() == id).map(Arc::new);
        by_path.or_else(|| recover::find(&BTreeSet::from([id])).remove(&id))
    }

    /// Moves an interface `from` one place in namespace `old` to another in namespace `new`.
    fn transfer(
        &mut self,
        [old, new]: [&Netns; 2],
        [from, to]: [&Place; 2],
        record: &Record,
        moved: &Record,
    ) -> Result<bool> {
        self.in_time("begin moving")?;
        self.begin(moved, moved);
        let rules = from.end.rules.iter().cloned().map(Change::RemoveRule);
        let mut requests: Vec<_> = rules.map(|change| change.request(0)).collect();
        requests.push(veth::transfer(from.index, new, &to.end.link.name, to.index));
        let mut socket = self.station.socket(old)?;
        let answers = socket
            .batch(requests)
            .map_err(|error| veth::broken(&old.id(), &error))?;
        match answers.into_iter().next_back() {
            Some(Ok(_)) => {
                let tables = from.end.rules.iter().map(|rule| rule.table);
                self.shared.state().release(from.netns, tables);
                Ok(true)
            }
            refusal => {
                tracing::debug!(
                    ?refusal,
                    connection = record.connection,
                    "an endpoint's end cannot be moved"
                );
                self.shared.note(Record {
                    broken: true,
                    ..record.clone()
                });
                Ok(false)
            }
        }
    }
}
