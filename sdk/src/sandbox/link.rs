// SPDX-License-Identifier: Apache-2.0
//! File passing between two components of one process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::core::{Error, FilePassing, Inode, Result};

/// How many files one side keeps for the other.
const MAX_FILES: usize = 256;

/// One end of a connection that passes files, as the unix transport does.
pub(super) struct LinkEnd {
    sent: Arc<Side>,
    received: Arc<Side>,
}

/// The files that have arrived at one side.
struct Side {
    files: Mutex<BTreeMap<Inode, OwnedFd>>,
    changed: watch::Sender<()>,
}

impl Side {
    fn new() -> Arc<Self> {
        let (changed, _) = watch::channel(());
        Arc::new(Self {
            files: Mutex::default(),
            changed,
        })
    }

    fn take_copy(&self, inode: Inode) -> Option<io::Result<OwnedFd>> {
        self.files.lock().get(&inode).map(OwnedFd::try_clone)
    }
}

/// Both ends of a new connection.
pub(super) fn pair() -> (LinkEnd, LinkEnd) {
    let (a, b) = (Side::new(), Side::new());
    let one = LinkEnd {
        sent: Arc::clone(&a),
        received: Arc::clone(&b),
    };
    (one, LinkEnd { sent: b, received: a })
}

#[async_trait]
impl FilePassing for LinkEnd {
    fn send(&self, file: OwnedFd) -> io::Result<Inode> {
        let inode = Inode::of(&file)?;
        let mut files = self.sent.files.lock();
        if files.len() >= MAX_FILES && !files.contains_key(&inode) {
            return Err(io::Error::other("the peer holds too many files already"));
        }
        files.entry(inode).or_insert(file);
        drop(files);
        self.sent.changed.send_replace(());
        Ok(inode)
    }

    async fn receive(&self, inode: Inode, deadline: Instant) -> Result<OwnedFd> {
        let mut changed = self.received.changed.subscribe();
        loop {
            if let Some(copy) = self.received.take_copy(inode) {
                return copy.map_err(|error| Error::exhausted("fd-limit", error.to_string()));
            }
            let late = |_| {
                Error::new(
                    tonic::Code::DeadlineExceeded,
                    "fd-timeout",
                    format!("{inode} did not arrive"),
                )
            };
            let ended =
                |_| Error::unavailable("fd-lost", format!("the connection ended before {inode} arrived"));
            timeout_at(deadline, changed.changed())
                .await
                .map_err(late)?
                .map_err(ended)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_arrives_at_the_other_end_under_its_inode() {
        let (near, far) = pair();
        let file = tempfile::tempfile().expect("a file");
        let inode = near.send(file.into()).expect("sent");
        let soon = Instant::now() + Duration::from_secs(1);
        let received = far.receive(inode, soon).await.expect("received");
        assert_eq!(Inode::of(&received).ok(), Some(inode));
        let never = Inode { dev: 1, ino: 1 };
        let error = far.receive(never, soon).await.expect_err("nobody sent it");
        assert_eq!(error.reason(), "fd-timeout");
    }
}
