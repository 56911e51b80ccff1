// SPDX-License-Identifier: Apache-2.0
//! What the callers and the threads of a data plane share.

use std::collections::BTreeMap;
use std::sync::Arc;

use nsm_sdk::core::{Component, Error, Result};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::asked::Asked;
use crate::doomed::{Doomed, Remains};
use crate::journal::{Entry, Journal};
use crate::leftover::Leftover;
use crate::monitor::Monitor;
use crate::netns::NetnsId;
use crate::reaper::Reaper;
use crate::record::Record;
use crate::state::State;

/// How many lost connections are kept for a listener that is slow.
const MAX_LOST: usize = 1024;

/// Distinguishes interfaces that are being removed from those that are kept.
const DOOMED: u32 = 1 << 31;

/// See the [module](self).
pub(crate) struct Shared {
    pub(crate) component: Component,
    pub(crate) reaper: Reaper,
    pub(crate) lost: broadcast::Sender<String>,
    /// Tells of changes of the network between nodes.
    pub(crate) underlay: watch::Sender<()>,
    group: u32,
    state: Mutex<State>,
    /// Tells those who wait for a name or a connection that some may be free.
    changed: watch::Sender<()>,
    journal: Option<Journal>,
    monitor: Option<Monitor>,
}

impl Shared {
    pub(crate) fn new(
        component: &Component,
        group: u32,
        journal: Option<Journal>,
        monitor: Option<Monitor>,
    ) -> Self {
        Self {
            component: component.clone(),
            reaper: Reaper::default(),
            lost: broadcast::Sender::new(MAX_LOST),
            underlay: watch::Sender::new(()),
            group,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            journal,
            monitor,
        }
    }

    /// The group of our interfaces.
    pub(crate) fn group(&self) -> u32 {
        self.group
    }

    /// The group of those that are being removed.
    pub(crate) fn doomed_group(&self) -> u32 {
        self.group ^ DOOMED
    }

    /// What is known. Not to be held while the kernel is asked.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The socket on which the kernel reports, if there is one.
    pub(crate) fn monitor(&self) -> Option<&Monitor> {
        self.monitor.as_ref()
    }

    /// Wakes those who wait.
    pub(crate) fn announce(&self) {
        self.changed.send_replace(());
    }

    /// Takes note of everything that the kernel has reported until now.
    pub(crate) fn hear(&self) {
        if let Some(monitor) = &self.monitor {
            monitor.hear(&mut self.state(), &self.lost);
        }
    }

    /// Whether `wire` is as it should be, as far as is known.
    pub(crate) fn is_made(&self, wire: &Asked, spaces: &[NetnsId]) -> bool {
        let (Some((face, _)), Some(first)) = (wire.ends.first(), spaces.first()) else {
            return false;
        };
        self.hear();
        let state = self.state();
        state.find(&wire.connection, *face, *first).is_some_and(|record| {
            !record.broken
                && !record.settling
                && self.monitor.is_some()
                && record.is(wire, spaces)
                && record.asked.as_ref().is_some_and(|asked| asked.is_same(wire))
        })
    }

