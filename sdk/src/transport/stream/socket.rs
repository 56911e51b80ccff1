// SPDX-License-Identifier: Apache-2.0
//! A unix socket that is woken for what it waits for only.
//!
//! Whoever asks the kernel about both directions is woken each time its peer has read something, with nothing to do.
//! So this asks about reads, and about writes only while one waits for room.
//!
//! **Cost**: a second descriptor while a write waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::net::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Socket {
    reads: AsyncFd<OwnedFd>,
    /// There while a write waits.
    writes: Option<AsyncFd<OwnedFd>>,
}

impl Socket {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        let socket = OwnedFd::from(socket.into_std()?);
        Ok(Self {
            reads: registered(socket, Interest::READABLE)?,
            writes: None,
        })
    }

    /// Runs `read` when there is something to be read, until it does not say `WouldBlock`.
    pub(super) fn poll_read<R>(
        &self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            let mut ready = ready!(self.reads.poll_read_ready(cx))?;
            if let Ok(done) = ready.try_io(|socket| read(socket.as_fd())) {
                return Poll::Ready(done);
            }
        }
    }

    /// Runs `write`, and again whenever there is room, until it does not say `WouldBlock`.
    pub(super) fn poll_write<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            if let Some(writes) = &self.writes {
                let mut ready = ready!(writes.poll_write_ready(cx))?;
                if let Ok(done) = ready.try_io(|socket| write(socket.as_fd())) {
                    self.writes = None;
                    return Poll::Ready(done);
                }
                continue;
            }
            match write(self.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let socket = self.reads.get_ref().try_clone()?;
                    self.writes = Some(registered(socket, Interest::WRITABLE)?);
                }
                done => return Poll::Ready(done),
            }
        }
    }

    /// Tells the peer that nothing more is written.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        Ok(shutdown(self, Shutdown::Write)?)
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types that close or change their descriptor, which this one does not"
)]
fn registered(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reads.get_ref().as_fd()
    }
}
