// SPDX-License-Identifier: Apache-2.0
//! Calls that a connection makes for itself.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Error, Result, Task};

/// What an element may want for its connection, later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Request it again as it stands.
    Refresh,
    /// Close what is there behind `begin`, and choose mechanism and endpoint anew.
    Reselect,
    /// Close it.
    Close,
}

/// Left in [`Ctx::call`](super::Ctx::call) of a close that failed by an element that closes again later, with
/// [`Event::Close`]: `begin` then keeps what the connection has for that.
#[derive(Clone, Copy, Debug)]
pub struct Unfinished;

/// An event that waits for its turn.
pub(crate) struct Queued {
    pub(crate) event: Event,
    /// What it may take at most, once its turn has come.
    pub(crate) within: Duration,
    pub(crate) outcome: oneshot::Sender<Result<()>>,
    withdrawn: CancellationToken,
}

impl Queued {
    /// Whether nobody wants it any more.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.is_cancelled() || self.outcome.is_closed()
    }
}

/// The way to `begin` for elements behind it: events of a connection run there one at a time, in order with the
/// calls of its users.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Box<Queued>>,
    withdrawn: CancellationToken,
}

impl Events {
    pub(crate) fn new(queue: mpsc::Sender<Box<Queued>>) -> Self {
        Self {
            queue,
            withdrawn: CancellationToken::new(),
        }
    }

    /// Runs `event` when its turn comes, and waits for its outcome. A connection that is closed meanwhile
    /// answers `closed`. Dropping the future before its turn comes withdraws the event.
    ///
    /// Must not be awaited inside a call of the same connection, which would wait for itself.
    pub async fn run(&self, event: Event) -> Result<()> {
        self.run_within(event, Duration::MAX).await
    }

    /// The same with at most `within` from its turn on, if that is less than the connection's first request had.
    pub async fn run_within(&self, event: Event, within: Duration) -> Result<()> {
        let closed = || Error::not_found("closed", "the connection was closed before its event could run");
        let (outcome, wait) = oneshot::channel();
        let queued = Box::new(Queued {
            event,
            within,
            outcome,
            withdrawn: self.withdrawn.clone(),
        });
        self.queue.send(queued).await.map_err(|_| closed())?;
        wait.await.map_err(|_| closed())?
    }

    /// The same way for a task; what it asks for is withdrawn when the guard is dropped.
    pub(crate) fn withdrawable(&self) -> (Self, DropGuard) {
        let withdrawn = CancellationToken::new();
        let events = Self {
            queue: self.queue.clone(),
            withdrawn: withdrawn.clone(),
        };
        (events, withdrawn.drop_guard())
    }
}

/// A running task of a connection ([`Ctx::later`](super::Ctx::later)), ended when this is dropped. At that moment
/// an event that it asked for is withdrawn, unless it runs already: then it runs to its end.
#[derive(Debug)]
pub struct Later {
    _withdraw: DropGuard,
    _task: Task,
}

impl Later {
    pub(crate) fn new(withdraw: DropGuard, task: Task) -> Self {
        Self {
            _withdraw: withdraw,
            _task: task,
        }
    }
}