    /// Waits until `free` says so.
    pub(crate) async fn until(
        &self,
        what: &str,
        deadline: Instant,
        mut free: impl FnMut(&mut State) -> bool,
    ) -> Result<()> {
        let mut changed = self.changed.subscribe();
        while !free(&mut self.state()) {
            match tokio::time::timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(crate::station::ended()),
                Err(_) => return Err(Error::deadline(format!("{what} within the deadline"))),
            }
        }
        Ok(())
    }

    /// Waits for the connection's turn.
    pub(crate) async fn claim(self: &Arc<Self>, connection: &str, deadline: Instant) -> Result<Arc<Claim>> {
        let what = format!("connection {connection} was in work and could not be taken up");
        self.until(&what, deadline, |state| state.claim(connection))
            .await?;
        Ok(Arc::new(Claim {
            shared: self.clone(),
            connection: connection.to_string(),
        }))
    }

    /// Whether there can be one more wire.
    pub(crate) fn has_room(&self) -> Result<()> {
        self.state().has_room()
    }

    /// Notes `record`, for this life and the next.
    pub(crate) fn note(&self, record: Record) {
        if let Some(journal) = &self.journal {
            journal.set(&record);
        }
        self.state().put(record);
    }

    /// What the journal told of earlier lives when it was opened, and of this one since.
    pub(crate) fn entries(&self) -> BTreeMap<u64, Entry> {
        self.journal.as_ref().map(Journal::entries).unwrap_or_default()
    }

    /// Has the wires removed that nobody has asked for since an earlier life made them. Waits for those that somebody
    /// is asking for right now.
    pub(crate) async fn doom_orphans(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let orphans: Vec<u64> = {
                let mut state = self.state();
                let orphans = state.all().filter(|record| record.orphan);
                orphans.map(|record| record.serial).collect()
            };
            let is_kept = |serial: &u64| !self.doom_orphan(*serial);
            if orphans.iter().filter(|serial| is_kept(serial)).count() == 0
                || changed.changed().await.is_err()
            {
                return;
            }
        }
    }

    /// Forgets a record of which nothing was made.
    pub(crate) fn forget(&self, record: &Record) {
        let mut state = self.state();
        state.take(record.serial);
        for place in record.places() {
            state.release(place.netns, place.end.rules.iter().map(|rule| rule.table));
        }
        drop(state);
        if let Some(journal) = &self.journal {
            journal.gone(record.serial);
        }
    }

    /// Has the record's wire removed. Does nothing when it is being removed already. Only for who has claimed its
    /// connection: whoever is at work on it would find his interface gone.
    pub(crate) fn doom(&self, serial: u64) {
        let taken = self.state().condemn(serial);
        self.bury(taken);
    }

    /// Has the record's wire removed if nobody is at work on its connection and it `is_meant`; false when not.
    pub(crate) fn doom_idle(&self, serial: u64, is_meant: impl FnOnce(&Record) -> bool) -> bool {
        let mut state = self.state();
        let is_idle = |record: &mut Record| (is_meant(record), record.connection.clone());
        let (is_meant, connection) = state.get(serial).map(is_idle).unwrap_or_default();
        if !is_meant || state.is_claimed(&connection) {
            return false;
        }
        let taken = state.condemn(serial);
        drop(state);
        self.bury(taken);
        true
    }

    /// The same if nobody has asked for the wire since an earlier life made it.
    pub(crate) fn doom_orphan(&self, serial: u64) -> bool {
        let is_done = self.doom_idle(serial, |record| record.orphan);
        if is_done {
            self.collected(Leftover::Unwanted);
        }
        is_done
    }

    /// Counts what an earlier life left and that is removed now.
    pub(crate) fn collected(&self, left: Leftover) {
        left.count(self.component.meters());
    }

    fn bury(&self, taken: Option<Record>) {
        let Some(record) = taken else { return };
        if let Some(journal) = &self.journal {
            journal.doom(record.serial);
        }
        self.reaper.push(Doomed::of(&record));
    }

    /// Has what nobody has a record of removed.
    pub(crate) fn doom_remains(&self, ends: Vec<Remains>) {
        if ends.is_empty() {
            return;
        }
        let mut state = self.state();
        for end in &ends {
            end.place.keys().for_each(|key| state.doom(key));
            state.found(end.place.index);
        }
        drop(state);
        self.reaper.push(Doomed { serial: None, ends });
    }

    /// Takes note that what was doomed is gone.
    pub(crate) fn buried(&self, together: &[Doomed]) {
        let mut state = self.state();
        for end in together.iter().flat_map(|doomed| &doomed.ends) {
            end.place.keys().for_each(|key| state.undoom(&key));
            state.release(end.place.netns, end.place.end.rules.iter().map(|rule| rule.table));
        }
        drop(state);
        if let Some(journal) = &self.journal {
            let serials = together.iter().filter_map(|doomed| doomed.serial);
            serials.for_each(|serial| journal.gone(serial));
        }
    }
}

/// The right to work on a connection, given back when this is dropped.
pub(crate) struct Claim {
    shared: Arc<Shared>,
    connection: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.state().unclaim(&self.connection);
        self.shared.announce();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::record::Place;

    fn place(index: u32) -> Place {
        Place {
            netns: NetnsId { device: 0, inode: 0 },
            index,
            end: crate::end::End::default(),
        }
    }

    fn orphan(serial: u64, connection: &str) -> Record {
        Record {
            serial,
            connection: connection.into(),
            ends: vec![place(1), place(2)],
            asked: None,
            settling: false,
            broken: true,
            orphan: true,
            joined: None,
        }
    }

    #[tokio::test]
    async fn nobody_removes_the_wire_of_a_connection_that_is_in_work() {
        let shared = Arc::new(Shared::new(&Component::new("test"), 1, None, None));
        shared.note(orphan(7, "c"));
        let late = Instant::now() + Duration::from_secs(1);
        let claim = shared.claim("c", late).await.expect("free");
        assert!(!shared.doom_idle(7, |_| true));
        let mut grace = Box::pin(shared.doom_orphans());
        assert!(grace.as_mut().now_or_never().is_none());
        assert!(shared.state().get(7).is_some());
        drop(claim);
        grace.await;
        assert!(shared.state().get(7).is_none());
    }

    #[test]
    fn a_wire_that_somebody_asked_for_meanwhile_is_no_orphan() {
        let shared = Shared::new(&Component::new("test"), 1, None, None);
        shared.note(Record {
            orphan: false,
            ..orphan(7, "c")
        });
        assert!(!shared.doom_idle(7, |record| record.orphan));
        assert!(shared.doom_idle(7, |_| true) && !shared.doom_idle(7, |_| true));
    }
}
