// SPDX-License-Identifier: Apache-2.0
//! Entries by name and by service.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::core::Entry;
use crate::registry::queries::{Interest, Registry};

type Named<A> = BTreeMap<String, Arc<<A as Registry>::Entry>>;

/// What is registered. Each list is in the order of names.
pub(super) struct Entries<A: Registry> {
    by_name: Named<A>,
    by_service: HashMap<String, Named<A>>,
}

impl<A: Registry> Default for Entries<A> {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_service: HashMap::new(),
        }
    }
}

impl<A: Registry> Entries<A> {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<A::Entry>> {
        self.by_name.get(name).cloned()
    }

    /// Puts `entry` in place of the one of its name, which is returned.
    pub(super) fn put(&mut self, entry: &Arc<A::Entry>) -> Option<Arc<A::Entry>> {
        let old = self.remove(entry.name());
        let name = entry.name().to_string();
        for service in A::services(entry) {
            let offers = self.by_service.entry(service.clone()).or_default();
            offers.insert(name.clone(), Arc::clone(entry));
        }
        self.by_name.insert(name, Arc::clone(entry));
        old
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<A::Entry>> {
        let old = self.by_name.remove(name)?;
        for service in A::services(&old) {
            let Some(offers) = self.by_service.get_mut(service) else {
                continue;
            };
            offers.remove(name);
            if offers.is_empty() {
                self.by_service.remove(service);
            }
        }
        Some(old)
    }

    /// Every entry like `example`.
    pub(super) fn find(&self, example: &A::Entry) -> Vec<Arc<A::Entry>> {
        let like = |entries: &Named<A>| {
            let entries = entries.values().filter(|entry| A::matches(example, entry));
            entries.cloned().collect()
        };
        match Interest::of::<A>(example) {
            Interest::Name(name) => {
                let entry = self.by_name.get(&name).filter(|entry| A::matches(example, entry));
                entry.cloned().into_iter().collect()
            }
            Interest::Service(service) => self.by_service.get(&service).map(like).unwrap_or_default(),
            Interest::Any => like(&self.by_name),
        }
    }
}
