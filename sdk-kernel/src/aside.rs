// SPDX-License-Identifier: Apache-2.0
//! Lets a wire of a connection make room for another of it: the client's interface takes another name and carries
//! packets on, until the next one has its routes.
//!
//! **Guarantees**: an interface that is set aside stays its record's, so that it can be put back, removed, or found by
//! the next life of the program. Where the kernel does not rename what is up, which it does from 6.2 on, it is
//! removed, as if there were no time to lose.
//! **Cost**: one message, which takes the kernel 20 µs.

use std::sync::Arc;

use nsm_sdk::core::Result;
use nsm_sdk::dataplane::tunnel::RemoteWire;
use tokio::time::Instant;

use crate::asked::Asked;
use crate::holder::is_of;
use crate::kernel::{Kernel, PATIENCE, ask};
use crate::leave;
use crate::make::{Attempt, Spaces};
use crate::netns::Netns;
use crate::record::Record;
use crate::shared::{Claim, Shared};
use crate::station::Station;
use crate::veth;

impl Kernel {
    /// Renames the first end of `wire`; removes the wire where that cannot be.
    pub(crate) async fn put_aside(&self, wire: Asked) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let claim = self.shared.claim(&wire.connection, deadline).await?;
        let Some(serial) = leave::recorded(&self.shared, &wire) else {
            return Ok(());
        };
        let shared = self.shared.clone();
        let what = format!("set the wire of connection {} aside", wire.connection);
        let job = move |station: &mut Station| {
            let _claim = claim;
            if let Err(error) = aside(station, &shared, &wire, serial) {
                tracing::debug!(%error, connection = wire.connection, "removed before there is another");
                shared.doom(serial);
            }
            Ok(())
        };
        ask(self.pool(), deadline, &what, job).await
    }

    /// Has what is in the way of a device that an engine is about to make removed, and waits until it is gone.
    ///
    /// Errors: `interface-taken` when a stranger has the name; `netns-gone`, `not-a-netns`, `deadline`, `kernel`.
    pub async fn make_room(&self, wire: &RemoteWire, deadline: Instant) -> Result<()> {
        let wire = Asked::half(wire);
        let claim = self.shared.claim(&wire.connection, deadline).await?;
        self.vacant(&wire, deadline).await?;
        if self.clear(&wire, deadline, &claim).await? {
            self.vacant(&wire, deadline).await?;
        }
        Ok(())
    }

    /// Whether something was in the way.
    async fn clear(&self, wire: &Asked, deadline: Instant, claim: &Arc<Claim>) -> Result<bool> {
        let (shared, wire, claim) = (self.shared.clone(), wire.clone(), claim.clone());
        let what = format!("make room for the wire of connection {}", wire.connection);
        ask(self.pool(), deadline, &what, move |station| {
            let attempt = Attempt {
                station,
                shared: &shared,
                claim: &claim,
                wire: &wire,
                is_refresh: false,
                deadline,
                is_watched: false,
            };
            attempt.clear()
        })
        .await
    }
}

/// How an interface is called that is set aside.
fn name(index: u32) -> String {
    format!("aside-{index:x}")
}

fn aside(station: &mut Station, shared: &Shared, wire: &Asked, serial: u64) -> Result<()> {
    let record = shared.state().get(serial).cloned();
    let (Some(mut record), Some(interface)) = (record, wire.interfaces().next()) else {
        return Ok(());
    };
    let netns = station.open(&interface.netns)?;
    if let Some(first) = record.ends.first_mut() {
        let (index, name) = (first.index, name(first.index));
        rename(station, &netns, index, &name)?;
        first.end.link.name = name;
    }
    record.broken = true;
    shared.note(record);
    Ok(())
}

fn rename(station: &mut Station, netns: &Netns, index: u32, name: &str) -> Result<()> {
    let mut socket = station.socket(netns)?;
    let answer = socket.execute(veth::rename(index, name));
    let answer = answer.map_err(|error| veth::broken(&netns.id(), &error))?;
    let what = || format!("rename interface {index} in {} to {name}", netns.id());
    answer
        .map(drop)
        .map_err(|refusal| veth::refused(&what(), &refusal))
}

impl Attempt<'_> {
    /// The record with its first end under the name that is asked for again, if only that was in the way of it.
    pub(crate) fn put_back(&mut self, spaces: &Spaces, record: &Record) -> Option<Record> {
        let (netns, interface) = (spaces.first()?, self.wire.interfaces().next()?);
        let mut back = record.clone();
        let first = back.ends.first_mut()?;
        let index = first.index;
        first.end.link.name.clone_from(&interface.name);
        back.broken = true;
        let ids: Vec<_> = spaces.iter().map(|netns| netns.id()).collect();
        let is_aside = record.ends.first()?.end.link.name == name(index);
        if !is_aside || !back.is(self.wire, &ids) {
            return None;
        }
        rename(self.station, netns, index, &interface.name).ok()?;
        self.shared.note(back.clone());
        Some(back)
    }

    /// Whether another wire of the connection, which is set aside, carries packets yet.
    pub(crate) fn is_replacement(&self, record: &Record) -> bool {
        let state = self.shared.state();
        let mut records = state.of(&record.connection);
        let (netns, serial) = (record.ends.first().map(|place| place.netns), record.serial);
        records.any(|other| other.serial != serial && other.ends.first().map(|place| place.netns) == netns)
    }

    /// Has what has the name of the only end removed, unless it is the device that is asked for, or a stranger's.
    fn clear(mut self) -> Result<bool> {
        let wire = self.wire;
        let Some((face, interface)) = wire.ends.first() else {
            return Ok(false);
        };
        let netns = Arc::new(self.station.open(&interface.netns)?);
        match self.holder(&netns, *face, &interface.name)? {
            Some(found) if !is_of(&[&found], wire) => {
                let (seen, place) = found;
                self.evict(&netns, &seen, place).map(|()| true)
            }
            _ => Ok(false),
        }
    }
}
