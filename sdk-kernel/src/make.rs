// SPDX-License-Identifier: Apache-2.0
//! Makes a wire be, whatever is there: what runs on a thread of ours for one [`connect`](crate::Kernel).
//!
//! **Guarantees**: what this began it finishes or undoes, whoever still waits. What was there before a failed change
//! is put back. An interface that is not ours is never touched.
//! **Cost**: a new wire three round trips to the kernel; a changed one a round trip for each end that changes; one
//! that may have been tampered with 0.2 ms more, for looking.

use std::collections::BTreeSet;
use std::sync::Arc;

use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::{Interface, Payload, Wire};
use rand::Rng;
use rustix::io::Errno;
use tokio::time::Instant;
use tonic::Code;

use crate::doomed::Remains;
use crate::end::{End, Frame, families};
use crate::netns::Netns;
use crate::observe::{self, Seen, Which};
use crate::shared::Shared;
use crate::state::{Place, Record};
use crate::station::Station;
use crate::veth::{self, Half, Settling};

/// Interface indexes of ours begin here: the kernel counts from 1 and does not get this far.
pub(crate) const FIRST_INDEX: u32 = 1 << 24;

/// What an attempt came to.
pub(crate) enum Outcome {
    /// The wire is there and new.
    Made(Undo),
    /// The wire is there and was before.
    Kept,
    /// Something had to be removed first: try again when it is gone.
    Again,
    /// It did not work, and what there was of it is being removed.
    Undone(Error),
}

/// Removes a new wire when its maker goes without [keeping](Undo::keep) it.
pub(crate) struct Undo {
    shared: Arc<Shared>,
    serial: Option<u64>,
}

impl Undo {
    /// The wire has an owner now.
    pub(crate) fn keep(mut self) {
        self.serial = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(serial) = self.serial {
            self.shared.doom(serial);
        }
    }
}

/// One attempt at making `wire` be.
pub(crate) struct Attempt<'a> {
    pub(crate) station: &'a mut Station,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) wire: &'a Wire,
    /// Whether the connection has had a wire before.
    pub(crate) is_refresh: bool,
    pub(crate) deadline: Instant,
}

/// The namespaces of a wire, open.
pub(crate) struct Spaces {
    pub(crate) client: Arc<Netns>,
    pub(crate) endpoint: Arc<Netns>,
}

