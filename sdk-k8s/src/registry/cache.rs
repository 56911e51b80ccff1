// SPDX-License-Identifier: Apache-2.0
//! Every object of one kind, as far as we know, and the shelf from which look-ups are answered.
//!
//! What the API server tells by its watch, and what it answers to our own writes, may come in any order: a state of an
//! object counts only if it is later than the one that is known. Of several objects that register one name, that of the
//! registry's own namespace counts, then the first in the order of namespaces; the others are told so.

mod objects;

use std::sync::Arc;
use std::time::SystemTime;

use nsm_sdk::core::{Component, Found, Result};
use nsm_sdk::registry::memory::{Limits, Shelf};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, error, warn};

use super::kind::Kind;
use super::object::{Key, Object, Version};
pub(super) use objects::{Due, Wrong};
use objects::{Objects, Record};

/// How many objects of one kind are known at most.
const MAX_OBJECTS: usize = 65_536;

/// See the [module](self). Clones are the same cache.
pub(super) struct Cache<A: Kind>(Arc<Inner<A>>);

struct Inner<A: Kind> {
    home: Arc<str>,
    shelf: Shelf<A>,
    /// Locked before anything in the shelf.
    objects: Mutex<Objects<A>>,
    /// Fires when something may be due earlier than before.
    sooner: Notify,
    /// Fires when there is something to tell about an object.
    wrong: Notify,
}

/// What is known of one object.
#[derive(Debug)]
pub(super) struct Known<A: Kind> {
    pub(super) key: Key,
    pub(super) uid: Arc<str>,
    pub(super) version: Version,
    /// What it registers, if it can be used.
    pub(super) entry: Option<Arc<A::Entry>>,
    pub(super) owner: Option<String>,
    /// Until when it is registered, as it is stored.
    pub(super) stored: Option<SystemTime>,
    /// How many endpoints its status says that it has.
    pub(super) counted: Option<i64>,
    pub(super) is_of_people: bool,
    /// Whether it is deleted, and something only delays its end.
    pub(super) is_going: bool,
    /// Whether look-ups do not find it any more: its time has passed.
    pub(super) is_over: bool,
}

impl<A: Kind> Clone for Cache<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Kind> Cache<A> {
    /// Knows nothing yet. `home` is the namespace in which the registry writes.
    pub(super) fn new(home: &str) -> Self {
        Self(Arc::new(Inner {
            home: home.into(),
            shelf: Shelf::new(Limits {
                entries: MAX_OBJECTS,
                ..Limits::default()
            }),
            objects: Mutex::default(),
            sooner: Notify::new(),
            wrong: Notify::new(),
        }))
    }

    /// The namespace in which the registry writes.
    pub(super) fn home(&self) -> &Arc<str> {
        &self.0.home
    }

    /// How many objects are known.
    pub(super) fn len(&self) -> usize {
        self.0.objects.lock().len()
    }

    /// Answers a query.
    pub(super) fn answer(&self, component: &Component, query: A::Query) -> Result<Found<A>> {
        self.0.shelf.answer(component, query)
    }

    /// A list begins: what it does not name until it ends is gone.
    pub(super) fn list_begins(&self) {
        self.0.objects.lock().list_begins();
    }

    /// The list has ended.
    pub(super) fn list_ends(&self) {
        let mut objects = self.0.objects.lock();
        for key in objects.list_ends() {
            debug!(
                kind = A::NAME,
                namespace = &*key.namespace,
                name = &*key.name,
                "is gone"
            );
            let name = objects.remove(&key);
            self.settle(&mut objects, name.as_deref());
        }
    }

    /// The watch tells that this is what the object has become.
    pub(super) fn tells(&self, object: Object<A>) {
        let mut objects = self.0.objects.lock();
        objects.heard_of(&object.version);
        self.take(&mut objects, object);
    }

    /// The API server answers that this is what the object is, which the watch may have told already.
    pub(super) fn is_now(&self, object: Object<A>) {
        let mut objects = self.0.objects.lock();
        if objects.has(&object.key) || !objects.has_heard_of(&object.version) {
            self.take(&mut objects, object);
        }
    }

    fn take(&self, objects: &mut Objects<A>, object: Object<A>) {
        if !objects.is_news(&object) {
            return;
        }
        if objects.len() >= MAX_OBJECTS && !objects.has(&object.key) {
            error!(
                kind = A::NAME,
                name = &*object.key.name,
                "more than {MAX_OBJECTS} objects; it is left out"
            );
            return;
        }
        if let Err(fault) = &object.entry {
            let (namespace, name) = (&*object.key.namespace, &*object.key.name);
            warn!(
                kind = A::NAME,
                namespace,
                name,
                reason = fault.reason,
                "is not used: {}",
                fault.text
            );
        }
        let key = object.key.clone();
        let old = objects.remove(&key);
        let new = objects.insert(Record::new(object));
        if old != new {
            self.settle(objects, old.as_deref());
        }
        self.settle(objects, new.as_deref());
        self.judge(objects, &key);
        self.0.sooner.notify_one();
    }

