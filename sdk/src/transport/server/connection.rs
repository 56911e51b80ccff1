// SPDX-License-Identifier: Apache-2.0
//! The life of one connection that a client has opened.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tracing::{debug, warn};

use super::super::cork::Cork;
use super::super::stream::Stream;
use super::super::tls::{Acceptor, describe};
use super::super::{GRACE, MAX_HEADERS};
use super::{Answer, HANDSHAKE, Handler};
use crate::core::{Component, Peer};
use crate::identity::Svid;

/// How often a silent client is asked whether it is there, and how long it has to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection that was told to go away may stay at most, for its streams.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// How many calls may be cancelled before they were looked at: a client that closes many connections at once cancels
/// their monitors.
const MAX_CANCELLED: usize = 4096;

pub(super) struct Connection {
    pub(super) component: Component,
    pub(super) services: Arc<[(&'static str, Handler)]>,
    pub(super) acceptor: watch::Receiver<Acceptor>,
    pub(super) max_calls: u32,
}

impl Connection {
    /// Shakes hands, and serves until the client leaves or has to.
    pub(super) async fn run(mut self, stream: Stream, handshake: OwnedSemaphorePermit) {
        let acceptor = self.acceptor.borrow_and_update().clone();
        let shaken = tokio::select! {
            () = self.component.shutdown().cancelled() => return,
            shaken = timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
        };
        drop(handshake);
        match shaken {
            Ok(Ok((stream, peer))) => self.serve(stream, peer, &acceptor.svid).await,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                debug!("a client left during the handshake");
            }
            Ok(Err(error)) => warn!(reason = describe(&error, &acceptor.svid), "a client is refused"),
            Err(_) => {
                warn!(within = ?HANDSHAKE, "a client is refused: it did not complete the TLS handshake")
            }
        }
    }

    async fn serve(mut self, stream: TlsStream<Stream>, peer: Peer, svid: &Arc<Svid>) {
        debug!(?peer, "a client is connected");
        let calls = Calls {
            services: Arc::clone(&self.services),
            peer,
        };
        let mut connection = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEADERS)
                .max_concurrent_streams(self.max_calls)
                .max_pending_accept_reset_streams(MAX_CANCELLED)
                .keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .serve_connection(TokioIo::new(Cork::new(stream)), calls)
        );
        let (mut ending, mut draining) = (false, false);
        let mut until = Instant::now();
        loop {
            tokio::select! {
                done = connection.as_mut() => {
                    if let Err(error) = done {
                        debug!(%error, "a connection broke");
                    }
                    return;
                }
                () = self.component.shutdown().cancelled(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                    until = Instant::now() + GRACE;
                }
                () = replaced(&mut self.acceptor, svid), if !ending && !draining => {
                    draining = true;
                    debug!("our SVID was replaced; a client is told to connect anew");
                    connection.as_mut().graceful_shutdown();
                    until = Instant::now() + self.component.until(svid.not_after).clamp(GRACE, LONGEST_DRAIN);
                }
                () = sleep_until(until), if ending || draining => {
                    debug!("a connection is closed with calls under way");
                    return;
                }
            }
        }
    }
}

/// Waits until another SVID than this one is presented to clients.
async fn replaced(acceptor: &mut watch::Receiver<Acceptor>, svid: &Svid) {
    let other = |acceptor: &Acceptor| acceptor.svid.certificates != svid.certificates;
    if acceptor.wait_for(other).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Hands the calls of one connection to their services.
struct Calls {
    services: Arc<[(&'static str, Handler)]>,
    peer: Peer,
}

impl hyper::service::Service<http::Request<Incoming>> for Calls {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Answer;

    fn call(&self, mut call: http::Request<Incoming>) -> Answer {
        let path = call.uri().path();
        let name = path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .map(|(name, _)| name);
        let found = self.services.iter().find(|(service, _)| Some(*service) == name);
        let Some((_, handler)) = found else {
            let status = Status::unimplemented(format!("nothing of that name is served here: {path:?}"));
            return Box::pin(std::future::ready(Ok(status.into_http())));
        };
        call.extensions_mut().insert(self.peer.clone());
        handler(call)
    }
}
