// SPDX-License-Identifier: Apache-2.0
//! Somebody between two programs, who passes every message on as it is, and writes it down.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::TcpListener as StdTcpListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nsm_sdk::core::Component;
use nsm_sdk::identity::{Identity, Source, Svid};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::stream::Carrier;
use super::tls;

/// How long the headers of a call may be, bytes: registrations carry a path of tokens there.
const MAX_HEADERS: u32 = 128 * 1024;

/// How long the Workload API may take.
const TO_IDENTIFY: Duration = Duration::from_secs(20);

/// What was seen of one call.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) method: String,
    pub(super) headers: HeaderMap,
    pub(super) asked: Vec<u8>,
    pub(super) answer_headers: HeaderMap,
    pub(super) answered: Vec<u8>,
    pub(super) trailers: HeaderMap,
}

type Call = Arc<Mutex<Seen>>;

/// See the [module](self).
#[derive(Clone)]
pub(super) struct Proxy(Arc<Inner>);

struct Inner {
    component: Component,
    folder: PathBuf,
    identities: Mutex<HashMap<String, Identity>>,
    calls: Mutex<Vec<Call>>,
}

impl Proxy {
    /// Between programs that have their sockets in this folder.
    pub(super) fn new(component: &Component, folder: &Path) -> Self {
        Self(Arc::new(Inner {
            component: component.clone(),
            folder: folder.to_path_buf(),
            identities: Mutex::default(),
            calls: Mutex::default(),
        }))
    }

    /// Everything that was seen, in the order in which it began.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.0.calls.lock().clone()
    }

    /// Who somebody is that was seen.
    pub(super) fn known(&self) -> Vec<(String, Arc<Svid>)> {
        let identities = self.0.identities.lock();
        let known = identities.iter();
        known
            .map(|(name, identity)| (name.clone(), identity.current().svid))
            .collect()
    }

    /// Stands in `socket.tap` before the program `name` that listens, or will, on `socket.sock`.
    pub(super) fn before(&self, socket: &str, name: &'static str) -> Result<()> {
        let listener = UnixListener::bind(self.0.folder.join(format!("{socket}.tap")))?;
        let (own, to) = (self.clone(), self.0.folder.join(format!("{socket}.sock")));
        self.0.component.spawn_detached("tap", async move {
            while let Some(Ok((caller, _))) = own.unless_ended(listener.accept()).await {
                let (own, to) = (own.clone(), to.clone());
                own.clone().joins(name, async move {
                    let called = UnixStream::connect(&to).await?;
                    let [caller, called] = Carrier::pair([caller, called]);
                    own.join(name, caller, called).await
                });
            }
        });
        Ok(())
    }

    /// The same for callers by TCP.
    pub(super) fn before_tcp(
        &self,
        listener: StdTcpListener,
        socket: &str,
        name: &'static str,
    ) -> Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (own, to) = (self.clone(), self.0.folder.join(format!("{socket}.sock")));
        self.0.component.spawn_detached("tap", async move {
            while let Some(Ok((caller, _))) = own.unless_ended(listener.accept()).await {
                let (own, to) = (own.clone(), to.clone());
                own.clone().joins(name, async move {
                    let called = UnixStream::connect(&to).await?;
                    own.join(name, caller, called).await
                });
            }
        });
        Ok(())
    }

    async fn unless_ended<T>(&self, done: impl Future<Output = T>) -> Option<T> {
        let ends = self.0.component.shutdown();
        ends.run_until_cancelled(done).await
    }

    fn joins(self, name: &'static str, join: impl Future<Output = Result<()>> + Send + 'static) {
        let component = self.0.component.clone();
        component.spawn_detached("join", async move {
            if let Some(Err(error)) = self.unless_ended(join).await {
                eprintln!("before {name}: {error:#}");
            }
        });
    }

    /// Passes calls on until one of both has gone.
    async fn join<S>(&self, to: &'static str, caller: S, called: impl Stream) -> Result<()>
    where
        S: Stream,
    {
        let acceptor = TlsAcceptor::from(tls::server(self.svid(to).await?.as_ref())?);
        let caller = acceptor.accept(caller).await.context("the caller's TLS")?;
        let from = tls::name(caller.get_ref().1.peer_certificates())?;
        let connector = TlsConnector::from(tls::client(self.svid(&from).await?.as_ref())?);
        let anybody = ServerName::try_from("tap")?;
        let called = connector.connect(anybody, called).await.context("TLS")?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEADERS)
            .handshake(TokioIo::new(called))
            .await?;
        let service = service_fn(|request| {
            let call = self.begins(&from, to, &request);
            pass(sender.clone(), request, call)
        });
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEADERS)
            .serve_connection(TokioIo::new(caller), service);
        // Whoever goes first: the other one finds its connection ended, as it would without us.
        tokio::select! {
            _gone = serving => {}
            _gone = connection => {}
        }
        Ok(())
    }

    fn begins(&self, from: &str, to: &str, request: &Request<Incoming>) -> Call {
        let call = Arc::new(Mutex::new(Seen {
            from: from.to_string(),
            to: to.to_string(),
            method: request.uri().path().to_string(),
            headers: request.headers().clone(),
            ..Seen::default()
        }));
        self.0.calls.lock().push(Arc::clone(&call));
        call
    }

    /// The identity of the program `name`, as its own socket gives it.
    async fn svid(&self, name: &str) -> Result<Arc<Svid>> {
        let known = self.0.identities.lock().get(name).cloned();
        if let Some(identity) = known {
            return Ok(identity.current().svid);
        }
        let socket = self.0.folder.join(format!("identity/{name}.sock"));
        let source = Source::WorkloadApi(socket);
        let identity = source
            .follow(&self.0.component, Instant::now() + TO_IDENTIFY)
            .await?;
        let svid = identity.current().svid;
        self.0.identities.lock().insert(name.to_string(), identity);
        Ok(svid)
    }
}

/// A connection, whichever it is.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

async fn pass(
    mut to: SendRequest<Tapped>,
    request: Request<Incoming>,
    call: Call,
) -> Result<Response<Tapped>, Infallible> {
    let question = request.map(|body| Tapped::new(body, &call, |seen| &mut seen.asked));
    match to.send_request(question).await {
        Ok(answer) => {
            call.lock().answer_headers = answer.headers().clone();
            Ok(answer.map(|body| Tapped::new(body, &call, |seen| &mut seen.answered)))
        }
        // The call is never answered; the connection ends as soon as its other end is seen to have gone.
        Err(_gone) => std::future::pending().await,
    }
}

/// A body that is written down while it passes.
pub(super) struct Tapped {
    body: Incoming,
    call: Call,
    into: fn(&mut Seen) -> &mut Vec<u8>,
}

impl Tapped {
    fn new(body: Incoming, call: &Call, into: fn(&mut Seen) -> &mut Vec<u8>) -> Self {
        let call = Arc::clone(call);
        Self { body, call, into }
    }
}

impl Body for Tapped {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let mut seen = self.call.lock();
            if let Some(data) = frame.data_ref() {
                (self.into)(&mut seen).extend_from_slice(data);
            }
            if let Some(trailers) = frame.trailers_ref() {
                seen.trailers = trailers.clone();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
