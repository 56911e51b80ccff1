// SPDX-License-Identifier: Apache-2.0
//! Chooses a routing table for each policy.
//!
//! **Guarantees**: a policy keeps its table as long as its selectors stay; a table that anybody else uses is never
//! taken, nor is one of the kernel's own; two wires that are made at once have different ones.
//! **Cost**: nothing without new policies, else a list of the namespace's rules, and a look at each new table.

use std::collections::BTreeSet;
use std::io;

use nsm_sdk::core::Result;
use nsm_sdk::dataplane::Interface;

use crate::end::{End, families};
use crate::make::{Attempt, Spaces};
use crate::netlink::Netlink;
use crate::netns::Netns;
use crate::{dumps, veth};

impl Attempt<'_> {
    /// The routing table of each policy of the ends: the one that it is known to have, or one that nobody uses.
    pub(crate) fn tables(&mut self, spaces: &Spaces, known: &[End]) -> Result<Vec<Vec<u32>>> {
        let mut all: Vec<Vec<u32>> = Vec::with_capacity(spaces.len());
        let wire = self.wire;
        for ((netns, interface), now) in spaces.iter().zip(wire.interfaces()).zip(known) {
            match self.tables_in(netns, interface, now) {
                Ok(tables) => all.push(tables),
                Err(error) => {
                    for ((netns, tables), known) in spaces.iter().zip(all).zip(known) {
                        let is_old = |table: &u32| known.rules.iter().any(|rule| rule.table == *table);
                        let new = tables.into_iter().filter(|table| !is_old(table));
                        self.shared.state().release(netns.id(), new);
                    }
                    return Err(error);
                }
            }
        }
        Ok(all)
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
        let mut new = self.free(netns, missing)?.into_iter();
        Ok(known
            .into_iter()
            .filter_map(|table| table.or_else(|| new.next()))
            .collect())
    }

    /// Takes `count` tables that nobody uses.
    fn free(&mut self, netns: &Netns, count: usize) -> Result<Vec<u32>> {
        let broken = |error| veth::broken(&netns.id(), &error);
        let mut socket = self.station.socket(netns)?;
        let mut taken = dumps::ruled(&mut socket).map_err(broken)?;
        let free = self.shared.state().allocate(netns.id(), count, &taken);
        let used = used(&mut socket, &free);
        if matches!(used, Ok(false)) {
            return Ok(free);
        }
        self.shared.state().release(netns.id(), free);
        used.map_err(broken)?;
        // Somebody has tables without rules: there may be many, so we look at all of them at once.
        taken.extend(dumps::routed(&mut socket).map_err(broken)?);
        Ok(self.shared.state().allocate(netns.id(), count, &taken))
    }
}

/// Whether any of `tables` has routes.
fn used(netlink: &mut Netlink, tables: &[u32]) -> io::Result<bool> {
    for table in tables {
        if dumps::is_used(netlink, *table)? {
            return Ok(true);
        }
    }
    Ok(false)
}
