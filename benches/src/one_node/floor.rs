// SPDX-License-Identifier: Apache-2.0
//! What the parts of an attach cost bare: a call over mutual TLS, a token, a veth pair.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nsm::mesh::{Node, Program, Start};
use nsm_api::connection::{Connection, Path as Route, PathSegment};
use nsm_api::networkservice::NetworkServiceRequest;
use nsm_api::networkservice::network_service_client::NetworkServiceClient;
use nsm_api::networkservice::network_service_server::{NetworkService, NetworkServiceServer};
use nsm_sdk::core::Component;
use nsm_sdk::identity::jwt::verify_es256;
use nsm_sdk::identity::{Credentials, Identity, Source, Tokens};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::figure::{Figure, Times};

mod tls;

/// How many hops a request makes on one node: client to manager, manager to forwarder, forwarder to endpoint.
const HOPS: f64 = 3.0;

/// What the parts cost.
pub(crate) struct Floor {
    hop: Times,
    token: Times,
    veth_ms: f64,
    veth_runs: usize,
}

impl Floor {
    /// The hops alone, milliseconds.
    pub(crate) fn hops_ms(&self) -> f64 {
        HOPS * self.hop.p50_ms()
    }

    /// Hops, a token signed and verified at each, and one veth pair with its addresses, milliseconds.
    pub(crate) fn attach_ms(&self) -> f64 {
        self.hops_ms() + HOPS * self.token.p50_ms() + self.veth_ms
    }

    /// The parts.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let figure = |name: &str, times: &Times| Figure::new(name, times.p50_ms(), "ms", times.runs());
        vec![
            figure("floor.hop_p50_ms", &self.hop),
            figure("floor.token_p50_ms", &self.token),
            Figure::new("floor.veth_p50_ms", self.veth_ms, "ms", self.veth_runs),
            Figure::new("floor.attach_ms", self.attach_ms(), "ms", self.hop.runs()),
        ]
    }
}

/// Measures the parts, beside the node whose identities they use.
pub(crate) async fn measure(node: &Node, rounds: usize) -> Result<Floor> {
    Ok(Floor {
        hop: hop(node, rounds.max(500)).await?,
        token: token(node.identity(), rounds.max(200))?,
        veth_ms: veth(node.programs_folder(), rounds)?,
        veth_runs: rounds,
    })
}

/// A call to a bare server in a process of its own.
async fn hop(node: &Node, rounds: usize) -> Result<Times> {
    let socket = node.folder().join("floor.sock");
    let text = |path: &Path| {
        path.to_str()
            .map(String::from)
            .context("the folder's name is not UTF-8")
    };
    let identity = text(&node.folder().join("identity/node.sock"))?;
    let arguments = [
        "floor-server",
        "--socket",
        &text(&socket)?,
        "--identity",
        &identity,
    ];
    let us = std::env::current_exe()?;
    let what = Start {
        name: "floor",
        file: &us,
        pod: None,
        folder: node.folder(),
    };
    let mut server = Program::start(what, &arguments, &[])?;
    let until = Instant::now() + Duration::from_secs(10);
    let connected = async |_: &Program| UnixStream::connect(&socket).await.ok();
    drop(server.wait_for("it listened", until, connected).await?);
    let credentials = node.identity().current();
    let connector = tower::service_fn(move |_| {
        let (socket, credentials) = (socket.clone(), credentials.clone());
        async move { tls::connect(&credentials, UnixStream::connect(socket).await?).await }
    });
    let channel = Endpoint::from_static("http://floor")
        .connect_with_connector(connector)
        .await?;
    let mut client = NetworkServiceClient::new(channel);
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let request = NetworkServiceRequest {
            connection: Some(connection()),
            ..Default::default()
        };
        let began = Instant::now();
        client.request(request).await?;
        times.push(began.elapsed());
    }
    server.stop().await?;
    Ok(Times::new(times))
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

/// A token signed by one side and verified by the other.
fn token(identity: &Identity, rounds: usize) -> Result<Times> {
    let component = Component::new("floor");
    let Credentials { svid, .. } = identity.current();
    let leaf = svid.certificates.first().context("an SVID has a certificate")?;
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let fresh = Tokens::new(Duration::from_secs(600));
        let began = Instant::now();
        let token = fresh.issue(&svid, None, component.now())?;
        anyhow::ensure!(verify_es256(&token.token, leaf), "our own token does not verify");
        times.push(began.elapsed());
    }
    Ok(Times::new(times))
}

/// The median of a veth pair with addresses and routes, by netlink alone, in a process of its own; milliseconds.
fn veth(programs: &Path, rounds: usize) -> Result<f64> {
    let file = programs.join("veth-floor");
    let done = Command::new(&file)
        .arg(rounds.to_string())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", file.display()))?;
    anyhow::ensure!(done.status.success(), "{} failed", file.display());
    let printed = String::from_utf8(done.stdout)?;
    let line = printed.lines().find(|line| line.starts_with("floor:"));
    let micros = line.and_then(|line| {
        line.split_once("p50")?
            .1
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    });
    Ok(micros.with_context(|| format!("no floor in {printed}"))? / 1e3)
}

/// Echoes requests over mutual TLS, with nothing of ours around it.
#[derive(Args)]
pub(crate) struct FloorServer {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    identity: PathBuf,
}

impl FloorServer {
    /// Serves until it is ended.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let component = Component::new("floor");
            let deadline = Instant::now() + Duration::from_secs(10);
            let identity = Source::WorkloadApi(self.identity)
                .follow(&component, deadline)
                .await?;
            let incoming = tls::listen(&identity.current(), UnixListener::bind(self.socket)?)?;
            Server::builder()
                .add_service(NetworkServiceServer::new(Echo))
                .serve_with_incoming(incoming)
                .await?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

struct Echo;

#[tonic::async_trait]
impl NetworkService for Echo {
    async fn request(&self, request: Request<NetworkServiceRequest>) -> Result<Response<Connection>, Status> {
        Ok(Response::new(request.into_inner().connection.unwrap_or_default()))
    }

    async fn close(&self, _: Request<Connection>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
}
