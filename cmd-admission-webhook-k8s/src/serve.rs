// SPDX-License-Identifier: Apache-2.0
//! HTTPS: reviews at [`PATH`], and whether we are ready at [`READY`].
//!
//! **Guarantees**: a caller gets an answer or an error of HTTP; a new certificate is presented from the next connection
//! on. When the component ends, reviews under way are answered.
//! **Limits**: the constants of this file. Who is beyond them waits in the listener's backlog.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nsm_sdk::core::{Component, Error, Result};
use nsm_sdk::transport::Address;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::certificate::Presented;
use crate::registration::PATH;
use crate::review::Reviewer;

/// Where probes ask.
const READY: &str = "/ready";

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a caller may be silent.
const SILENCE: Duration = Duration::from_secs(120);

/// How long a review may take from its first byte to the answer.
const REVIEW: Duration = Duration::from_secs(10);

/// How many connections are open at the same time.
const MAX_CONNECTIONS: usize = 1024;

/// How large a review may be, bytes: the API server takes objects of 3 MiB, and a review may hold two.
const MAX_REVIEW: usize = 8 << 20;

/// How long accepting pauses when descriptors or memory have run out.
const PAUSE: Duration = Duration::from_millis(200);

type Answer = Response<Full<Bytes>>;

/// Who serves.
struct Server {
    component: Component,
    presented: Presented,
    reviewer: Reviewer,
}

/// Serves in tasks of the component until it ends. Returns the URL as it was bound.
///
/// Errors: `bad-url`, `listen`.
pub(crate) async fn listen(
    component: &Component,
    url: &str,
    presented: Presented,
    reviewer: Reviewer,
) -> Result<String> {
    let Address::Tcp(authority) = url.parse()? else {
        let text = format!("the API server calls webhooks by TCP, and {url:?} is none; write tcp://:443");
        return Err(Error::invalid("bad-url", text));
    };
    let cannot =
        |error: std::io::Error| Error::unavailable("listen", format!("cannot listen on {url}: {error}"));
    let listener = bind(&authority).await.map_err(cannot)?;
    let bound = format!("https://{}", listener.local_addr().map_err(cannot)?);
    let server = Arc::new(Server {
        component: component.clone(),
        presented,
        reviewer,
    });
    component.spawn_detached("listener", async move {
        tokio::select! {
            () = server.component.shutdown().cancelled() => {}
            () = server.accept(&listener) => {}
        }
    });
    Ok(bound)
}

/// Binds `host:port`; without a host every address, of IPv4 only where there is no other.
async fn bind(authority: &str) -> std::io::Result<TcpListener> {
    match authority.strip_prefix(':').map(str::parse) {
        Some(Ok(port)) => {
            let all: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
            TcpListener::bind(&all.map(|address| SocketAddr::new(address, port))[..]).await
        }
        _ => TcpListener::bind(authority).await,
    }
}

impl Server {
    /// Accepts for ever.
    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = Arc::clone(self);
                    let serving = async move { server.serve(stream, permit).await };
                    self.component.spawn_detached("connection", serving);
                }
                Err(error) => {
                    warn!(%error, "accepting pauses");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn serve(self: &Arc<Self>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        let shutdown = self.component.shutdown().clone();
        let acceptor = TlsAcceptor::from(Arc::clone(&self.presented.borrow()));
        let handshake = timeout(HANDSHAKE, acceptor.accept(stream));
        let stream = tokio::select! {
            stream = handshake => match stream {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return debug!(%error, "a handshake failed"),
                Err(_) => return debug!("a handshake took too long"),
            },
            () = shutdown.cancelled() => return,
        };
        let server = Arc::clone(self);
        let service = service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SILENCE)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, READY) => plain(StatusCode::OK, "ready"),
            (&Method::POST, PATH) => match timeout(REVIEW, self.review(request.into_body())).await {
                Ok(answer) => answer,
                Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "the review took too long"),
            },
            (_, READY | PATH) => plain(StatusCode::METHOD_NOT_ALLOWED, "GET /ready, POST /mutate"),
            _ => plain(StatusCode::NOT_FOUND, "GET /ready, POST /mutate"),
        }
    }

    async fn review(&self, body: Incoming) -> Answer {
        let body = match Limited::new(body, MAX_REVIEW).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return plain(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()),
        };
        match self.reviewer.review(&body).await {
            Ok(answer) => {
                let mut response = Response::new(Full::from(answer.to_string()));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(error) => plain(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
