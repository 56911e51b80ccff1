// SPDX-License-Identifier: Apache-2.0
//! The byte stream below TLS: a unix socket that passes files, or TCP.
//!
//! **Guarantees**: every read of a unix socket is a `recvmsg` with room for [`MAX_FILES`] files, for a plain `read`
//! makes the kernel discard them; they are close-on-exec from birth. Queued files leave with the next write. When more
//! than [`MAX_FILES`] wait, a write takes one byte only, so that the bytes after it carry the rest and no file waits
//! for a byte that nobody has to write.
//! **On failure**: files that the kernel could not deliver are reported, not lost in silence.
//! **On close**: all files of the connection are closed, and who waits for one is told.
//! **Cost**: that of the plain socket, and 5 µs for a file.

mod socket;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::files::Files;
use socket::Socket;

/// How many files one message carries: what a peer makes room for.
pub(crate) const MAX_FILES: usize = 64;

/// When the kernel asks whether a silent TCP peer is still there, how often, and how long unanswered data may wait.
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_INTERVAL: Duration = Duration::from_secs(5);
const TCP_PROBES: u32 = 3;
const TCP_USER_TIMEOUT_MS: u32 = 20_000;

/// See the [module](self).
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(Socket, Arc<Files>),
    Tcp(TcpStream),
}

impl Stream {
    /// A unix stream that passes files.
    pub(crate) fn unix(socket: UnixStream) -> io::Result<Self> {
        Ok(Self::Unix(Socket::new(socket)?, Arc::default()))
    }

    /// A TCP stream that sends at once and notices when its peer's machine is gone.
    pub(crate) fn tcp(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        sockopt::set_tcp_keepidle(&socket, TCP_IDLE)?;
        sockopt::set_tcp_keepintvl(&socket, TCP_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&socket, TCP_PROBES)?;
        sockopt::set_tcp_user_timeout(&socket, TCP_USER_TIMEOUT_MS)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        Ok(Self::Tcp(socket))
    }

    /// The files that travel on it; none on TCP.
    pub(crate) fn files(&self) -> Option<Arc<Files>> {
        match self {
            Self::Unix(_, files) => Some(Arc::clone(files)),
            Self::Tcp(_) => None,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Self::Unix(_, files) = self {
            files.end();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket, files) => {
                let read = ready!(socket.poll_read(cx, |socket| {
                    files.expire();
                    receive(socket, files, buf.initialize_unfilled())
                }))?;
                buf.advance(read);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Unix(socket, files) => socket.poll_write(cx, |socket| send(socket, files, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket, _) => Poll::Ready(socket.shutdown()),
        }
    }
}

/// Reads into `into`, and keeps the files that come along.
fn receive(socket: BorrowedFd<'_>, files: &Files, into: &mut [u8]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let read = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut beside, flags)?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            received.for_each(|file| files.arrived(file));
        }
    }
    if read.flags.contains(ReturnFlags::CTRUNC) {
        files.lost();
    }
    Ok(read.bytes)
}

/// Writes from `bufs`, and with the first byte the files that wait.
fn send(socket: BorrowedFd<'_>, files: &Files, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    files.send_with(MAX_FILES, |queued, count| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut with = [socket; MAX_FILES];
        for (place, (_, file)) in with.iter_mut().zip(queued.iter().take(count)) {
            *place = file.as_fd();
        }
        let with: &[BorrowedFd<'_>] = with.get(..count).unwrap_or_default();
        if !with.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(with));
        }
        let first = bufs.iter().find_map(|buf| buf.get(..1)).unwrap_or_default();
        if queued.len() > count {
            Ok(sendmsg(socket, &[IoSlice::new(first)], &mut beside, flags)?)
        } else {
            Ok(sendmsg(socket, bufs, &mut beside, flags)?)
        }
    })
}

#[cfg(test)]
mod tests;
