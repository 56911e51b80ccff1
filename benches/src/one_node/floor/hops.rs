// SPDX-License-Identifier: Apache-2.0
//! As many calls as a request makes on one node, by the library alone: each server asks the next, and the last one
//! answers what it was asked.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nsm::mesh::{Node, Program, Start};
use nsm_api::connection::{Connection, Path as Route, PathSegment};
use nsm_api::networkservice::NetworkServiceRequest;
use nsm_api::networkservice::network_service_client::NetworkServiceClient;
use nsm_api::networkservice::network_service_server::{NetworkService, NetworkServiceServer};
use nsm_sdk::core::Component;
use nsm_sdk::identity::{Credentials, Source};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::tls;

/// Client to manager, manager to forwarder, forwarder to endpoint.
pub(super) const HOPS: usize = 3;

/// How long a server may take until it listens.
const TO_LISTEN: Duration = Duration::from_secs(10);

/// The servers, each a process of its own, and a client of the first.
pub(super) struct Hops {
    servers: Vec<Program>,
    client: NetworkServiceClient<Channel>,
}

impl Hops {
    /// Starts the servers, the last one first.
    pub(super) async fn start(node: &Node) -> Result<Self> {
        let mut servers = Vec::new();
        let mut next = None;
        for hop in 0..HOPS {
            let socket = node.folder().join(format!("floor-{hop}.sock"));
            servers.push(serve(node, &socket, next.as_ref()).await?);
            next = Some(socket);
        }
        let first = next.context("there is a hop")?;
        let client = dial(node.identity().current(), first).await?;
        Ok(Self { servers, client })
    }

    /// One request over all of them.
    pub(super) async fn call(&mut self) -> Result<Duration> {
        let request = NetworkServiceRequest {
            connection: Some(connection()),
            ..Default::default()
        };
        let began = Instant::now();
        self.client.request(request).await?;
        Ok(began.elapsed())
    }

    pub(super) async fn end(self) -> Result<()> {
        for server in self.servers {
            server.stop().await?;
        }
        Ok(())
    }
}

async fn serve(node: &Node, socket: &PathBuf, next: Option<&PathBuf>) -> Result<Program> {
    let text = |path: &PathBuf| path.to_str().map(String::from).context("a name is not UTF-8");
    let (socket_text, identity) = (text(socket)?, text(&node.folder().join("identity/node.sock"))?);
    let mut arguments = vec!["floor-server", "--socket", &socket_text, "--identity", &identity];
    let next = next.map(text).transpose()?;
    if let Some(next) = &next {
        arguments.extend(["--next", next]);
    }
    let us = std::env::current_exe()?;
    let what = Start {
        name: "floor",
        file: &us,
        pod: None,
        folder: node.folder(),
    };
    let mut server = Program::start(what, &arguments, &[])?;
    let connected = async |_: &Program| UnixStream::connect(socket).await.ok();
    drop(
        server
            .wait_for("it listened", Instant::now() + TO_LISTEN, connected)
            .await?,
    );
    Ok(server)
}

async fn dial(credentials: Credentials, socket: PathBuf) -> Result<NetworkServiceClient<Channel>> {
    let connector = tower::service_fn(move |_| {
        let (socket, credentials) = (socket.clone(), credentials.clone());
        async move { tls::connect(&credentials, UnixStream::connect(socket).await?).await }
    });
    let channel = Endpoint::from_static("http://floor")
        .connect_with_connector(connector)
        .await?;
    Ok(NetworkServiceClient::new(channel))
}

/// A connection as large as one on the way through a node.
fn connection() -> Connection {
    let segment = |name: &str| PathSegment {
        name: name.to_string(),
        id: "00000000-0000-4000-8000-000000000000".to_string(),
        token: "t".repeat(300),
        expires: Some(Default::default()),
        ..Default::default()
    };
    Connection {
        id: "bench-0".to_string(),
        network_service: "icmp-responder".to_string(),
        path: Some(Route {
            index: 0,
            path_segments: ["nsc", "nsmgr", "forwarder"].map(segment).to_vec(),
        }),
        ..Default::default()
    }
}

/// Answers or passes on requests over mutual TLS, with nothing of ours around it.
#[derive(Args)]
pub(crate) struct FloorServer {
    /// Where it listens
    #[arg(long)]
    socket: PathBuf,
    /// Where its identity is served
    #[arg(long)]
    identity: PathBuf,
    /// Where the server listens that it asks; by default it answers what it is asked
    #[arg(long)]
    next: Option<PathBuf>,
}

impl FloorServer {
    /// Serves until it is ended.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let component = Component::new("floor");
            let identity = Source::WorkloadApi(self.identity)
                .follow(&component, Instant::now() + TO_LISTEN)
                .await?;
            let next = match self.next {
                Some(next) => Some(dial(identity.current(), next).await?),
                None => None,
            };
            let incoming = tls::listen(&identity.current(), UnixListener::bind(self.socket)?)?;
            Server::builder()
                .add_service(NetworkServiceServer::new(Hop { next }))
                .serve_with_incoming(incoming)
                .await?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

struct Hop {
    next: Option<NetworkServiceClient<Channel>>,
}

#[tonic::async_trait]
impl NetworkService for Hop {
    async fn request(&self, request: Request<NetworkServiceRequest>) -> Result<Response<Connection>, Status> {
        let request = request.into_inner();
        match self.next.clone() {
            Some(mut next) => next.request(request).await,
            None => Ok(Response::new(request.connection.unwrap_or_default())),
        }
    }

    async fn close(&self, _: Request<Connection>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
}
