// SPDX-License-Identifier: Apache-2.0
//! Two connections, of which each sends on the files that the other one receives.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// How many files one message carries.
const FILES: usize = 16;

/// Files on their way from one connection to the other.
type Files = Arc<Mutex<VecDeque<OwnedFd>>>;

/// A connection that takes files along.
pub(super) struct Carrier {
    socket: UnixStream,
    arrived: Files,
    leaving: Files,
}

impl Carrier {
    /// Both, joined.
    pub(super) fn pair(sockets: [UnixStream; 2]) -> [Self; 2] {
        let [there, back] = [Files::default(), Files::default()];
        let [one, other] = sockets;
        [
            Self {
                socket: one,
                arrived: Arc::clone(&there),
                leaving: Arc::clone(&back),
            },
            Self {
                socket: other,
                arrived: back,
                leaving: there,
            },
        ]
    }

    fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let read = recvmsg(&self.socket, &mut [IoSliceMut::new(into)], &mut beside, flags)?;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.arrived.lock().extend(files);
            }
        }
        Ok(read.bytes)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut leaving = self.leaving.lock();
        let count = leaving.len().min(FILES);
        let files: Vec<_> = leaving.iter().take(count).map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if count > 0 {
            beside.push(SendAncillaryMessage::ScmRights(&files));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut beside, flags)?;
        leaving.drain(..count);
        Ok(sent)
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let into = buf.initialize_unfilled();
            match self.socket.try_io(Interest::READABLE, || self.receive(into)) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_io(Interest::WRITABLE, || self.send(bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
