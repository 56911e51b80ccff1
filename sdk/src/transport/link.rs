// SPDX-License-Identifier: Apache-2.0
//! One connection to another component, and the calls that share it.
//!
//! **Guarantees**: it is open only when the server has answered, so that a server which refuses our certificate is
//! found out while dialling and not by the first call. Calls run side by side. When the server says that it goes away
//! (it drains, or its SVID was replaced), the link takes no more calls while those under way finish.
//! **On failure**: calls under way end, and later ones are refused; nothing is dialled again behind their back, for
//! files and tokens belong to this very connection.
//! **On close**: when its last user is gone, or 5 s after the component ends.
//! **Cost**: of a call that of HTTP/2 over TLS; one task, besides those of the HTTP/2 implementation.

mod wire;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::sleep;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::debug;

use super::connect::{connect, explain};
use super::cork::Cork;
use super::files::Files;
use super::tls::{Connector, describe};
use super::{Address, GRACE, MAX_HEADERS};
use crate::core::{Component, Error, Peer, Result};
use wire::{Watch, Wire};

/// See the [module](self).
pub(crate) struct Link {
    target: String,
    peer: Peer,
    files: Option<Arc<Files>>,
    sender: SendRequest<Body>,
    watch: Arc<Watch>,
}

impl Link {
    /// Opens a connection; the caller bounds the time.
    ///
    /// Errors: `peer-unreachable`.
    pub(crate) async fn open(
        component: &Component,
        connector: &Connector,
        address: &Address,
    ) -> Result<Self> {
        let target = address.to_string();
        let failed = |why: String| {
            Error::unavailable("peer-unreachable", format!("cannot connect to {target}: {why}"))
        };
        let stream = connect(address)
            .await
            .map_err(|error| failed(explain(address, &error)))?;
        let (svid, files) = (Arc::clone(&connector.svid), stream.files());
        let (stream, peer) = connector
            .connect(stream)
            .await
            .map_err(|error| failed(describe(&error, &svid)))?;
        let watch = Arc::new(Watch::new(svid));
        let io = Wire {
            stream,
            watch: Arc::clone(&watch),
        };
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADERS)
            // Who drops a stream races with what the server still sends on it. The library counts each such frame as an
            // offence and ends the connection at the 1024th of its life, however long that is.
            .max_local_error_reset_streams(None)
            .handshake::<_, Body>(TokioIo::new(Cork::new(io)))
            .await
            .map_err(|error| failed(watch.failure().unwrap_or_else(|| chain(&error))))?;
        let driver = drive(component.clone(), Arc::clone(&watch), connection);
        component.spawn_detached("link", driver);
        if !watch.opened().await {
            return Err(failed(
                watch.failure().unwrap_or_else(|| "the connection ended".into()),
            ));
        }
        Ok(Self {
            target,
            peer,
            files,
            sender,
            watch,
        })
    }

    /// The URL of the other end.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// The server, as TLS has proven it.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether it takes calls.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Closes received files that nobody has asked for in a while, if nothing is read that would.
    pub(crate) fn expire_files(&self) {
        if let Some(files) = &self.files {
            files.expire();
        }
    }

    /// What generated clients call through.
    pub(crate) fn transport(&self) -> Transport {
        Transport(self.sender.clone())
    }

    /// What a call's status means: the peer's word, or a failure of the transport.
    ///
    /// Errors: `connection-gone` when the call was not sent, so that dialling anew helps at once; `peer-unreachable`
    /// when the connection broke under it; the peer's own otherwise.
    pub(crate) fn failed(&self, status: Status) -> Error {
        let target = &self.target;
        let Some(cause) = std::error::Error::source(&status) else {
            return Error::from(status);
        };
        if cause.is::<Gone>() {
            let text = format!("the connection to {target} ended before the call was sent; dial again");
            return Error::new(Code::Aborted, "connection-gone", text);
        }
        let why = self.watch.failure().unwrap_or_else(|| chain(cause));
        Error::unavailable(
            "peer-unreachable",
            format!("the connection to {target} broke: {why}"),
        )
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("target", &self.target)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Hands calls to the connection.
#[derive(Clone)]
pub(crate) struct Transport(SendRequest<Body>);

/// The connection ended before the call was sent.
#[derive(Debug, thiserror::Error)]
#[error("the connection has ended")]
struct Gone;

impl tower::Service<http::Request<Body>> for Transport {
    type Response = http::Response<Incoming>;
    type Error = tonic::codegen::StdError;
    type Future = tonic::codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = self.0.try_send_request(request);
        Box::pin(async move {
            response.await.map_err(|mut error| match error.take_message() {
                Some(_) => Gone.into(),
                None => error.into_error().into(),
            })
        })
    }
}

/// Runs the connection until nobody uses it. It is polled after every read, for it learns only when polled that the
/// server goes away and no further call must be sent.
async fn drive(
    component: Component,
    watch: Arc<Watch>,
    connection: http2::Connection<TokioIo<Cork<Wire>>, Body, TokioExecutor>,
) {
    let mut connection = pin!(connection);
    let driven = poll_fn(|cx| {
        watch.wake_when_heard(cx.waker());
        connection.as_mut().poll(cx)
    });
    let ended = async {
        component.shutdown().cancelled().await;
        sleep(GRACE).await;
    };
    tokio::select! {
        done = driven => if let Err(error) = done {
            debug!(error = chain(&error), "a connection broke");
        },
        () = ended => {}
    }
    watch.ended();
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
