// SPDX-License-Identifier: Apache-2.0
//! Calls that a connection makes for itself.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Error, Result};

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

/// An event, whether it was revoked meanwhile, and where its outcome is awaited.
pub(crate) type Queued = (Event, CancellationToken, oneshot::Sender<Result<()>>);

/// The way to `begin` for elements behind it: events of a connection run there one at a time, in order with the
/// calls of its users.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Queued>);

impl Events {
    pub(crate) fn new(queue: mpsc::Sender<Queued>) -> Self {
        Self(queue)
    }

    /// Runs `event` when its turn comes, and waits for its outcome. A connection that is closed meanwhile
    /// answers `closed`. Dropping the future before its turn comes withdraws the event.
    ///
    /// Must not be awaited inside a call of the same connection, which would wait for itself.
    pub async fn run(&self, event: Event) -> Result<()> {
        self.run_unless(&CancellationToken::new(), event).await
    }

    /// Like [`Events::run`], but answers `closed` and does nothing when `revoked` fires before its turn comes: for
    /// timers that a request of the connection may overtake. (Dropping a task drops its future a little later.)
    pub async fn run_unless(&self, revoked: &CancellationToken, event: Event) -> Result<()> {
        let closed = || Error::not_found("closed", "the connection was closed before its event could run");
        let (outcome, wait) = oneshot::channel();
        let queued = (event, revoked.clone(), outcome);
        self.0.send(queued).await.map_err(|_| closed())?;
        wait.await.map_err(|_| closed())?
    }
}
