// SPDX-License-Identifier: Apache-2.0
//! What this program knows of its wires, shared by the threads that make, remove and watch them.
//!
//! **Guarantees**: a name that is being removed, a routing table and a connection in work belong to one owner at a
//! time. No lock is held while the kernel is asked anything.
//! **Cost**: look-ups in maps under one lock; about 1 KiB a wire.

use std::collections::{BTreeSet, HashMap, HashSet};

use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::{Interface, Wire};
use serde::{Deserialize, Serialize};

use crate::doomed::Remains;
use crate::end::{End, RESERVED, Rule};
use crate::netns::NetnsId;

/// How many wires one data plane keeps.
pub(crate) const MAX_WIRES: usize = 65_536;

/// How many namespaces are remembered for what was done in them once.
const MAX_PREPARED: usize = 65_536;

/// One end of a wire, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) netns: NetnsId,
    pub(crate) index: u32,
    pub(crate) end: End,
}

impl Place {
    /// The namespace and the name: what only one interface can have.
    pub(crate) fn key(&self) -> (NetnsId, String) {
        (self.netns, self.end.link.name.clone())
    }

    fn is(&self, netns: NetnsId, interface: &Interface) -> bool {
        self.netns == netns && self.end.link.name == interface.name
    }
}

/// A wire that is there, or is being made.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Distinguishes it from every other wire, of this and of earlier lives of the program.
    pub(crate) serial: u64,
    pub(crate) connection: String,
    pub(crate) client: Place,
    pub(crate) endpoint: Place,
    /// What the ends were made from; unknown when an earlier life made them.
    pub(crate) asked: Option<Wire>,
    /// It is being worked on: what the kernel reports of it is our own doing.
    pub(crate) settling: bool,
    /// The kernel's state may differ from what is noted here.
    pub(crate) broken: bool,
    /// An earlier life made it, and nobody has asked for it since.
    pub(crate) orphan: bool,
}

impl Record {
    pub(crate) fn places(&self) -> [&Place; 2] {
        [&self.client, &self.endpoint]
    }

    /// Whether its ends are those that `wire` names, in these namespaces.
    pub(crate) fn is(&self, wire: &Wire, client: NetnsId, endpoint: NetnsId) -> bool {
        self.client.is(client, &wire.client) && self.endpoint.is(endpoint, &wire.endpoint)
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct State {
    next: u64,
    records: HashMap<u64, Record>,
    /// The records of each connection: one, or one a hop where a connection passes through this node twice.
    connections: HashMap<String, Vec<u64>>,
    /// The record of each interface, by its index, which we choose so that no two are the same.
    indexes: HashMap<u32, u64>,
    /// Names on their way out.
    doomed: HashMap<(NetnsId, String), usize>,
    /// The routing tables of each namespace that are ours.
    tables: HashMap<NetnsId, BTreeSet<u32>>,
    /// Connections that a call is working on.
    claims: HashSet<String>,
    /// What is set once in a namespace is set in these.
    prepared: HashSet<NetnsId>,
    /// Ends that an earlier life made and whose other end nobody has found, by their indexes.
    strays: HashMap<u32, Remains>,
}

impl State {
    /// The next serial number.
    pub(crate) fn serial(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Starts serial numbers above `serial`.
    pub(crate) fn continue_after(&mut self, serial: u64) {
        self.next = self.next.max(serial);
    }

    /// Whether there can be one more.
    pub(crate) fn has_room(&self) -> Result<()> {
        if self.records.len() < MAX_WIRES {
            return Ok(());
        }
        Err(Error::exhausted(
            "too-many-wires",
            format!("this node has {MAX_WIRES} wires already"),
        ))
    }

    /// Adds or replaces a record.
    pub(crate) fn put(&mut self, record: Record) {
        self.take(record.serial);
        let serials = self.connections.entry(record.connection.clone()).or_default();
        serials.push(record.serial);
        for place in record.places() {
            self.found(place.index);
            self.indexes.insert(place.index, record.serial);
            self.reserve(place.netns, &place.end.rules);
        }
        self.records.insert(record.serial, record);
    }

    /// Forgets a record. Its routing tables stay reserved until they are [released](Self::release).
    pub(crate) fn take(&mut self, serial: u64) -> Option<Record> {
        let record = self.records.remove(&serial)?;
        if let Some(serials) = self.connections.get_mut(&record.connection) {
            serials.retain(|other| *other != serial);
            if serials.is_empty() {
                self.connections.remove(&record.connection);
            }
        }
        for place in record.places() {
            self.indexes.remove(&place.index);
        }
        Some(record)
    }

    /// The record with this serial number.
    pub(crate) fn get(&mut self, serial: u64) -> Option<&mut Record> {
        self.records.get_mut(&serial)
    }

    /// The record of the interface with this index.
    pub(crate) fn by_index(&mut self, index: u32) -> Option<&mut Record> {
        self.records.get_mut(self.indexes.get(&index)?)
    }

    /// All records.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Record> {
        self.records.values_mut()
    }

    /// The records of `connection`.
    pub(crate) fn of(&self, connection: &str) -> impl Iterator<Item = &Record> {
        let serials = self
            .connections
            .get(connection)
            .map(Vec::as_slice)
            .unwrap_or_default();
        serials.iter().filter_map(|serial| self.records.get(serial))
    }

    /// The connection's record with the client's end in `client`.
    pub(crate) fn find(&self, connection: &str, client: NetnsId) -> Option<&Record> {
        self.of(connection).find(|record| record.client.netns == client)
    }

    /// Claims `connection`; false when somebody else has it.
    pub(crate) fn claim(&mut self, connection: &str) -> bool {
        self.claims.insert(connection.to_string())
    }

    /// Gives a claim back.
    pub(crate) fn unclaim(&mut self, connection: &str) {
        self.claims.remove(connection);
    }

    /// Marks a name as being on its way out, once more.
    pub(crate) fn doom(&mut self, name: (NetnsId, String)) {
        *self.doomed.entry(name).or_default() += 1;
    }

    /// Takes one such mark back.
    pub(crate) fn undoom(&mut self, name: &(NetnsId, String)) {
        if let Some(count) = self.doomed.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.doomed.remove(name);
            }
        }
    }

