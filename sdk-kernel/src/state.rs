// SPDX-License-Identifier: Apache-2.0
//! What this program knows of its wires, shared by the threads that make, remove and watch them.
//!
//! **Guarantees**: a name that is being removed, a routing table and a connection in work belong to one owner at a
//! time. No lock is held while the kernel is asked anything.
//! **Cost**: look-ups in maps under one lock; about 1 KiB a wire.

use std::collections::{BTreeSet, HashMap, HashSet};

use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::Route;

use crate::asked::{Device, Face};
use crate::doomed::Remains;
use crate::end::{RESERVED, Rule};
use crate::netns::NetnsId;
use crate::record::{Place, Record};

/// How many wires one data plane keeps.
pub(crate) const MAX_WIRES: usize = 65_536;

/// How many namespaces are remembered for what was done in them once.
const MAX_PREPARED: usize = 65_536;

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

    /// The record that has `device`, where the node can have it once.
    pub(crate) fn holder(&self, device: &Device) -> Option<&Record> {
        let key = device.key()?;
        let has = |place: &Place| place.end.link.device.key().as_ref() == Some(&key);
        let mut records = self.records.values();
        records.find(|record| record.ends.iter().any(has))
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

    /// The connection's record whose first end is `face`'s and in `netns`.
    pub(crate) fn find(&self, connection: &str, face: Face, netns: NetnsId) -> Option<&Record> {
        let alias = face.alias(connection);
        let is_it = |place: &Place| place.netns == netns && place.end.link.alias == alias;
        self.of(connection)
            .find(|record| record.ends.first().is_some_and(is_it))
    }

    /// Which other interfaces of `netns` have a route to where one of `lost` leads, and that route: two wires may have
    /// said the same of one destination, which the kernel lets only the last of them have.
    pub(crate) fn also_to(
        &self,
        netns: NetnsId,
        index: u32,
        lost: &[(u32, Route)],
    ) -> Vec<(u32, u32, Route)> {
        let places = self.records.values().flat_map(|record| record.places());
        let others = places.filter(|place| place.netns == netns && place.index != index);
        let is_lost = |(table, route): &&(u32, Route)| {
            lost.iter()
                .any(|(other, lost)| other == table && lost.prefix == route.prefix)
        };
        let routes = others.flat_map(|place| {
            let routes = place.end.routes.iter().filter(is_lost);
            routes.map(|(table, route)| (place.index, *table, route.clone()))
        });
        routes.collect()
    }

    /// Claims `connection`; false when somebody else has it.
    pub(crate) fn claim(&mut self, connection: &str) -> bool {
        self.claims.insert(connection.to_string())
    }

    /// Gives a claim back.
    pub(crate) fn unclaim(&mut self, connection: &str) {
        self.claims.remove(connection);
    }

    /// Whether a call is working on `connection`.
    pub(crate) fn is_claimed(&self, connection: &str) -> bool {
        self.claims.contains(connection)
    }

    /// Takes a record whose wire is to be removed, and marks its names as being on their way out.
    pub(crate) fn condemn(&mut self, serial: u64) -> Option<Record> {
        let record = self.take(serial)?;
        for key in record.places().iter().flat_map(Place::keys) {
            self.doom(key);
        }
        Some(record)
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
        let is_free = |table: &u32| !RESERVED.contains(table) && !taken.contains(table);
        // Both in order: walking along is cheaper than looking each number up.
        let mut known = ours.iter().copied().peekable();
        let mut is_ours = |table: &u32| {
            while known.next_if(|other| other < table).is_some() {}
            known.peek() == Some(table)
        };
        let mut free: Vec<u32> = Vec::with_capacity(count);
        for table in 1..u32::MAX {
            if free.len() == count {
                break;
            }
            if !is_ours(&table) && is_free(&table) {
                free.push(table);
            }
        }
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
