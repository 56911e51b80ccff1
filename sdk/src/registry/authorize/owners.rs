// SPDX-License-Identifier: Apache-2.0
//! Who owns which name, and until when.

use std::collections::HashMap;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::core::{Error, Result};

/// How many names are kept.
pub(super) const MAX_NAMES: usize = 65_536;

/// The owners of names. A name whose time is over is free.
#[derive(Default)]
pub(super) struct Owners(Mutex<HashMap<String, Owner>>);

#[derive(Clone, PartialEq)]
struct Owner {
    id: String,
    /// The end of the ownership; none where only a close ends it.
    until: Option<SystemTime>,
}

impl Owner {
    fn is_alive(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Owners {
    pub(super) fn of(&self, name: &str, now: SystemTime) -> Option<String> {
        let owners = self.0.lock();
        owners
            .get(name)
            .filter(|owner| owner.is_alive(now))
            .map(|owner| owner.id.clone())
    }

    /// Takes a free name for `id` while a call is under way, `until` its deadline at most.
    ///
    /// Errors: `too-many-names`.
    pub(super) fn claim(
        &self,
        name: &str,
        id: &str,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<Claim<'_>> {
        let mut owners = self.0.lock();
        let mut claim = Claim {
            owners: self,
            name: name.to_string(),
            id: id.to_string(),
            taken: None,
            other: None,
        };
        if let Some(owner) = owners.get(name).filter(|owner| owner.is_alive(now)) {
            claim.other = Some(owner.id.clone()).filter(|owner| owner != id);
            return Ok(claim);
        }
        if owners.len() >= MAX_NAMES {
            owners.retain(|_, owner| owner.is_alive(now));
        }
        if owners.len() >= MAX_NAMES {
            let text = format!("{MAX_NAMES} names are owned, which is the most that one program remembers");
            return Err(Error::exhausted("too-many-names", text));
        }
        let taken = Owner {
            id: id.to_string(),
            until: Some(until),
        };
        owners.insert(name.to_string(), taken.clone());
        claim.taken = Some(taken);
        Ok(claim)
    }

    pub(super) fn release(&self, name: &str) {
        self.0.lock().remove(name);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// A call under way for a name. A name that it took is free again when this is dropped.
pub(super) struct Claim<'a> {
    owners: &'a Owners,
    name: String,
    id: String,
    taken: Option<Owner>,
    other: Option<String>,
}

impl Claim<'_> {
    /// Who owns the name, if it is somebody else.
    pub(super) fn other(&self) -> Option<&str> {
        self.other.as_deref()
    }

    /// Makes the claimant the owner of `name`, which may be another name than the one it asked for.
    pub(super) fn keep(mut self, name: &str, until: Option<SystemTime>) {
        if name == self.name {
            self.taken = None;
        }
        let id = self.id.clone();
        let mut owners = self.owners.0.lock();
        owners.insert(name.to_string(), Owner { id, until });
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let Some(taken) = self.taken.take() else {
            return;
        };
        let mut owners = self.owners.0.lock();
        if owners.get(&self.name) == Some(&taken) {
            owners.remove(&self.name);
        }
    }
}
