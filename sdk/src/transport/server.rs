// SPDX-License-Identifier: Apache-2.0
//! Listens, and runs chains for whoever calls.
//!
//! **Guarantees**: only peers that have proven an SVID of a known trust domain reach a chain. Every URL serves the same.
//! `grpc.health.v1` says SERVING for the empty name and for the full name of every service from the first connection,
//! and more where a program has more to say ([`Server::health`]).
//! When our SVID is replaced, connections that had shown the old one are told to go away (GOAWAY), which no call under
//! way notices, and closed when it expires. When the component ends, calls under way get 5 s to finish, streams
//! end with their trailers, and what is left is closed; no stream is ever reset.
//! **Limits**: the constants of this file. Who is beyond them waits in the listener's backlog.
//! **On failure**: a client that does not speak TLS, or is refused, is dropped and the reason logged. When descriptors
//! run out, accepting pauses; connections that are open go on.

mod connection;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use nsm_api::connection::monitor_connection_server::MonitorConnectionServer;
use nsm_api::networkservice::network_service_server::NetworkServiceServer;
use nsm_api::registry::network_service_endpoint_registry_server::NetworkServiceEndpointRegistryServer;
use nsm_api::registry::network_service_registry_server::NetworkServiceRegistryServer;
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};
use tracing::{error, info, warn};

use super::Address;
use super::listen::Listener;
use super::services::Served;
use super::stream::Stream;
use super::tls::Acceptor;
use crate::core::{Chain, Component, Error, NetworkService, NsRegistry, NseRegistry, Result};
use crate::identity::Identity;
use connection::Connection;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How much there is at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Handshakes on one listener.
    pub(super) handshakes: usize,
    /// Connections of all listeners.
    pub(super) connections: usize,
    /// Calls of one connection. Each monitored connection holds one for its whole life.
    pub(super) calls: u32,
}

pub(super) const LIMITS: Limits = Limits {
    handshakes: 128,
    connections: 16_384,
    calls: 131_072,
};

/// How long accepting pauses at first and at most, when descriptors or memory have run out.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What answers the calls of one service.
type Handler = Arc<dyn Fn(http::Request<Incoming>) -> Answer + Send + Sync>;
type Answer = BoxFuture<http::Response<Body>, Infallible>;

