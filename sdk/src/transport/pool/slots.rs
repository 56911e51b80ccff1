// SPDX-License-Identifier: Apache-2.0
//! What a pool keeps, by target.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::Address;
use super::super::connect::explain;
use super::super::remote::Caller;
use crate::core::{Error, Inode, Result};
use crate::identity::Svid;

/// What an address leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Socket(Inode),
    Tcp(String),
}

/// The outcome of an attempt to connect, when it is there.
pub(super) type Attempt = watch::Receiver<Option<Result<Arc<Caller>>>>;

#[derive(Clone)]
pub(super) enum Slot {
    /// Being dialled, with this SVID.
    Dialling(Attempt, Arc<Svid>),
    /// Connected, and when it was used last.
    Open(Arc<Caller>, Instant),
}

/// The connections by target, at most `most`.
pub(super) struct Slots {
    by_target: HashMap<Target, Slot>,
    most: usize,
}

impl Slots {
    pub(super) fn new(most: usize) -> Self {
        Self {
            by_target: HashMap::new(),
            most,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_target.len()
    }

    /// What there is for who dials `target` with `svid`.
    pub(super) fn get(&mut self, target: &Target, svid: &Arc<Svid>) -> Option<Slot> {
        let slot = self.by_target.get_mut(target)?;
        let fits = match slot {
            Slot::Dialling(_, with) => same(with, svid),
            Slot::Open(caller, used) => {
                *used = Instant::now();
                let local = caller.link().peer().local.as_ref();
                caller.link().is_open() && local.is_some_and(|local| same(local, svid))
            }
        };
        fits.then(|| slot.clone())
    }

    /// Puts an attempt in the place of what was there, which is returned, when there is room for it.
    ///
    /// Errors: `too-many-connections`.
    pub(super) fn begin(
        &mut self,
        target: &Target,
        attempt: Attempt,
        svid: &Arc<Svid>,
    ) -> Result<Option<Slot>> {
        let mut old = self.by_target.remove(target);
        if self.by_target.len() >= self.most {
            old = Some(self.make_room()?);
        }
        self.by_target
            .insert(target.clone(), Slot::Dialling(attempt, Arc::clone(svid)));
        Ok(old)
    }

    /// Takes out the connection that is unused for the longest time.
    fn make_room(&mut self) -> Result<Slot> {
        let unused = self.by_target.iter().filter_map(|(target, slot)| match slot {
            Slot::Open(caller, used) if !is_used(caller) => Some((*used, target)),
            _ => None,
        });
        let longest = unused
            .min_by_key(|(used, _)| *used)
            .map(|(_, target)| target.clone());
        longest
            .and_then(|target| self.by_target.remove(&target))
            .ok_or_else(|| {
                let text = format!(
                    "{} connections to other components are in use, which is the most",
                    self.most
                );
                Error::exhausted("too-many-connections", text)
            })
    }

    /// Puts the outcome of the attempt with `svid` in its place, unless that of another SVID has taken it.
    pub(super) fn settle(&mut self, target: Target, svid: &Arc<Svid>, outcome: Option<Arc<Caller>>) {
        let slot = self.by_target.get(&target);
        if matches!(slot, Some(Slot::Dialling(_, with)) if same(with, svid)) {
            match outcome {
                Some(caller) => self.by_target.insert(target, Slot::Open(caller, Instant::now())),
                None => self.by_target.remove(&target),
            };
        }
    }

    /// Drops connections that are broken, or that nobody has used for `idle`.
    pub(super) fn sweep(&mut self, idle: Duration) {
        let now = Instant::now();
        self.by_target.retain(|_, slot| match slot {
            Slot::Dialling(..) => true,
            Slot::Open(caller, used) => {
                caller.link().expire_files();
                if is_used(caller) {
                    *used = now;
                }
                caller.link().is_open() && now.saturating_duration_since(*used) < idle
            }
        });
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.by_target.clear();
    }
}

impl Target {
    /// Errors: `peer-unreachable` when there is no socket.
    pub(super) fn of(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(authority) => Ok(Self::Tcp(authority.clone())),
            Address::Unix(path) => match Inode::at(path) {
                Ok(socket) => Ok(Self::Socket(socket)),
                Err(error) => {
                    let why = explain(address, &error);
                    Err(Error::unavailable(
                        "peer-unreachable",
                        format!("cannot connect to {address}: {why}"),
                    ))
                }
            },
        }
    }
}

/// Whether anybody but the pool holds it.
fn is_used(caller: &Arc<Caller>) -> bool {
    Arc::strong_count(caller) > 1 || Arc::strong_count(caller.link()) > 1
}

/// Whether two SVIDs are the same one, perhaps told twice.
fn same(one: &Arc<Svid>, other: &Arc<Svid>) -> bool {
    Arc::ptr_eq(one, other) || one.certificates == other.certificates
}
