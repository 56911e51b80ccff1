// SPDX-License-Identifier: Apache-2.0
//! The stream below HTTP/2, and what is seen of the connection there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_rustls::client::TlsStream;

use super::super::stream::Stream;
use super::super::tls::describe;
use crate::identity::Svid;

/// What is known of a connection below HTTP/2.
pub(super) struct Watch {
    svid: Arc<Svid>,
    /// Whether the server has said anything after the handshake.
    heard: AtomicBool,
    /// Told when it has, or when the connection has ended before.
    opened: Notify,
    /// Why it broke.
    failure: Mutex<Option<String>>,
    /// Wakes the driver when something was read.
    driver: AtomicWaker,
}

impl Watch {
    pub(super) fn new(svid: Arc<Svid>) -> Self {
        Self {
            svid,
            heard: AtomicBool::new(false),
            opened: Notify::new(),
            failure: Mutex::default(),
            driver: AtomicWaker::new(),
        }
    }

    /// Why it broke, if it has.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Waits until the server has spoken; false when the connection ended before.
    pub(super) async fn opened(&self) -> bool {
        self.opened.notified().await;
        self.heard.load(Ordering::Acquire)
    }

    /// The connection has ended: nobody need wait for it to open.
    pub(super) fn ended(&self) {
        self.opened.notify_one();
    }

    /// Lets `waker` be woken by the next read.
    pub(super) fn wake_when_heard(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    fn heard(&self) {
        if !self.heard.swap(true, Ordering::AcqRel) {
            self.opened.notify_one();
        }
        self.driver.wake();
    }

    fn broke(&self, error: &io::Error) {
        self.failure
            .lock()
            .get_or_insert_with(|| describe(error, &self.svid));
    }
}

/// The stream of a link, which tells its watch what happens.
pub(super) struct Wire {
    pub(super) stream: TlsStream<Stream>,
    pub(super) watch: Arc<Watch>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        match &read {
            Ok(()) if buf.filled().len() > before => self.watch.heard(),
            Ok(()) => self.watch.broke(&io::ErrorKind::UnexpectedEof.into()),
            Err(error) => self.watch.broke(error),
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
