// SPDX-License-Identifier: Apache-2.0
//! What one watch has told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::MAX_ENTRIES;
use crate::core::Entry;
use crate::registry::queries::Registry;

pub(super) struct Mirror<A: Registry>(Mutex<State<A>>);

struct State<A: Registry> {
    entries: BTreeMap<String, Arc<A::Entry>>,
    /// What a passed query has found and the watch has not told yet.
    missing: BTreeSet<String>,
    /// Whether there was a time at which nothing was missing.
    complete: bool,
    /// Whether it is too much to follow.
    overfull: bool,
    asked: Instant,
}

impl<A: Registry> Mirror<A> {
    /// A mirror that can answer when it has everything of these names.
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(Mutex::new(State {
            entries: BTreeMap::new(),
            missing: names.into_iter().collect(),
            complete: false,
            overfull: false,
            asked: Instant::now(),
        }))
    }

    /// When it was asked last.
    pub(super) fn asked(&self) -> Instant {
        self.0.lock().asked
    }

    /// A passed query has found these names: they must be here before it can answer.
    pub(super) fn expect(&self, names: Vec<String>) {
        let mut state = self.0.lock();
        if state.complete {
            return;
        }
        let missing = names.into_iter().filter(|name| !state.entries.contains_key(name));
        state.missing = missing.collect();
        state.complete = state.missing.is_empty();
    }

    /// Every entry like `example` that has not expired at `now`; nothing when somebody else must be asked.
    pub(super) fn find(&self, example: &A::Entry, now: SystemTime) -> Option<Vec<Arc<A::Entry>>> {
        let mut state = self.0.lock();
        state.asked = Instant::now();
        if !state.complete || state.overfull {
            return None;
        }
        let is_there = |entry: &&Arc<A::Entry>| {
            A::matches(example, entry) && A::expires(entry).is_none_or(|end| end > now)
        };
        let found: Vec<_> = state.entries.values().filter(is_there).cloned().collect();
        (!found.is_empty()).then_some(found)
    }

    /// Takes in what the watch tells; false when that is too much.
    pub(super) fn reflect(&self, found: &A::Found) -> bool {
        let Some((entry, deleted)) = A::told(found) else {
            return true;
        };
        let mut state = self.0.lock();
        state.missing.remove(entry.name());
        state.complete |= state.missing.is_empty();
        if deleted {
            state.entries.remove(entry.name());
        } else {
            let name = entry.name().to_string();
            state.entries.insert(name, Arc::new(entry.clone()));
        }
        if state.entries.len() > MAX_ENTRIES {
            state.overfull = true;
            state.entries.clear();
        }
        !state.overfull
    }
}
