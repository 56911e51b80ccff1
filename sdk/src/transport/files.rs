// SPDX-License-Identifier: Apache-2.0
//! The files that travel beside the messages of one unix connection.
//!
//! **Guarantees**: a queued file leaves with the next byte that is written. A received file is known by its device and
//! inode only (it may arrive with bytes of another call), is handed out as a duplicate to everyone who asks, and is
//! closed [`HOLD`] after it last arrived or was asked for, or with the connection. Files are close-on-exec. A second
//! file with a known number is closed at once, so a peer that sends the same one for ever costs nothing.
//! **Limits**: [`MAX_QUEUED`] files wait to be sent; [`MAX_HELD`] are held, the one that was least lately used goes
//! first. While a file is held its inode cannot be reused, so the number stays true.
//! **Cost**: one lock a read or write.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tracing::warn;

use crate::core::{Error, FilePassing, Inode, Result};

/// How many files wait to be sent at most: each leaves with the next message, so more than that is an error of ours.
pub(crate) const MAX_QUEUED: usize = 256;

/// How many received files are held at most.
pub(crate) const MAX_HELD: usize = 256;

/// How long a file is held after it last arrived or was asked for: longer than any call that may need it.
pub(crate) const HOLD: Duration = Duration::from_secs(60);

/// How long after the kernel dropped files a missing one counts as one of them.
const DOUBT: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Files {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    queued: VecDeque<(Inode, OwnedFd)>,
    held: HashMap<Inode, (OwnedFd, Instant)>,
    lost: Option<Instant>,
    ended: bool,
}

impl Files {
    /// Runs `write` with the files that are to go with it, at most `most`, and whether more wait behind them. They
    /// are gone when it has written something.
    pub(crate) fn send_with(
        &self,
        most: usize,
        write: impl FnOnce(&VecDeque<(Inode, OwnedFd)>, usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut state = self.state.lock();
        let count = state.queued.len().min(most);
        let written = write(&state.queued, count);
        if written.as_ref().is_ok_and(|&bytes| bytes > 0) {
            state.queued.drain(..count);
        }
        written
    }

    /// Keeps what the peer has sent.
    pub(crate) fn arrived(&self, file: OwnedFd) {
        let inode = match Inode::of(&file) {
            Ok(inode) => inode,
            Err(error) => return warn!(%error, "a received file cannot be read; it is closed"),
        };
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some((_, used)) = state.held.get_mut(&inode) {
            *used = now;
            return;
        }
        if state.held.len() >= MAX_HELD {
            let oldest = state
                .held
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(&inode, _)| inode);
            if let Some(oldest) = oldest {
                state.held.remove(&oldest);
                warn!(file = %oldest, "a peer has sent more than {MAX_HELD} files; the oldest one is closed");
            }
        }
        state.held.insert(inode, (file, now));
        drop(state);
        self.changed.notify_waiters();
    }

    /// The kernel has dropped files that the peer sent: this process has no room for them.
    pub(crate) fn lost(&self) {
        warn!("the kernel dropped files that a peer sent: raise the limit of open files (RLIMIT_NOFILE)");
        self.state.lock().lost = Some(Instant::now());
        self.changed.notify_waiters();
    }

    /// Closes what nobody has asked for in a while. Called with every read, so that it happens without a timer.
    pub(crate) fn expire(&self) {
        let mut state = self.state.lock();
        if !state.held.is_empty() {
            let now = Instant::now();
            state
                .held
                .retain(|_, (_, used)| now.saturating_duration_since(*used) < HOLD);
        }
    }

    /// The connection has ended: closes everything and tells who waits.
    pub(crate) fn end(&self) {
        let ended = State {
            ended: true,
            ..State::default()
        };
        drop(std::mem::replace(&mut *self.state.lock(), ended));
        self.changed.notify_waiters();
    }

    /// How many files are held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    /// The file, or why it will not come; nothing while it may.
    fn look(&self, inode: Inode) -> Option<Result<OwnedFd>> {
        let mut state = self.state.lock();
        if let Some((file, used)) = state.held.get_mut(&inode) {
            *used = Instant::now();
            return Some(file.try_clone().map_err(|error| {
                Error::exhausted("fd-limit", format!("cannot duplicate the file {inode}: {error}"))
            }));
        }
        let lost = |why: &str| {
            Some(Err(Error::unavailable(
                "fd-lost",
                format!("the file {inode} will not come: {why}"),
            )))
        };
        if state.ended {
            return lost("the connection has ended");
        }
        if state.lost.is_some_and(|at| at.elapsed() < DOUBT) {
            return lost("the kernel dropped it, raise the limit of open files (RLIMIT_NOFILE)");
        }
        None
    }
}

#[async_trait]
impl FilePassing for Files {
    fn send(&self, file: OwnedFd) -> io::Result<Inode> {
        let inode = Inode::of(&file)?;
        let mut state = self.state.lock();
        if state.ended {
            return Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the connection has ended",
            ));
        }
        if state.queued.iter().any(|(queued, _)| *queued == inode) {
            return Ok(inode);
        }
        if state.queued.len() >= MAX_QUEUED {
            let text = format!("{MAX_QUEUED} files wait to be sent to this peer already");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        state.queued.push_back((inode, file));
        Ok(inode)
    }

    async fn receive(&self, inode: Inode, deadline: Instant) -> Result<OwnedFd> {
        let wait = async {
            loop {
                let mut changed = pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(found) = self.look(inode) {
                    return found;
                }
                changed.await;
            }
        };
        timeout_at(deadline, wait).await.unwrap_or_else(|_| {
            let text =
                format!("timeout in recvfd waiting for {inode}: the peer named the file but has not sent it");
            Err(Error::new(Code::DeadlineExceeded, "fd-timeout", text))
        })
    }
}
