// SPDX-License-Identifier: Apache-2.0
//! Objects by key, by the name that they register, and by when they are due.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::Known;
use crate::registry::kind::Kind;
use crate::registry::object::{Key, Object, Told, Version};

/// An object and what has become of it here.
pub(super) struct Record<A: Kind> {
    pub(super) object: Object<A>,
    /// Until when it is registered, as it is stored.
    stored: Option<SystemTime>,
    /// When it is due.
    due: Option<SystemTime>,
    is_over: bool,
}

/// An object that is due.
#[derive(Debug)]
pub(in super::super) struct Due {
    pub(in super::super) key: Key,
    pub(in super::super) uid: Arc<str>,
    pub(in super::super) version: Version,
    /// Whether it was due before, and is to be deleted now.
    pub(in super::super) is_over: bool,
}

/// What the status of an object has to say.
#[derive(Debug)]
pub(in super::super) struct Wrong {
    pub(in super::super) key: Key,
    pub(in super::super) version: Version,
    pub(in super::super) told: Told,
    pub(in super::super) message: String,
}

/// Everything that is known.
pub(super) struct Objects<A: Kind> {
    by_key: HashMap<Key, Record<A>>,
    by_name: HashMap<String, Vec<Key>>,
    due: BTreeSet<(SystemTime, Key)>,
    /// The uids of those that we have deleted, until the API server tells it.
    deleted: HashSet<Arc<str>>,
    /// While a list is read: the keys that it has named, and the uids that it has named though they are deleted.
    listed: Option<(HashSet<Key>, HashSet<Arc<str>>)>,
    wrong: BTreeSet<Key>,
    /// How far the watch has told what happens: what is not there, and was before this version, has ended.
    heard: u64,
}

impl<A: Kind> Default for Objects<A> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            by_name: HashMap::new(),
            due: BTreeSet::new(),
            deleted: HashSet::new(),
            listed: None,
            wrong: BTreeSet::new(),
            heard: 0,
        }
    }
}

impl<A: Kind> Record<A> {
    pub(super) fn new(object: Object<A>) -> Self {
        let stored = object.entry.as_ref().ok().and_then(|entry| A::expires(entry));
        Self {
            stored,
            due: stored,
            is_over: false,
            object,
        }
    }

    pub(super) fn known(&self) -> Known<A> {
        Known {
            key: self.object.key.clone(),
            uid: Arc::clone(&self.object.uid),
            version: self.object.version.clone(),
            entry: self.object.entry.as_ref().ok().cloned(),
            owner: self.object.owner().map(ToString::to_string),
            stored: self.stored,
            counted: self.object.counted,
            is_of_people: self.object.is_of_people(),
            is_going: self.object.is_going,
            is_over: self.is_over,
        }
    }

    fn can_be_found(&self) -> bool {
        self.object.entry.is_ok() && !self.object.is_going && !self.is_over
    }
}

impl<A: Kind> Objects<A> {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.by_key.contains_key(key)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Record<A>> {
        self.by_key.get(key)
    }

    /// The keys of those that register `name`.
    pub(super) fn keys(&self, name: &str) -> Vec<Key> {
        self.by_name.get(name).cloned().unwrap_or_default()
    }

