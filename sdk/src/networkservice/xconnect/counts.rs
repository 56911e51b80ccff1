// SPDX-License-Identifier: Apache-2.0
//! What has gone through a wire, read where no request waits for it.
//!
//! **Guarantees**: a request is told what was read last, zeros before that, and never waits for a read. A connection
//! has at most one read under way, not more often than every [`AGE`]; all of one element go one after another. A read
//! ends with its connection.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::debug;

use super::plane::{Part, Planes};
use crate::core::{Ctx, Task};
use crate::dataplane::Counters;

/// How old what was read is before it is read again.
const AGE: Duration = Duration::from_secs(5);

/// The counters of a wire: of the client's and of the endpoint's end.
pub(super) type Counted = (Counters, Counters);

/// Reads counters, one wire at a time.
pub(super) struct Counts(Arc<Semaphore>);

/// What is known of one connection's wire.
#[derive(Default)]
struct Known {
    last: Arc<Mutex<Last>>,
    /// Ends with the connection.
    reading: Option<Task>,
}

#[derive(Default)]
struct Last {
    counted: Counted,
    read: Option<Instant>,
    is_reading: bool,
}

impl Counts {
    /// Reads nothing yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// What was read last of the connection's wire.
    pub(super) fn last(&self, ctx: &Ctx) -> Counted {
        let last = ctx.store().with(|known: &Known| known.last.lock().counted);
        last.unwrap_or_default()
    }

    /// Has the counters of the connection's `wire` read soon, for whom is told next.
    pub(super) fn renew(&self, ctx: &Ctx, planes: &Planes, wire: &Arc<Part>) {
        ctx.store().update(|known: &mut Known| {
            let mut last = known.last.lock();
            if last.is_reading || last.read.is_some_and(|read| read.elapsed() < AGE) {
                return;
            }
            last.is_reading = true;
            drop(last);
            let (last, turns) = (Arc::clone(&known.last), Arc::clone(&self.0));
            let (planes, wire) = (planes.clone(), Arc::clone(wire));
            let read = async move {
                let turn = turns.acquire_owned().await;
                let counted = planes.counters(&wire).await;
                drop(turn);
                let mut last = last.lock();
                (last.is_reading, last.read) = (false, Some(Instant::now()));
                match counted {
                    Ok(counted) => last.counted = counted,
                    Err(error) => debug!(%error, "no counters"),
                }
            };
            known.reading = Some(ctx.component().spawn("xconnect-counters", read));
        });
    }

    /// Forgets what was read of a wire that the connection has no more.
    pub(super) fn forget(&self, ctx: &Ctx) {
        drop(ctx.store().take::<Known>());
    }
}
