// SPDX-License-Identifier: Apache-2.0
//! A typed bag: one value a type.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// One value, and whether it outlives a reselection.
struct Slot {
    id: TypeId,
    lasts: bool,
    value: Box<dyn Any + Send>,
}

/// Values that live and die together: those of one connection, or those of one call.
///
/// Each element keeps a private type of its own in it, so no two elements can collide. Dropping the last
/// handle drops the values, newest first, and with them whatever they guard: a lease, a link, a task.
#[derive(Clone, Default)]
pub struct Store(Arc<Bag>);

#[derive(Default)]
struct Bag(Mutex<Vec<Slot>>);

impl Store {
    /// Puts `value` in place of an earlier one of its type, which is returned.
    pub fn insert<T: Send + 'static>(&self, value: T) -> Option<T> {
        self.put(value, false)
    }

    /// The same for a value that outlives a reselection, which closes everything else that is kept for the
    /// connection: who asks for one keeps there what tries it again.
    pub fn insert_lasting<T: Send + 'static>(&self, value: T) -> Option<T> {
        self.put(value, true)
    }

    fn put<T: Send + 'static>(&self, value: T, lasts: bool) -> Option<T> {
        let mut slots = self.0.0.lock();
        let old = position::<T>(&slots).map(|at| slots.remove(at));
        let (id, value) = (TypeId::of::<T>(), Box::new(value));
        slots.push(Slot { id, lasts, value });
        drop(slots);
        old.and_then(downcast)
    }

    /// A copy of the value of this type.
    pub fn get<T: Clone + Send + 'static>(&self) -> Option<T> {
        self.with(T::clone)
    }

    /// Looks at the value of this type, under the store's lock: `look` must not use the store.
    pub fn with<T: Send + 'static, R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        let slots = self.0.0.lock();
        let value = slots.iter().find(|slot| slot.id == TypeId::of::<T>())?;
        value.value.downcast_ref().map(look)
    }

    /// Changes the value of this type, made by default when absent, under the store's lock.
    pub fn update<T: Default + Send + 'static, R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut slots = self.0.0.lock();
        let at = position::<T>(&slots).unwrap_or_else(|| {
            let (id, value) = (TypeId::of::<T>(), Box::new(T::default()));
            slots.push(Slot {
                id,
                lasts: false,
                value,
            });
            slots.len() - 1
        });
        change(
            slots[at]
                .value
                .downcast_mut()
                .expect("a slot holds the type it is found by"),
        )
    }

    /// Whether a value of this type is there.
    pub fn has<T: Send + 'static>(&self) -> bool {
        position::<T>(&self.0.0.lock()).is_some()
    }

    /// Takes the value of this type out.
    pub fn take<T: Send + 'static>(&self) -> Option<T> {
        let mut slots = self.0.0.lock();
        let slot = position::<T>(&slots).map(|at| slots.remove(at));
        drop(slots);
        slot.and_then(downcast)
    }

    /// Drops every value, newest first.
    pub fn clear(&self) {
        let mut slots = std::mem::take(&mut *self.0.0.lock());
        while let Some(slot) = slots.pop() {
            drop(slot);
        }
    }

    /// Drops every value that does not outlive a reselection, newest first.
    pub(crate) fn clear_passing(&self) {
        let mut passing: Vec<_> = self.0.0.lock().extract_if(.., |slot| !slot.lasts).collect();
        while let Some(slot) = passing.pop() {
            drop(slot);
        }
    }
}

impl Drop for Bag {
    fn drop(&mut self) {
        while let Some(slot) = self.0.get_mut().pop() {
            drop(slot);
        }
    }
}

fn position<T: 'static>(slots: &[Slot]) -> Option<usize> {
    slots.iter().position(|slot| slot.id == TypeId::of::<T>())
}

fn downcast<T: 'static>(slot: Slot) -> Option<T> {
    slot.value.downcast().ok().map(|value| *value)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({} values)", self.0.0.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct One(u32);

    struct Guard(&'static str, Arc<Mutex<Vec<&'static str>>>);
    struct Other(Guard);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.1.lock().push(self.0);
        }
    }

    #[test]
    fn one_value_a_type() {
        let store = Store::default();
        assert_eq!(store.insert(One(1)), None);
        assert_eq!(store.insert(One(2)), Some(One(1)));
        assert_eq!(store.update(|one: &mut One| std::mem::replace(&mut one.0, 3)), 2);
        assert_eq!(store.get::<One>(), Some(One(3)));
        assert_eq!(store.take::<One>(), Some(One(3)));
        assert!(!store.has::<One>());
    }

    #[test]
    fn what_lasts_outlives_a_reselection_only() {
        let store = Store::default();
        store.insert(One(1));
        store.insert_lasting("lasts");
        store.clear_passing();
        assert_eq!((store.has::<One>(), store.get()), (false, Some("lasts")));
        store.insert("no longer");
        store.clear_passing();
        assert!(!store.has::<&str>());
    }

    #[test]
    fn dropping_the_store_ends_what_its_values_guard_newest_first() {
        let ended = Arc::default();
        let store = Store::default();
        store.insert(Guard("first", Arc::clone(&ended)));
        store.insert(Other(Guard("second", Arc::clone(&ended))));
        assert_eq!(store.with(|other: &Other| other.0.0), Some("second"));
        drop(store);
        assert_eq!(*ended.lock(), ["second", "first"]);
    }
}