/// What one program serves, on every URL that it listens on.
///
/// ```no_run
/// # use nsm_sdk::core::{Chain, Component, NetworkService, Result};
/// # use nsm_sdk::{identity::Identity, transport::Server};
/// # async fn run(component: Component, identity: Identity, chain: Chain<NetworkService>) -> Result<()> {
/// let urls = Server::new(&component, identity)
///     .network_service(chain)
///     .listen(&["unix:///run/nsm.sock", "tcp://:5001"])
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "a server serves when it listens"]
pub struct Server {
    component: Component,
    identity: Identity,
    services: Vec<(&'static str, Handler)>,
    healths: Vec<(&'static str, watch::Receiver<bool>)>,
    pub(super) limits: Limits,
}

impl Server {
    /// A server of `component` that serves nothing but `grpc.health.v1` yet, and presents `identity`.
    pub fn new(component: &Component, identity: Identity) -> Self {
        Self {
            component: component.clone(),
            identity,
            services: Vec::new(),
            healths: Vec::new(),
            limits: LIMITS,
        }
    }

    /// Tells by `grpc.health.v1` of something else that may fail, under this name.
    pub fn health(mut self, name: &'static str, is_serving: watch::Receiver<bool>) -> Self {
        self.healths.push((name, is_serving));
        self
    }

    /// Serves the NetworkService and MonitorConnection services by `chain` (a monitor is its `find`).
    pub fn network_service(self, chain: Chain<NetworkService>) -> Self {
        let served = Served::new(&self.component, chain);
        self.service(NetworkServiceServer::new(served.clone()))
            .service(MonitorConnectionServer::new(served))
    }

    /// Serves the NetworkServiceEndpointRegistry service by `chain`.
    pub fn nse_registry(self, chain: Chain<NseRegistry>) -> Self {
        let served = Served::new(&self.component, chain);
        self.service(NetworkServiceEndpointRegistryServer::new(served))
    }

    /// Serves the NetworkServiceRegistry service by `chain`.
    pub fn ns_registry(self, chain: Chain<NsRegistry>) -> Self {
        let served = Served::new(&self.component, chain);
        self.service(NetworkServiceRegistryServer::new(served))
    }

    /// Serves any other service that the gRPC compiler has generated. Its handlers find the caller, a
    /// [`Peer`](crate::core::Peer), in the extensions of a call.
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: tower::Service<
                http::Request<Incoming>,
                Response = http::Response<Body>,
                Error = Infallible,
                Future = Answer,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let handler = move |call| service.clone().call(call);
        self.services.push((S::NAME, Arc::new(handler)));
        self
    }

    /// Listens on `urls` and serves in tasks of the component until it ends. Returns the URLs as they were bound (a port
    /// 0 is replaced by the real one), in the same order.
    ///
    /// Errors: `bad-url`, `bad-svid`, `address-in-use`, `listen`. Nothing is served then.
    pub async fn listen<U: AsRef<str>>(mut self, urls: &[U]) -> Result<Vec<String>> {
        let addresses: Vec<Address> = urls
            .iter()
            .map(|url| url.as_ref().parse())
            .collect::<Result<_>>()?;
        if addresses.is_empty() {
            return Err(Error::invalid("bad-url", "there is no URL to listen on"));
        }
        let acceptor = Acceptor::new(&self.identity.current())?;
        let mut listeners = Vec::new();
        for address in &addresses {
            listeners.push(Listener::bind(address).await?);
        }
        let health = HealthReporter::new();
        for (name, _) in &self.services {
            health.set_service_status(*name, ServingStatus::Serving).await;
        }
        for (name, is_serving) in std::mem::take(&mut self.healths) {
            // Whoever asks first hears of it, too.
            let now = status(*is_serving.borrow());
            health.set_service_status(name, now).await;
            let telling = tell(self.component.clone(), health.clone(), name, is_serving);
            self.component.spawn_detached("health", telling);
        }
        let server = self.service(tonic_health::pb::health_server::HealthServer::new(
            HealthService::from_health_reporter(health),
        ));
        let bound = listeners.iter().map(ToString::to_string).collect();
        server.start(acceptor, listeners);
        Ok(bound)
    }

    fn start(self, acceptor: Acceptor, listeners: Vec<Listener>) {
        let (sender, acceptor) = watch::channel(acceptor);
        let following = follow(self.component.clone(), self.identity, sender);
        self.component.spawn_detached("credentials", following);
        let serving = Arc::new(Serving {
            component: self.component.clone(),
            services: self.services.into(),
            acceptor,
            connections: Arc::new(Semaphore::new(self.limits.connections)),
            limits: self.limits,
        });
        for listener in listeners {
            info!(url = %listener, "listening");
            let serving = Arc::clone(&serving);
            self.component.spawn_detached("listener", async move {
                tokio::select! {
                    () = serving.component.shutdown().cancelled() => {}
                    () = serving.accept(&listener) => {}
                }
            });
        }
    }
}

fn status(is_serving: bool) -> ServingStatus {
    match is_serving {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    }
}

/// Tells of `name` what `is_serving` says.
async fn tell(
    component: Component,
    health: HealthReporter,
    name: &'static str,
    mut is_serving: watch::Receiver<bool>,
) {
    loop {
        let now = status(*is_serving.borrow_and_update());
        health.set_service_status(name, now).await;
        tokio::select! {
            () = component.shutdown().cancelled() => return,
            changed = is_serving.changed() => if changed.is_err() { return },
        }
    }
}

/// Presents a new SVID from the next connection on.
async fn follow(component: Component, mut identity: Identity, acceptor: watch::Sender<Acceptor>) {
    loop {
        let credentials = tokio::select! {
            () = component.shutdown().cancelled() => return,
            credentials = identity.changed() => credentials,
        };
        match Acceptor::new(&credentials) {
            Ok(new) => drop(acceptor.send_replace(new)),
            Err(error) => error!(%error, "the new identity is not used; connections get the old one"),
        }
    }
}

/// What all listeners and connections share.
struct Serving {
    component: Component,
    services: Arc<[(&'static str, Handler)]>,
    acceptor: watch::Receiver<Acceptor>,
    connections: Arc<Semaphore>,
    limits: Limits,
}

impl Serving {
    /// Accepts for ever.
    async fn accept(self: &Arc<Self>, listener: &Listener) {
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let mut pause = PAUSE;
        loop {
            let (Some(connection), Some(handshake)) =
                (permit(&self.connections).await, permit(&handshakes).await)
            else {
                return;
            };
            match listener.accept().await {
                Ok(stream) => {
                    pause = PAUSE;
                    self.start(stream, connection, handshake);
                }
                Err(error) if is_lack(&error) => {
                    warn!(url = %listener, %error, ?pause, "accepting pauses; raise the limit of open files if it is that");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => info!(url = %listener, %error, "a connection ended before it was accepted"),
            }
        }
    }

    fn start(self: &Arc<Self>, stream: Stream, place: OwnedSemaphorePermit, handshake: OwnedSemaphorePermit) {
        let connection = Connection {
            component: self.component.clone(),
            services: Arc::clone(&self.services),
            acceptor: self.acceptor.clone(),
            max_calls: self.limits.calls,
        };
        self.component.spawn_detached("connection", async move {
            connection.run(stream, handshake).await;
            drop(place);
        });
    }
}

async fn permit(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(of).acquire_owned().await.ok()
}

/// Whether this process or machine lacks something, so that the next attempt would fail as well.
fn is_lack(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    lacks
        .iter()
        .any(|lack| error.raw_os_error() == Some(lack.raw_os_error()))
}
