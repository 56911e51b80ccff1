// SPDX-License-Identifier: Apache-2.0
//! Makes a wire be, whatever is there: what runs on a thread of ours for one [`connect`](crate::Kernel).
//!
//! **Guarantees**: what this began it finishes or undoes, whoever still waits. What was there before a failed change
//! is put back. An interface that is not ours is never touched.
//! **Cost**: a new wire four round trips to the kernel, and looks until it has its carrier; a changed one a round trip for each end that changes; one
//! that may have been tampered with 0.2 ms more, for looking.

use std::sync::Arc;

use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::{Interface, Payload, Route};
use rand::Rng;
use rustix::io::Errno;
use tokio::time::Instant;

use crate::asked::{Asked, Device};
use crate::end::{End, Frame};
use crate::netns::{Netns, NetnsId};
use crate::observe::{self, Which};
use crate::outcome::{Outcome, Undo};
use crate::plan::Change;
use crate::record::{Place, Record};
use crate::shared::{Claim, Shared};
use crate::station::Station;
use crate::veth::{self, Half, Settling};
use crate::vxlan;

/// Interface indexes of ours begin here: the kernel counts from 1 and does not get this far.
const FIRST_INDEX: u32 = 1 << 24;

/// One attempt at making `wire` be.
pub(crate) struct Attempt<'a> {
    pub(crate) station: &'a mut Station,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) claim: &'a Arc<Claim>,
    pub(crate) wire: &'a Asked,
    /// Whether the connection has had a wire before.
    pub(crate) is_refresh: bool,
    pub(crate) deadline: Instant,
    /// Whether the kernel reports what happens in both namespaces.
    pub(crate) is_watched: bool,
}

/// The namespaces of a wire's ends, open.
pub(crate) type Spaces = [Arc<Netns>];