    /// Those that register `name`.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &Record<A>> {
        let keys = self.by_name.get(name).into_iter().flatten();
        keys.filter_map(|key| self.by_key.get(key))
    }

    /// The one that look-ups of `name` find.
    pub(super) fn first(&self, name: &str) -> Option<Key> {
        let found = self.named(name).filter(|record| record.can_be_found());
        found.map(|record| &record.object.key).min().cloned()
    }

    /// The watch has come to this version.
    pub(super) fn heard_of(&mut self, version: &Version) {
        self.heard = self.heard.max(version.number().unwrap_or_default());
    }

    /// Whether the watch has come to this version.
    pub(super) fn has_heard_of(&self, version: &Version) -> bool {
        version.number().is_some_and(|number| number <= self.heard)
    }

    pub(super) fn list_begins(&mut self) {
        self.listed = Some(Default::default());
    }

    /// The keys of those that the list has not named.
    pub(super) fn list_ends(&mut self) -> Vec<Key> {
        let Some((listed, deleted)) = self.listed.take() else {
            return Vec::new();
        };
        // Of those that the list did not name the API server will not tell that they are deleted.
        self.deleted.retain(|uid| deleted.contains(uid));
        let missing = self.by_key.keys().filter(|key| !listed.contains(*key));
        missing.cloned().collect()
    }

    /// Whether this state of an object is later than what is known.
    pub(super) fn is_news(&mut self, object: &Object<A>) -> bool {
        let is_deleted = self.deleted.contains(&object.uid);
        if let Some((listed, deleted)) = &mut self.listed {
            match is_deleted {
                true => drop(deleted.insert(Arc::clone(&object.uid))),
                false => drop(listed.insert(object.key.clone())),
            }
        }
        let known = self.by_key.get(&object.key);
        !is_deleted && known.is_none_or(|known| object.version.is_after(&known.object.version))
    }

    /// Returns the name that it registers.
    pub(super) fn insert(&mut self, record: Record<A>) -> Option<String> {
        let (key, due) = (record.object.key.clone(), record.due);
        let name = record.object.entry_name().map(ToString::to_string);
        self.by_key.insert(key.clone(), record);
        if let Some(due) = due {
            self.due.insert((due, key.clone()));
        }
        if let Some(name) = &name {
            self.by_name.entry(name.clone()).or_default().push(key);
        }
        name
    }

    /// Returns the name that it registered.
    pub(super) fn remove(&mut self, key: &Key) -> Option<String> {
        let record = self.by_key.remove(key)?;
        if let Some(due) = record.due {
            self.due.remove(&(due, key.clone()));
        }
        let name = record.object.entry_name()?;
        if let Some(keys) = self.by_name.get_mut(name) {
            keys.retain(|one| one != key);
            if keys.is_empty() {
                self.by_name.remove(name);
            }
        }
        Some(name.to_string())
    }

    pub(super) fn remember(&mut self, uid: &Arc<str>) {
        self.deleted.insert(Arc::clone(uid));
    }

    pub(super) fn forget(&mut self, uid: &str) {
        self.deleted.remove(uid);
    }

    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.due.first().map(|(time, _)| *time)
    }

    pub(super) fn due(&self, now: SystemTime, count: usize) -> Vec<Due> {
        let due = self.due.iter().take_while(|(time, _)| *time <= now).take(count);
        let due = due.filter_map(|(_, key)| self.by_key.get(key));
        due.map(|record| Due {
            key: record.object.key.clone(),
            uid: Arc::clone(&record.object.uid),
            version: record.object.version.clone(),
            is_over: record.is_over,
        })
        .collect()
    }

    /// Lets an object of this version be found until `time`. Returns its name.
    pub(super) fn keep(&mut self, key: &Key, version: &Version, time: SystemTime) -> Option<String> {
        let record = self.by_key.get_mut(key)?;
        if record.object.version != *version {
            return None;
        }
        if let Ok(entry) = &mut record.object.entry {
            A::set_expiration(Arc::make_mut(entry), Some(time.into()));
        }
        record.is_over = false;
        self.put_due(key, Some(time))
    }

    /// Lets an object of this version be found no longer. Returns its name.
    pub(super) fn over(&mut self, key: &Key, version: &Version, again: Option<SystemTime>) -> Option<String> {
        let record = self.by_key.get_mut(key)?;
        if record.object.version != *version {
            return None;
        }
        record.is_over = true;
        self.put_due(key, again)
    }

    fn put_due(&mut self, key: &Key, time: Option<SystemTime>) -> Option<String> {
        let record = self.by_key.get_mut(key)?;
        let old = std::mem::replace(&mut record.due, time);
        let name = record.object.entry_name().map(ToString::to_string);
        if let Some(old) = old {
            self.due.remove(&(old, key.clone()));
        }
        if let Some(time) = time {
            self.due.insert((time, key.clone()));
        }
        name
    }

    pub(super) fn put_wrong(&mut self, key: Key) {
        self.wrong.insert(key);
    }

    pub(super) fn take_wrong(&mut self) -> Option<Key> {
        self.wrong.pop_first()
    }

    /// What the status of an object has to say that it does not.
    pub(super) fn wrong(&self, key: &Key) -> Option<Wrong> {
        let record = self.by_key.get(key)?;
        let (is_accepted, reason, message) = match &record.object.entry {
            Err(fault) => (false, fault.reason, fault.text.clone()),
            Ok(_) if !record.can_be_found() => return None,
            Ok(entry) => {
                use nsm_sdk::core::Entry as _;
                let first = self.first(entry.name()).filter(|first| first != key);
                match first {
                    Some(first) => {
                        let text = format!(
                            "{}/{} registers {:?} already",
                            first.namespace,
                            first.name,
                            entry.name()
                        );
                        (false, "NameTaken", text)
                    }
                    None => (true, "Valid", String::new()),
                }
            }
        };
        let told = Told {
            is_accepted,
            reason: reason.to_string(),
            generation: record.object.generation,
        };
        let is_worth_it = match &record.object.told {
            Some(old) => *old != told && (A::IS_WRITTEN_BY_PEOPLE || !is_accepted || !old.is_accepted),
            None => A::IS_WRITTEN_BY_PEOPLE || !is_accepted,
        };
        is_worth_it.then(|| Wrong {
            key: key.clone(),
            version: record.object.version.clone(),
            told,
            message,
        })
    }
}