impl Attempt<'_> {
    /// Makes the attempt.
    pub(crate) fn run(&mut self) -> Result<Outcome> {
        self.in_time("begin")?;
        let client = Arc::new(self.station.open(&self.wire.client.netns)?);
        let endpoint = Arc::new(self.station.open(&self.wire.endpoint.netns)?);
        let spaces = Spaces { client, endpoint };
        let found = self
            .shared
            .state()
            .find(&self.wire.connection, spaces.client.id())
            .cloned();
        let Some(record) = found else {
            return self.create(&spaces);
        };
        if record.is(self.wire, spaces.client.id(), spaces.endpoint.id()) {
            return self.change(&spaces, record);
        }
        if record.client.end.link.name == self.wire.client.name && self.replug(&spaces, &record)? {
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

    /// Makes a pair where there is none.
    fn create(&mut self, spaces: &Spaces) -> Result<Outcome> {
        self.shared.has_room()?;
        let record = self.draft(spaces)?;
        self.shared.note(record.clone());
        if let Some(monitor) = self.shared.monitor() {
            monitor.watch(&mut self.station.node, &[&spaces.client, &spaces.endpoint]);
        }
        let [first, second] = halves(spaces, &record);
        let request = veth::pair(&first, &second, self.shared.group());
        match veth::execute(self.station, request) {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) if refusal.errno == Errno::EXIST => {
                self.shared.forget(&record);
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
        let undo = Undo {
            shared: self.shared.clone(),
            serial: Some(record.serial),
        };
        let mut made = [bare(&record.client.end), bare(&record.endpoint.end)];
        made[0].link.up = true;
        let done = self.configure_both(spaces, &record, &made);
        let done = done.map(|()| self.settle(record));
        Ok(match done {
            Ok(()) => Outcome::Made(undo),
            Err(error) => Outcome::Undone(error),
        })
    }

    /// What a new wire will be.
    fn draft(&mut self, spaces: &Spaces) -> Result<Record> {
        let none = [End::default(), End::default()];
        let tables = self.tables(spaces, [&none[0], &none[1]])?;
        let (macs, indexes) = self.shared.component.random(|random| {
            let mac: [u8; 6] = random.random();
            let other: [u8; 6] = random.random();
            let mut index = || random.random_range(FIRST_INDEX..i32::MAX as u32);
            ([local(mac), local(other)], [index(), index()])
        });
        let [client, endpoint] = self.ends(macs, tables);
        let place = |netns: &Netns, index, end| Place {
            netns: netns.id(),
            index,
            end,
        };
        Ok(Record {
            serial: self.shared.state().serial(),
            connection: self.wire.connection.clone(),
            client: place(&spaces.client, indexes[0], client),
            endpoint: place(&spaces.endpoint, indexes[1], endpoint),
            asked: None,
            settling: true,
            broken: false,
            orphan: false,
        })
    }

    /// What both ends are to be, with these MAC addresses where the context names none.
    pub(crate) fn ends(&self, macs: [[u8; 6]; 2], tables: [Vec<u32>; 2]) -> [End; 2] {
        let wire = self.wire;
        let macs = [
            wire.client.mac.unwrap_or(macs[0]),
            wire.endpoint.mac.unwrap_or(macs[1]),
        ];
        let peer = |mac| (wire.payload == Payload::Ip).then_some(mac);
        let [client, endpoint] = tables;
        let frame = |side: &str, mac, peer, tables| Frame {
            alias: alias(side, &wire.connection),
            mtu: wire.mtu,
            mac,
            peer,
            tables,
        };
        [
            End::render(&wire.client, frame("server", macs[0], peer(macs[1]), client)),
            End::render(&wire.endpoint, frame("client", macs[1], peer(macs[0]), endpoint)),
        ]
    }

    /// The routing table of each policy of both ends: the one that it has in `now`, or one that nobody uses.
    pub(crate) fn tables(&mut self, spaces: &Spaces, now: [&End; 2]) -> Result<[Vec<u32>; 2]> {
        let client = self.tables_in(&spaces.client, &self.wire.client, now[0])?;
        match self.tables_in(&spaces.endpoint, &self.wire.endpoint, now[1]) {
            Ok(endpoint) => Ok([client, endpoint]),
            Err(error) => {
                let known = |table: &u32| now[0].rules.iter().any(|rule| rule.table == *table);
                let new = client.into_iter().filter(|table| !known(table));
                self.shared.state().release(spaces.client.id(), new);
                Err(error)
            }
        }
    }

    fn tables_in(&mut self, netns: &Netns, interface: &Interface, now: &End) -> Result<Vec<u32>> {
        let mut used = BTreeSet::new();
        let mut known: Vec<Option<u32>> = Vec::with_capacity(interface.policies.len());
        for policy in &interface.policies {
            let mut of = now
                .rules
                .iter()
                .filter(|rule| rule.selects(policy))
                .map(|rule| rule.table);
            let table = of.find(|table| !used.contains(table));
            used.extend(table);
            // One that selects nothing needs no table.
            let is_empty = families(policy, interface).is_empty();
            known.push(table.or(is_empty.then_some(0)));
        }
        let missing = known.iter().filter(|table| table.is_none()).count();
        if missing == 0 {
            return Ok(known.into_iter().flatten().collect());
        }
        let mut socket = self.station.socket(netns)?;
        let taken = observe::tables(&mut socket).map_err(|error| veth::broken(&netns.id(), &error))?;
        let mut new = self
            .shared
            .state()
            .allocate(netns.id(), missing, &taken)
            .into_iter();
        Ok(known
            .into_iter()
            .filter_map(|table| table.or_else(|| new.next()))
            .collect())
    }

    /// Makes both ends of `record` from `now` into what they are to be: the endpoint's first.
    pub(crate) fn configure_both(&mut self, spaces: &Spaces, record: &Record, now: &[End; 2]) -> Result<()> {
        let [client, endpoint] = halves(spaces, record);
        self.in_time("go on")?;
        let second = self.configure(&endpoint, &now[1])?;
        self.in_time("finish")?;
        let first = self.configure(&client, &now[0])?;
        // When one end is raised, the other gets its carrier too.
        let is_raised = [&first, &second]
            .into_iter()
            .flatten()
            .any(|settling| settling.is_raised);
        for (half, settling) in [(endpoint, second), (client, first)] {
            let settling = match settling {
                Some(settling) => settling,
                None if is_raised => Settling {
                    socket: self.station.socket(half.netns)?,
                    index: half.index,
                    is_raised,
                    addresses: Vec::new(),
                },
                None => continue,
            };
            Settling {
                is_raised,
                ..settling
            }
            .wait();
        }
        Ok(())
    }

    /// Makes one end from `now` into what it is to be. Returns what is to be waited for.
    pub(crate) fn configure(&mut self, half: &Half<'_>, now: &End) -> Result<Option<Settling>> {
        let is_first = self.shared.state().prepare(half.netns.id());
        veth::configure(self.station, half, now, is_first)
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
        let is_gone = self
            .shared
            .state()
            .get(record.serial)
            .is_none_or(|noted| noted.broken);
        self.shared.note(Record {
            broken: is_gone,
            ..record
        });
    }

    /// A name is taken: by a stranger, which is an error; by what an earlier life made for this connection, which
    /// is adopted; or by an interface of ours that is in the way, which goes.
    fn make_way(&mut self, spaces: &Spaces) -> Result<Outcome> {
        let client = self.holder(&spaces.client, &self.wire.client.name)?;
        let endpoint = self.holder(&spaces.endpoint, &self.wire.endpoint.name)?;
        if let (Some(client), Some(endpoint)) = (&client, &endpoint)
            && client.0.alias == alias("server", &self.wire.connection)
            && endpoint.0.alias == alias("client", &self.wire.connection)
            && (client.0.peer, client.0.index) == (endpoint.0.index, endpoint.0.peer)
        {
            let record = Record {
                serial: self.shared.state().serial(),
                connection: self.wire.connection.clone(),
                client: client.1.clone(),
                endpoint: endpoint.1.clone(),
                asked: None,
                settling: false,
                broken: true,
                orphan: true,
            };
            self.shared.note(record);
            return Ok(Outcome::Again);
        }
        for (netns, holder) in [(&spaces.client, client), (&spaces.endpoint, endpoint)] {
            if let Some((seen, place)) = holder {
                self.evict(netns, &seen, place)?;
            }
        }
        Ok(Outcome::Again)
    }

    /// The interface that has the wanted name, if it is one of ours.
    fn holder(&mut self, netns: &Netns, name: &str) -> Result<Option<(Seen, Place)>> {
        let broken = |error| veth::broken(&netns.id(), &error);
        let mut socket = self.station.socket(netns)?;
        let Some(seen) = observe::link(&mut socket, &Which::Name(name)).map_err(broken)? else {
            return Ok(None);
        };
        if ![self.shared.group(), self.shared.doomed_group()].contains(&seen.group) {
            return Err(taken(netns, &seen, "was not made by this forwarder"));
        }
        let place = observe::place(&mut socket, netns.id(), &seen).map_err(broken)?;
        Ok(Some((seen, place)))
    }

    /// Removes an interface of ours that another connection has, or had in an earlier life.
    fn evict(&mut self, netns: &Arc<Netns>, seen: &Seen, place: Place) -> Result<()> {
        let holder = self.shared.state().by_index(seen.index).cloned();
        match holder {
            // The one who comes back for its own wire does not get another's; the newcomer does.
            Some(record) if record.settling || (self.is_refresh && !record.orphan) => {
                return Err(taken(netns, seen, "belongs to another connection"));
            }
            Some(record) => self.shared.doom(record.serial),
            None => {
                let remains = Remains {
                    place,
                    netns: Some(netns.clone()),
                    path: None,
                };
                self.shared.doom_remains(None, vec![remains]);
            }
        }
        Ok(())
    }

    /// What is being tried, for errors.
    fn aim(&self) -> String {
        let Wire { client, endpoint, .. } = self.wire;
        format!(
            "make the pair {} in {} and {} in {}",
            client.name,
            client.netns.display(),
            endpoint.name,
            endpoint.netns.display()
        )
    }
}

fn taken(netns: &Netns, seen: &Seen, why: &str) -> Error {
    let alias = if seen.alias.is_empty() {
        String::new()
    } else {
        format!(" (alias {})", seen.alias)
    };
    Error::new(
        Code::AlreadyExists,
        "interface-taken",
        format!(
            "the name {} is taken in {} by interface {}{alias}, which {why}; remove or rename that interface, or ask \
             for another name in the service URL",
            seen.name,
            netns.id(),
            seen.index
        ),
    )
}

/// The alias that says whose interface it is: `server` faces the client.
pub(crate) fn alias(side: &str, connection: &str) -> String {
    format!("{side}-{connection}")
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

/// Both ends of `record` with their namespaces.
pub(crate) fn halves<'a>(spaces: &'a Spaces, record: &'a Record) -> [Half<'a>; 2] {
    let half = |netns, place: &'a Place| Half {
        netns,
        index: place.index,
        end: &place.end,
    };
    [
        half(&*spaces.client, &record.client),
        half(&*spaces.endpoint, &record.endpoint),
    ]
}