    /// The watch tells that this life of the object has ended.
    pub(super) fn is_gone(&self, object: &Object<A>) {
        let mut objects = self.0.objects.lock();
        objects.heard_of(&object.version);
        objects.forget(&object.uid);
        self.remove(&mut objects, &object.key, &object.uid);
    }

    /// We have ended this life of the object: whatever is told of it from now on is old.
    pub(super) fn was_deleted(&self, key: &Key, uid: &Arc<str>) {
        let mut objects = self.0.objects.lock();
        if objects.get(key).is_some_and(|record| record.object.uid == *uid) {
            objects.remember(uid);
        }
        self.remove(&mut objects, key, uid);
    }

    fn remove(&self, objects: &mut Objects<A>, key: &Key, uid: &str) {
        if objects.get(key).is_some_and(|record| *record.object.uid == *uid) {
            let name = objects.remove(key);
            self.settle(objects, name.as_deref());
        }
    }

    /// The object that registers `name` in the registry's namespace, or else the one that would be in its way.
    pub(super) fn own(&self, name: &str) -> Option<Known<A>> {
        let objects = self.0.objects.lock();
        let registers = objects.named(name).filter(|record| !record.object.key.is_foreign);
        let first = registers.min_by(|one, other| one.object.key.cmp(&other.object.key));
        let key = || self.key(name);
        Some(first.or_else(|| objects.get(&key()))?.known())
    }

    /// The object that look-ups of `name` find.
    pub(super) fn found(&self, name: &str) -> Option<Known<A>> {
        let objects = self.0.objects.lock();
        Some(objects.get(&objects.first(name)?)?.known())
    }

    /// The object of this name in the registry's namespace.
    pub(super) fn key(&self, name: &str) -> Key {
        Key {
            is_foreign: false,
            namespace: Arc::clone(&self.0.home),
            name: name.into(),
        }
    }

    /// When the next object is due.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.0.objects.lock().next_due()
    }

    /// Waits until something may be due earlier than before.
    pub(super) async fn sooner(&self) {
        self.0.sooner.notified().await;
    }

    /// At most `count` objects that are due at `now`.
    pub(super) fn due(&self, now: SystemTime, count: usize) -> Vec<Due> {
        self.0.objects.lock().due(now, count)
    }

    /// Keeps an object until `time`, whatever is stored, while it is what we know.
    pub(super) fn keep(&self, key: &Key, version: &Version, time: SystemTime) {
        let mut objects = self.0.objects.lock();
        let name = objects.keep(key, version, time);
        self.settle(&mut objects, name.as_deref());
        self.0.sooner.notify_one();
    }

    /// The object's time is over: look-ups do not find it any more. It is due again at `again`.
    pub(super) fn is_over(&self, key: &Key, version: &Version, again: Option<SystemTime>) {
        let mut objects = self.0.objects.lock();
        let name = objects.over(key, version, again);
        self.settle(&mut objects, name.as_deref());
    }

    /// Something to tell about an object, once.
    pub(super) fn next_wrong(&self) -> Option<Wrong> {
        let mut objects = self.0.objects.lock();
        while let Some(key) = objects.take_wrong() {
            if let Some(wrong) = objects.wrong(&key) {
                return Some(wrong);
            }
        }
        None
    }

    /// It could not be told: it is to be told later.
    pub(super) fn still_wrong(&self, key: Key) {
        self.0.objects.lock().put_wrong(key);
    }

    /// Waits until there may be something to tell.
    pub(super) async fn wrong(&self) {
        self.0.wrong.notified().await;
    }

    /// Shows those who look for `name` what it is now, and looks at every object that registers it.
    fn settle(&self, objects: &mut Objects<A>, name: Option<&str>) {
        let Some(name) = name else {
            return;
        };
        let first = objects.first(name);
        match first
            .as_ref()
            .and_then(|key| objects.get(key)?.object.entry.clone().ok())
        {
            Some(entry) => {
                if let Err(error) = self.0.shelf.put(entry) {
                    error!(kind = A::NAME, name, %error, "is not found by anybody");
                }
            }
            None => self.0.shelf.remove(name),
        }
        for key in objects.keys(name) {
            self.judge(objects, &key);
        }
    }

    /// Notes the object if its status has to say something else.
    fn judge(&self, objects: &mut Objects<A>, key: &Key) {
        if objects.wrong(key).is_some() {
            objects.put_wrong(key.clone());
            self.0.wrong.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
