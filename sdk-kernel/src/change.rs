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
            [record.client.end.clone(), record.endpoint.end.clone()]
        };
        let wanted = self.wanted(spaces, &record, &now)?;
        self.begin(&record, &wanted);
        if let Err(error) = self.configure_both(spaces, &wanted, &now) {
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
    fn wanted(&mut self, spaces: &Spaces, record: &Record, now: &[End; 2]) -> Result<Record> {
        let tables = self.tables(spaces, [&record.client.end, &record.endpoint.end])?;
        let [client, endpoint] = self.ends([now[0].link.mac, now[1].link.mac], tables);
        Ok(Record {
            client: Place {
                end: client,
                ..record.client.clone()
            },
            endpoint: Place {
                end: endpoint,
                ..record.endpoint.clone()
            },
            ..record.clone()
        })
    }

    /// Notes that the wire of `record` is being made into `wanted`, and may have of both for a while: what the kernel
    /// reports from here on is our own doing.
    fn begin(&mut self, record: &Record, wanted: &Record) {
        self.shared.hear();
        let mut both = wanted.clone();
        both.client.end = record.client.end.union(&wanted.client.end);
        both.endpoint.end = record.endpoint.end.union(&wanted.endpoint.end);
        self.shared.note(Record {
            settling: true,
            broken: false,
            ..both
        });
    }

    /// Puts back what `record` says, after an attempt at `wanted`.
    fn restore(&mut self, spaces: &Spaces, record: &Record, wanted: &Record) {
        let tried = [&wanted.client.end, &wanted.endpoint.end];
        for (half, tried) in halves(spaces, record).into_iter().zip(tried) {
            let known = tried.union(half.end);
            let done = self.look_at(&half, &known).and_then(|now| match now {
                Some((_, now)) => self.configure(&half, &now).map(drop),
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
        for (old, new) in old.places().into_iter().zip(new.places()) {
            let kept: BTreeSet<u32> = new.end.rules.iter().map(|rule| rule.table).collect();
            let tables = old.end.rules.iter().map(|rule| rule.table);
            let gone: Vec<u32> = tables.filter(|table| !kept.contains(table)).collect();
            self.shared.state().release(old.netns, gone);
        }
    }

    /// What the kernel has of both ends. `None`: not both of one pair.
    fn look(&mut self, spaces: &Spaces, record: &Record) -> Result<Option<[End; 2]>> {
        let mut found = Vec::with_capacity(2);
        for half in halves(spaces, record) {
            match self.look_at(&half, half.end)? {
                Some(seen) => found.push(seen),
                None => return Ok(None),
            }
        }
        let Ok([(client, client_end), (endpoint, endpoint_end)]) = <[(Seen, End); 2]>::try_from(found) else {
            return Ok(None);
        };
        let is_pair = client.peer == endpoint.index && endpoint.peer == client.index;
        Ok(is_pair.then_some([client_end, endpoint_end]))
    }

    /// What the kernel has of what is `known` of one end, if that is still ours, under its name.
    fn look_at(&mut self, half: &Half<'_>, known: &End) -> Result<Option<(Seen, End)>> {
        let broken = |error| veth::broken(&half.netns.id(), &error);
        let mut socket = self.station.socket(half.netns)?;
        let seen = observe::link(&mut socket, &Which::Index(half.index)).map_err(broken)?;
        let ours = self.shared.group();
        let Some(seen) = seen.filter(|seen| seen.group == ours && seen.name == half.end.link.name) else {
            return Ok(None);
        };
        let tables = known.rules.iter().map(|rule| rule.table).collect();
        let Some(end) = observe::end(&mut socket, &seen, Some(&tables)).map_err(broken)? else {
            return Ok(None);
        };
        let mut end = end.only(known);
        end.link.route_localnet = half.end.link.route_localnet;
        Ok(Some((seen, end)))
    }

    /// Moves the endpoint's end of `record` to where it is to be. False: it cannot be moved, so the wire must be made
    /// anew.
    pub(crate) fn replug(&mut self, spaces: &Spaces, record: &Record) -> Result<bool> {
        let (Some(old), false) = (self.old_endpoint(spaces, record), record.broken) else {
            return Ok(false);
        };
        let link = Link {
            name: self.wire.endpoint.name.clone(),
            up: false,
            route_localnet: false,
            ..record.endpoint.end.link.clone()
        };
        let mut moved = record.clone();
        moved.endpoint = Place {
            netns: spaces.endpoint.id(),
            index: self.index(),
            end: End {
                link,
                ..End::default()
            },
        };
        if !self.transfer(&old, spaces, record, &moved)? {
            return Ok(false);
        }
        // A kernel before 5.13 moves it but chooses the index itself: then the wire has to be made anew as well.
        let done = self.change(spaces, moved);
        Ok(matches!(done, Ok(Outcome::Kept)))
    }

    /// The namespace where the endpoint's end is, if that is another than where it is to be.
    fn old_endpoint(&mut self, spaces: &Spaces, record: &Record) -> Option<Arc<Netns>> {
        let id = record.endpoint.netns;
        if id == spaces.endpoint.id() {
            return None;
        }
        let path = record.asked.as_ref().map(|wire| &wire.endpoint.netns);
        let by_path = path.and_then(|path| self.station.open(path).ok());
        let by_path = by_path.filter(|netns| netns.id() == id).map(Arc::new);
        by_path.or_else(|| recover::find(&BTreeSet::from([id])).remove(&id))
    }

    fn transfer(&mut self, old: &Netns, spaces: &Spaces, record: &Record, moved: &Record) -> Result<bool> {
        self.in_time("begin moving")?;
        self.begin(moved, moved);
        let rules = record.endpoint.end.rules.iter().cloned().map(Change::RemoveRule);
        let mut requests: Vec<_> = rules.map(|change| change.request(0)).collect();
        let name = &moved.endpoint.end.link.name;
        requests.push(veth::transfer(
            record.endpoint.index,
            &spaces.endpoint,
            name,
            moved.endpoint.index,
        ));
        let mut socket = self.station.socket(old)?;
        let answers = socket
            .batch(requests)
            .map_err(|error| veth::broken(&old.id(), &error))?;
        match answers.into_iter().next_back() {
            Some(Ok(_)) => {
                let tables = record.endpoint.end.rules.iter().map(|rule| rule.table);
                self.shared.state().release(record.endpoint.netns, tables);
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