impl Attempt<'_> {
    /// Makes the attempt.
    pub(crate) fn run(mut self) -> Result<Outcome> {
        self.in_time("begin")?;
        let open = |interface: &Interface| self.station.open(&interface.netns).map(Arc::new);
        let spaces = self
            .wire
            .interfaces()
            .map(open)
            .collect::<Result<Vec<Arc<Netns>>>>()?;
        self.is_watched = self.shared.monitor().is_some_and(|monitor| {
            let mut watch = |netns: &Arc<Netns>| monitor.watch(&mut self.station.node, netns);
            spaces.iter().all(&mut watch)
        });
        let ids: Vec<NetnsId> = spaces.iter().map(|netns| netns.id()).collect();
        let first = self.wire.ends.first().map(|(face, _)| *face).zip(ids.first());
        let found = first.and_then(|(face, netns)| {
            let state = self.shared.state();
            state.find(&self.wire.connection, face, *netns).cloned()
        });
        let Some(record) = found else {
            return self.create(&spaces);
        };
        if record.is(self.wire, &ids) {
            return self.change(&spaces, record);
        }
        if let Some(record) = self.put_back(&spaces, &record) {
            return self.change(&spaces, record);
        }
        if self.replug(&spaces, &record)? {
            return Ok(Outcome::Kept);
        }
        self.shared.doom(record.serial);
        Ok(Outcome::Again)
    }

    pub(crate) fn in_time(&self, what: &str) -> Result<()> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        let connection = &self.wire.connection;
        Err(Error::deadline(format!(
            "could not {what} making the wire of connection {connection} in time"
        )))
    }

    /// Makes a device where there is none.
    fn create(&mut self, spaces: &Spaces) -> Result<Outcome> {
        self.shared.has_room()?;
        let record = self.draft(spaces)?;
        if self.wire.device == Device::WireGuard {
            return self.take_up(spaces, record);
        }
        self.note_draft(&record);
        let group = self.shared.group();
        let request = match (&halves(spaces, &record)[..], self.wire.device) {
            ([first, second], Device::Veth) => veth::pair(first, second, group),
            ([only], Device::Vxlan(vxlan)) => vxlan::device(only, &vxlan, group),
            (_, device) => return Err(odd(self.wire, device)),
        };
        match veth::execute(self.station, request) {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) if refusal.errno == Errno::EXIST => {
                self.shared.forget(&record);
                if let (Device::Vxlan(vxlan), true) = (self.wire.device, vxlan::is_taken(&refusal)) {
                    return self.make_number_free(&vxlan);
                }
                return self.make_way(spaces);
            }
            Ok(Err(refusal)) => {
                self.shared.forget(&record);
                return Err(veth::refused(&self.aim(), &refusal));
            }
            Err(error) => {
                // Nobody knows whether there is a pair now.
                self.shared.doom(record.serial);
                return Ok(Outcome::Undone(error));
            }
        }
        let made: Vec<End> = record.ends.iter().map(|place| bare(&place.end)).collect();
        Ok(self.furnish(spaces, record, &made))
    }

    /// Notes a wire that is being made, and for whoever may have to remove it where it is: nobody need live there whose
    /// namespace could be found otherwise.
    fn note_draft(&self, record: &Record) {
        self.shared.note(record.clone());
        if let Some(noted) = self.shared.state().get(record.serial) {
            noted.asked = Some(self.wire.clone());
        }
    }

    /// Puts on the device that an engine has made what belongs there.
    fn take_up(&mut self, spaces: &Spaces, mut record: Record) -> Result<Outcome> {
        let (Some(netns), [place]) = (spaces.first(), &mut record.ends[..]) else {
            return Err(odd(self.wire, self.wire.device));
        };
        let mut socket = self.station.socket(netns)?;
        let seen = observe::link(&mut socket, &Which::Name(&place.end.link.name));
        let seen = seen.map_err(|error| veth::broken(&netns.id(), &error))?;
        let Some(seen) = seen.filter(|seen| seen.device == Device::WireGuard) else {
            let text = format!("could not {}: it is not there, or of another kind", self.aim());
            return Err(Error::unavailable("interface-gone", text));
        };
        place.index = seen.index;
        place.end.link.mac = seen.mac;
        let made = [bare(&place.end)];
        self.note_draft(&record);
        Ok(self.furnish(spaces, record, &made))
    }

    /// Makes devices that are there into what `record` says, from what they are `now`.
    fn furnish(&mut self, spaces: &Spaces, record: Record, now: &[End]) -> Outcome {
        let undo = Undo::new(self.shared, self.claim, record.serial);
        match self.configure_all(spaces, &record, now) {
            Ok(()) => {
                self.settle(record);
                Outcome::Made(undo)
            }
            Err(error) if self.has_vanished(spaces, &record) => Outcome::Vanished(error),
            Err(error) => Outcome::Undone(error),
        }
    }

    /// Whether an end of `record`, on which something has failed, is not there any more: who lives in its namespace
    /// can remove it at any moment, and what is done to it then fails in many ways.
    pub(crate) fn has_vanished(&mut self, spaces: &Spaces, record: &Record) -> bool {
        halves(spaces, record).into_iter().any(|half| {
            let socket = self.station.socket(half.netns).ok();
            let seen = socket.map(|mut socket| observe::link(&mut socket, &Which::Index(half.index)));
            matches!(seen, Some(Ok(None)))
        })
    }

    /// What a new wire will be.
    fn draft(&mut self, spaces: &Spaces) -> Result<Record> {
        let tables = self.tables(spaces, &vec![End::default(); spaces.len()])?;
        let random = || local(self.shared.component.random(Rng::random::<[u8; 6]>));
        let macs: Vec<[u8; 6]> = spaces.iter().map(|_| random()).collect();
        let ends = self.ends(&macs, tables).into_iter().zip(spaces);
        let place = |(end, netns): (End, &Arc<Netns>)| Place {
            netns: netns.id(),
            index: self.index(),
            end,
        };
        Ok(Record {
            serial: self.shared.state().serial(),
            connection: self.wire.connection.clone(),
            ends: ends.map(place).collect(),
            asked: None,
            settling: true,
            broken: false,
            orphan: false,
            joined: None,
        })
    }

    /// An index that no interface has, most likely.
    pub(crate) fn index(&self) -> u32 {
        let indexes = FIRST_INDEX..i32::MAX.unsigned_abs();
        self.shared
            .component
            .random(|random| random.random_range(indexes))
    }

    /// What the ends are to be, with these MAC addresses where the context names none.
    pub(crate) fn ends(&self, macs: &[[u8; 6]], tables: Vec<Vec<u32>>) -> Vec<End> {
        let wire = self.wire;
        let named = wire.interfaces().zip(macs);
        let macs: Vec<[u8; 6]> = named
            .map(|(interface, mac)| interface.mac.unwrap_or(*mac))
            .collect();
        let is_known = wire.payload == Payload::Ip && wire.device == Device::Veth;
        let mut ends = Vec::with_capacity(macs.len());
        for (at, ((face, interface), tables)) in wire.ends.iter().zip(tables).enumerate() {
            let peer = macs.iter().enumerate().find(|(other, _)| *other != at);
            let frame = Frame {
                device: wire.device,
                alias: face.alias(&wire.connection),
                mtu: wire.mtu,
                mac: macs.get(at).copied().unwrap_or_default(),
                peer: peer.map(|(_, mac)| *mac).filter(|_| is_known),
                tables,
            };
            ends.push(End::render(interface, frame));
        }
        ends
    }

    /// Makes the ends of `record` from `now` into what they are to be: the endpoint's first, and the client's, who has
    /// asked for it and waits to send, when both have a carrier. In place of another wire both have their routes then,
    /// with which they take its packets over.
    pub(crate) fn configure_all(&mut self, spaces: &Spaces, record: &Record, now: &[End]) -> Result<()> {
        let halves = halves(spaces, record);
        let both_wait = self.is_replacement(record);
        let mut settling = Vec::with_capacity(halves.len());
        for (at, (half, now)) in halves.iter().zip(now).enumerate().rev() {
            self.in_time("go on")?;
            settling.push((half, self.configure(half, now, at == 0 || both_wait)?));
        }
        // When one end is raised, the other gets its carrier too.
        if settling.iter().flat_map(|(_, end)| end).any(|end| end.is_raised) {
            for (half, end) in &mut settling {
                match end {
                    Some(end) => end.wait(),
                    None => Settling::new(self.station.socket(half.netns)?, half.index).wait(),
                }
            }
        }
        for (half, end) in settling {
            if let Some(end) = end {
                end.finish(half)?;
            }
        }
        Ok(())
    }

    /// Makes one end from `now` into what it is to be; what [`waits`](veth::configure) is left to the caller.
    pub(crate) fn configure(&mut self, half: &Half<'_>, now: &End, waits: bool) -> Result<Option<Settling>> {
        let is_first = !self.shared.state().is_prepared(half.netns.id());
        let settling = veth::configure(self.station, half, now, is_first, waits)?;
        if !half.end.link.passes {
            self.shared.state().prepare(half.netns.id());
        }
        self.give_back(half, now)?;
        Ok(settling)
    }

    /// Sets the routes again that `half` had in place of others of its namespace, and has no more.
    fn give_back(&mut self, half: &Half<'_>, now: &End) -> Result<()> {
        let is_lost = |route: &&(u32, Route)| !half.end.routes.contains(route);
        let lost: Vec<_> = now.routes.iter().filter(is_lost).cloned().collect();
        if lost.is_empty() {
            return Ok(());
        }
        let others = self.shared.state().also_to(half.netns.id(), half.index, &lost);
        if others.is_empty() {
            return Ok(());
        }
        let set = |(index, table, route)| Change::SetRoute(table, route).request(index);
        let mut socket = self.station.socket(half.netns)?;
        let answers = socket.batch(others.into_iter().map(set).collect());
        for refusal in answers.map_err(|error| veth::broken(&half.netns.id(), &error))? {
            if let Err(refusal) = refusal {
                tracing::debug!(errno = %refusal.errno, "a route of another wire stays away until its refresh");
            }
        }
        Ok(())
    }

    /// Notes that `record` is as it was asked for.
    pub(crate) fn settle(&mut self, record: Record) {
        let record = Record {
            asked: Some(self.wire.clone()),
            settling: false,
            broken: false,
            orphan: false,
            ..record
        };
        // What the kernel has reported until here we have caused ourselves, except that an interface is gone.
        self.shared.hear();
        let noted = self.shared.state().get(record.serial).map(|noted| noted.broken);
        let broken = noted.unwrap_or(true) || !self.is_watched;
        self.shared.note(Record { broken, ..record });
    }
}

/// There is no such device.
fn odd(wire: &Asked, device: Device) -> Error {
    let text = format!("{} ends cannot be of one {device:?}", wire.ends.len());
    Error::internal("kernel", text)
}

/// A MAC address that is nobody's: locally administered, of one station.
fn local(mut mac: [u8; 6]) -> [u8; 6] {
    mac[0] = (mac[0] & 0xfe) | 0x02;
    mac
}

/// What an end is right after it was made.
fn bare(end: &End) -> End {
    let mut link = end.link.clone();
    link.alias.clear();
    link.up = false;
    link.route_localnet = false;
    End {
        link,
        ..End::default()
    }
}

/// The ends of `record` with their namespaces.
pub(crate) fn halves<'a>(spaces: &'a Spaces, record: &'a Record) -> Vec<Half<'a>> {
    let half = |(netns, place): (&'a Arc<Netns>, &'a Place)| Half {
        netns,
        index: place.index,
        end: &place.end,
    };
    spaces.iter().zip(&record.ends).map(half).collect()
}
