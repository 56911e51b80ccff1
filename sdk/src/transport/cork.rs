// SPDX-License-Identifier: Apache-2.0
//! Gathers what is written in one turn of the runtime, so that it leaves at once.
//!
//! HTTP/2 flushes after every frame. Of a call, headers, message and end would each become a TLS record and a system
//! call of their own, and each would wake the peer, which then waits for the rest.
//!
//! **Guarantees**: what is written stays in order. A flush succeeds at once and is made up for when the task that
//! asked for it is polled next, which it is made to be as soon as all others had their turn: it has to flush again
//! whenever it is polled, as connections of HTTP/2 do. A shutdown writes everything first. An error shows at the next
//! call.
//! **Limits**: [`MOST`] bytes are gathered; more are written through.
//! **Cost**: one copy and one more poll of the connection for each batch; a system call and a record less for each
//! frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is gathered: what fits into one TLS record.
const MOST: usize = 16 * 1024;

/// How much there usually is: a call with what goes before and after its message.
const USUAL: usize = 4096;

/// See the [module](self).
pub(crate) struct Cork<S> {
    stream: S,
    gathered: BytesMut,
    /// Whether something was gathered since the last flush.
    is_fresh: bool,
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            gathered: BytesMut::new(),
            is_fresh: false,
        }
    }

    /// Writes everything that was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        // Most connections are idle most of the time.
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() + buf.len() > MOST {
            ready!(self.poll_drain(cx))?;
        }
        if buf.len() > MOST {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        if self.gathered.is_empty() {
            self.gathered.reserve(USUAL);
        }
        self.gathered.extend_from_slice(buf);
        self.is_fresh = true;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_fresh) {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use futures::future::poll_fn;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Remembers every write by itself.
    #[derive(Default)]
    struct Recorder(Vec<Vec<u8>>);

    impl AsyncWrite for Recorder {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.to_vec());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn write(cork: &mut Cork<impl AsyncWrite + Unpin>, bytes: &[u8]) {
        let written = poll_fn(|cx| Pin::new(&mut *cork).poll_write(cx, bytes)).await;
        assert_eq!(written.expect("written"), bytes.len());
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_leaves_at_once_in_the_next() {
        let (mut cork, count) = (Cork::new(Recorder::default()), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        for (turn, part) in [b"headers, ".as_slice(), b"message, ", b"end"]
            .into_iter()
            .enumerate()
        {
            write(&mut cork, part).await;
            assert!(Pin::new(&mut cork).poll_flush(&mut cx).is_ready());
            assert_eq!(count.0.load(Ordering::Relaxed), turn + 1);
        }
        assert!(cork.stream.0.is_empty());
        assert!(Pin::new(&mut cork).poll_flush(&mut cx).is_ready());
        assert!(Pin::new(&mut cork).poll_flush(&mut cx).is_ready());
        assert_eq!(cork.stream.0, [b"headers, message, end"]);
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_written_through_in_order() {
        let (near, mut far) = tokio::io::duplex(4 * MOST);
        let mut cork = Cork::new(near);
        let parts = [vec![1; 10], vec![2; MOST], vec![3; MOST + 1], vec![4; 10]];
        for part in &parts {
            write(&mut cork, part).await;
        }
        poll_fn(|cx| Pin::new(&mut cork).poll_shutdown(cx))
            .await
            .expect("shut down");
        drop(cork);
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.expect("read");
        assert_eq!(read, parts.concat());
    }
}
