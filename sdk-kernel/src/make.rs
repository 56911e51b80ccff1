// SPDX-License-Identifier: Apache-2.0
//! Makes a wire be, whatever is there: what runs on a thread of ours for one [`connect`](crate::Kernel).
//!
//! **Guarantees**: what this began it finishes or undoes, whoever still waits. What was there before a failed change
//! is put back. An interface that is not ours is never touched.
//! **Cost**: a new wire three round trips to the kernel; a changed one a round trip for each end that changes; one
//! that may have been tampered with 0.2 ms more, for looking.

use std::sync::Arc;

use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::{Payload, Wire};
use rand::Rng;
use rustix::io::Errno;
use tokio::time::Instant;

use crate::end::{End, Frame};
use crate::netns::Netns;
use crate::observe::{self, Which};
use crate::outcome::{Outcome, Undo};
use crate::record::{Place, Record};
use crate::shared::{Claim, Shared};
use crate::station::Station;
use crate::veth::{self, Half, Settling};

/// Interface indexes of ours begin here: the kernel counts from 1 and does not get this far.
const FIRST_INDEX: u32 = 1 << 24;

/// One attempt at making `wire` be.
pub(crate) struct Attempt<'a> {
    pub(crate) station: &'a mut Station,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) claim: &'a Arc<Claim>,
    pub(crate) wire: &'a Wire,
    /// Whether the connection has had a wire before.
    pub(crate) is_refresh: bool,
    pub(crate) deadline: Instant,
    /// Whether the kernel reports what happens in both namespaces.
    pub(crate) is_watched: bool,
}

/// The namespaces of a wire, open.
pub(crate) struct Spaces {
    pub(crate) client: Arc<Netns>,
    pub(crate) endpoint: Arc<Netns>,
}

impl Attempt<'_> {
    /// Makes the attempt.
    pub(crate) fn run(mut self) -> Result<Outcome> {
        self.in_time("begin")?;
        let client = Arc::new(self.station.open(&self.wire.client.netns)?);
        let endpoint = Arc::new(self.station.open(&self.wire.endpoint.netns)?);
        let spaces = Spaces { client, endpoint };
        self.is_watched = self.shared.monitor().is_some_and(|monitor| {
            let mut watch = |netns| monitor.watch(&mut self.station.node, netns);
            watch(&spaces.client) && watch(&spaces.endpoint)
        });
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
        let undo = Undo::new(self.shared, self.claim, record.serial);
        let made = [bare(&record.client.end), bare(&record.endpoint.end)];
        let done = self.configure_both(spaces, &record, &made);
        Ok(match done {
            Ok(()) => {
                self.settle(record);
                Outcome::Made(undo)
            }
            Err(error) if self.has_vanished(spaces, &record) => Outcome::Vanished(error),
            Err(error) => Outcome::Undone(error),
        })
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
        let none = [End::default(), End::default()];
        let tables = self.tables(spaces, [&none[0], &none[1]])?;
        let macs = self
            .shared
            .component
            .random(Rng::random::<[[u8; 6]; 2]>)
            .map(local);
        let indexes = [self.index(), self.index()];
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

    /// An index that no interface has, most likely.
    pub(crate) fn index(&self) -> u32 {
        let indexes = FIRST_INDEX..i32::MAX.unsigned_abs();
        self.shared
            .component
            .random(|random| random.random_range(indexes))
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
        let is_first = !self.shared.state().is_prepared(half.netns.id());
        let settling = veth::configure(self.station, half, now, is_first)?;
        self.shared.state().prepare(half.netns.id());
        Ok(settling)
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