    /// Whether a name is on its way out.
    pub(crate) fn is_doomed(&self, name: &(NetnsId, String)) -> bool {
        self.doomed.contains_key(name)
    }

    /// Takes the `count` smallest numbers of routing tables in `netns` that are neither `taken` nor ours already.
    pub(crate) fn allocate(&mut self, netns: NetnsId, count: usize, taken: &BTreeSet<u32>) -> Vec<u32> {
        let ours = self.tables.entry(netns).or_default();
        let is_free =
            |table: &u32| !RESERVED.contains(table) && !taken.contains(table) && !ours.contains(table);
        let free: Vec<u32> = (1..u32::MAX).filter(is_free).take(count).collect();
        ours.extend(&free);
        free
    }

    fn reserve(&mut self, netns: NetnsId, rules: &[Rule]) {
        if !rules.is_empty() {
            let tables = rules.iter().map(|rule| rule.table);
            self.tables.entry(netns).or_default().extend(tables);
        }
    }

    /// Gives numbers of routing tables back.
    pub(crate) fn release(&mut self, netns: NetnsId, tables: impl IntoIterator<Item = u32>) {
        if let Some(ours) = self.tables.get_mut(&netns) {
            for table in tables {
                ours.remove(&table);
            }
            if ours.is_empty() {
                self.tables.remove(&netns);
            }
        }
    }

    /// Remembers an end that has no other.
    pub(crate) fn stray(&mut self, remains: Remains) {
        self.strays.insert(remains.place.index, remains);
    }

    /// Forgets such an end: somebody has found out what becomes of it.
    pub(crate) fn found(&mut self, index: u32) {
        self.strays.remove(&index);
    }

    /// All such ends, which are forgotten.
    pub(crate) fn strays(&mut self) -> Vec<Remains> {
        std::mem::take(&mut self.strays).into_values().collect()
    }

    /// Whether what is set once in a namespace is set in `netns`.
    pub(crate) fn is_prepared(&self, netns: NetnsId) -> bool {
        self.prepared.contains(&netns)
    }

    /// Remembers that it is.
    pub(crate) fn prepare(&mut self, netns: NetnsId) {
        if self.prepared.len() >= MAX_PREPARED {
            self.prepared.clear();
        }
        self.prepared.insert(netns);
    }

    /// Forgets what was done in a namespace that is gone: its number will be used again.
    pub(crate) fn forget(&mut self, netns: NetnsId) {
        self.prepared.remove(&netns);
    }
}

/// Whether two wires are the same but for the paths to their namespaces.
pub(crate) fn is_same(one: &Wire, other: &Wire) -> bool {
    let Wire {
        connection,
        payload,
        mtu,
        client,
        endpoint,
    } = one;
    (connection, payload, mtu) == (&other.connection, &other.payload, &other.mtu)
        && is_same_end(client, &other.client)
        && is_same_end(endpoint, &other.endpoint)
}

fn is_same_end(one: &Interface, other: &Interface) -> bool {
    let Interface {
        netns: _,
        name,
        mac,
        addresses,
        routes,
        neighbours,
        peers,
        policies,
        route_localnet,
    } = one;
    (name, mac, route_localnet) == (&other.name, &other.mac, &other.route_localnet)
        && (addresses, routes) == (&other.addresses, &other.routes)
        && (neighbours, peers, policies) == (&other.neighbours, &other.peers, &other.policies)
}
