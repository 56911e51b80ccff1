// SPDX-License-Identifier: Apache-2.0
//! What the connections of one program have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

use super::merged::Merged;

/// What each connection has, by its number.
#[derive(Default)]
pub(super) struct Shared(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    connections: BTreeMap<u64, Has>,
    /// What those of each group have, and those of none.
    groups: BTreeMap<Option<usize>, Parts>,
}

/// What several connections have.
#[derive(Default)]
struct Parts {
    addresses: Merged,
    hosts: Merged,
    learned: Merged,
}

/// What one connection has, or several.
#[derive(Clone, Debug, Default, PartialEq)]
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
        self.shared.0.lock().withdraw(self.number, self.group);
    }
}

impl Table {
    fn enter(&mut self, number: u64, group: Option<usize>, has: Has) {
        let parts = self.groups.entry(group).or_default();
        for (nets, merged) in parts.beside(&has) {
            nets.iter().for_each(|net| merged.add(*net));
        }
        self.connections.insert(number, has);
    }

    /// Takes out what the connection has.
    fn withdraw(&mut self, number: u64, group: Option<usize>) -> Option<Has> {
        let has = self.connections.remove(&number)?;
        let parts = self.groups.get_mut(&group)?;
        for (nets, merged) in parts.beside(&has) {
            nets.iter().for_each(|net| merged.remove(*net));
        }
        Some(has)
    }

    /// What those have who are not in the group with us.
    fn strangers(&mut self, group: Option<usize>) -> impl Iterator<Item = &mut Parts> {
        let others = self.groups.iter_mut();
        let others = others.filter(move |(other, _)| group.is_none() || **other != group);
        others.map(|(_, parts)| parts)
    }
}

impl Parts {
    fn beside<'a>(&mut self, has: &'a Has) -> [(&'a [IpNet], &mut Merged); 3] {
        [
            (&has.addresses, &mut self.addresses),
            (&has.hosts, &mut self.hosts),
            (&has.learned, &mut self.learned),
        ]
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
        let (mut table, Number { number, group, .. }) = (self.0.shared.0.lock(), &*self.0);
        let ours = table.withdraw(*number, *group);
        let mut others = Has::default();
        for parts in table.strangers(*group) {
            others.addresses.extend(outside(&mut parts.addresses, own));
            others.hosts.extend(outside(&mut parts.hosts, own));
            others.learned.extend(outside(&mut parts.learned, own));
        }
        if let Some(ours) = ours {
            table.enter(*number, *group, ours);
        }
        drop(table);
        Has {
            addresses: IpNet::aggregate(&others.addresses),
            hosts: IpNet::aggregate(&others.hosts),
            learned: IpNet::aggregate(&others.learned),
        }
    }

    /// Notes what the connection has, unless a stranger has got a prefix with one of the addresses meanwhile.
    /// Those that were `kept` from before are ours whatever others have. A member of a group teaches nobody.
    pub(super) fn claim(&self, mut has: Has, kept: &[IpNet]) -> bool {
        let (mut table, Number { number, group, .. }) = (self.0.shared.0.lock(), &*self.0);
        if group.is_some() {
            has.learned.clear();
        }
        let before = table.connections.get(number);
        if before == Some(&has) && has.addresses.iter().all(|own| kept.contains(own)) {
            return true;
        }
        let before = table.withdraw(*number, *group);
        let mut new = has.addresses.iter().filter(|own| !kept.contains(own));
        let is_taken = new.any(|own| {
            let mut strangers = table.strangers(*group);
            strangers.any(|parts| parts.addresses.containing(own.addr()).next().is_some())
        });
        match is_taken {
            false => table.enter(*number, *group, has),
            true => before
                .into_iter()
                .for_each(|before| table.enter(*number, *group, before)),
        }
        !is_taken
    }
}

/// What is covered, without what covers one of our `own` addresses.
fn outside(merged: &mut Merged, own: &[IpNet]) -> Vec<IpNet> {
    let ours: BTreeSet<_> = own.iter().flat_map(|own| merged.containing(own.addr())).collect();
    merged.all_but(&ours)
}
