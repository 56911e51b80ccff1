// SPDX-License-Identifier: Apache-2.0
//! What the connections of one program have.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

/// What each connection has, by its number.
#[derive(Default)]
pub(super) struct Shared(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    connections: BTreeMap<u64, Entry>,
}

struct Entry {
    group: Option<usize>,
    has: Has,
}

/// What one connection has, or several.
#[derive(Clone, Debug, Default)]
pub(super) struct Has {
    /// The addresses of both ends.
    pub(super) addresses: Vec<IpNet>,
    /// The hosts to which there are routes.
    pub(super) hosts: Vec<IpNet>,
    /// What the endpoint excludes by itself.
    pub(super) learned: Vec<IpNet>,
}

impl Has {
    pub(super) fn is_nothing(&self) -> bool {
        self.addresses.is_empty() && self.hosts.is_empty() && self.learned.is_empty()
    }
}

/// One connection's part; what it has is free when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Used(Arc<Number>);

struct Number {
    number: u64,
    group: Option<usize>,
    shared: Arc<Shared>,
}

impl Drop for Number {
    fn drop(&mut self) {
        self.shared.0.lock().connections.remove(&self.number);
    }
}

impl Used {
    /// A connection that has nothing yet.
    pub(super) fn new(shared: &Arc<Shared>, group: Option<usize>) -> Self {
        let mut table = shared.0.lock();
        table.next += 1;
        Self(Arc::new(Number {
            number: table.next,
            group,
            shared: Arc::clone(shared),
        }))
    }

    /// What the connections outside of our group have, merged, without what covers one of our `own` addresses.
    pub(super) fn others(&self, own: &[IpNet]) -> Has {
        let table = self.0.shared.0.lock();
        let of = |part: fn(&Has) -> &[IpNet]| {
            let nets = self.strangers(&table).flat_map(|entry| part(&entry.has)).copied();
            let strange = nets.filter(|net| !own.iter().any(|own| net.contains(&own.addr())));
            IpNet::aggregate(&strange.collect())
        };
        Has {
            addresses: of(|has| &has.addresses),
            hosts: of(|has| &has.hosts),
            learned: of(|has| &has.learned),
        }
    }

    /// Notes what the connection has, unless a stranger has got a prefix with one of the addresses meanwhile.
    /// Those that were `kept` from before are ours whatever others have. A member of a group teaches nobody.
    pub(super) fn claim(&self, mut has: Has, kept: &[IpNet]) -> bool {
        let mut table = self.0.shared.0.lock();
        let mut new = has.addresses.iter().filter(|own| !kept.contains(own));
        let is_taken = |own: &IpNet| {
            let mut theirs = self.strangers(&table).flat_map(|entry| &entry.has.addresses);
            theirs.any(|other| other.contains(&own.addr()))
        };
        if new.any(is_taken) {
            return false;
        }
        let group = self.0.group;
        if group.is_some() {
            has.learned.clear();
        }
        table.connections.insert(self.0.number, Entry { group, has });
        true
    }

    fn strangers<'a>(&self, table: &'a Table) -> impl Iterator<Item = &'a Entry> {
        let (number, group) = (self.0.number, self.0.group);
        let others = table
            .connections
            .iter()
            .filter(move |(other, _)| **other != number);
        others
            .map(|(_, entry)| entry)
            .filter(move |entry| group.is_none() || entry.group != group)
    }
}
