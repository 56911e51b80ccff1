// SPDX-License-Identifier: Apache-2.0
//! How long `nsm explain` takes, the program and all, in a mesh with many endpoints.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nsm::mesh::{Node, Programs, Settings};
use nsm_api::registry::{
    Destination, Match, NetworkService as Service, NetworkServiceEndpoint, NetworkServiceLabels,
};
use nsm_sdk::core::{Component, Ctx, Dialer, NsRegistry, NseRegistry, Registration, Remote};
use nsm_sdk::identity::Tokens;
use nsm_sdk::transport::Pool;
use tokio::time::Instant;

use crate::figure::{Figure, Times};

/// How many endpoints are registered.
const ENDPOINTS: usize = 10_000;

/// Among how many services they are spread, and what the figures are called then: at best, and for a client that is
/// refused.
const SPREADS: [(usize, [&str; 2]); 2] = [
    (100, ["explain.ms", "explain.refused_ms"]),
    (1, ["explain.one_service_ms", "explain.one_service_refused_ms"]),
];

/// A mesh that explains itself: explain with 10,000 endpoints
#[derive(Args)]
pub(crate) struct Explain {
    /// How often it explains
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Where the program files are; beside this one by default
    #[arg(long)]
    programs: Option<PathBuf>,
}

impl Explain {
    /// Measures.
    pub(crate) async fn run(self) -> Result<Vec<Figure>> {
        let programs = match &self.programs {
            Some(folder) => Programs::in_folder(folder),
            None => Programs::beside_us()?,
        };
        let mut figures = Vec::new();
        for (services, names) in SPREADS {
            figures.extend(self.measure(&programs, services, names).await?);
        }
        Ok(figures)
    }

    /// Measures in a mesh whose endpoints are spread among so many services.
    async fn measure(&self, programs: &Programs, services: usize, names: [&str; 2]) -> Result<Vec<Figure>> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let settings = Settings {
            programs: programs.clone(),
            folder: folder.path().to_path_buf(),
            log_level: "WARN".to_string(),
            identities: Vec::new(),
            svid_lifetime: None,
            variables: Vec::new(),
            host: None,
        };
        let node = Node::start(settings, |_, _| ()).await?;
        eprintln!("registering {ENDPOINTS} endpoints of {services} services");
        register(&node, services).await?;
        eprintln!("measuring: explain");
        let mut figures = Vec::new();
        for (name, place, is_served) in [(names[0], "node-7", true), (names[1], "nowhere", false)] {
            let url = format!("kernel://service-0?nodeName={place}");
            let mut times = Vec::with_capacity(self.rounds);
            for _ in 0..self.rounds {
                times.push(explain(&node, programs, &url, is_served).await?);
            }
            let times = Times::new(times);
            figures.push(Figure::new(name, times.p50_ms(), "ms", times.runs()).at_most(200.0));
        }
        node.end().await?;
        Ok(figures)
    }
}

/// Runs the program once; answers how long it took.
async fn explain(node: &Node, programs: &Programs, url: &str, is_served: bool) -> Result<Duration> {
    let mut command = Command::new(programs.file("nsm")?);
    let identity = node.folder().join("identity/node.sock");
    command
        .args([
            "explain",
            url,
            "--connect-to",
            &node.url("registry"),
            "--timeout",
            "30s",
        ])
        .env_clear()
        .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", identity.display()))
        .stdin(Stdio::null());
    let began = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() == is_served && said.contains("service-0"),
        "explain {url} ended with {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}

async fn register(node: &Node, spread: usize) -> Result<()> {
    let component = Component::new("caller");
    let pool = Pool::new(
        &component,
        node.identity().clone(),
        Tokens::new(Duration::from_secs(600)),
    );
    let (url, soon) = (node.url("registry"), Instant::now() + Duration::from_secs(5));
    let services: std::sync::Arc<dyn Remote<NsRegistry>> = pool.dial(&url, soon).await?;
    let endpoints: std::sync::Arc<dyn Remote<NseRegistry>> = pool.dial(&url, soon).await?;
    let ctx = || Ctx::own(&component, Duration::from_secs(30));
    for number in 0..spread {
        let message = Registration {
            entry: service(&format!("service-{number}")),
            ..Default::default()
        };
        services.request(&ctx(), &message).await.context("a service")?;
    }
    for number in 0..ENDPOINTS {
        let message = Registration {
            entry: endpoint(number, spread),
            ..Default::default()
        };
        endpoints.request(&ctx(), &message).await.context("an endpoint")?;
    }
    let forwarder = Registration {
        entry: offering("forwarder-7", "forwarder", ("p2p", "true")),
        ..Default::default()
    };
    endpoints
        .request(&ctx(), &forwarder)
        .await
        .context("a forwarder")?;
    component.end().await;
    Ok(())
}

/// A service that prefers endpoints of the client's node.
fn service(name: &str) -> Service {
    let route = Destination {
        destination_selector: [("nodeName".to_string(), "{{.nodeName}}".to_string())].into(),
        ..Default::default()
    };
    Service {
        name: name.to_string(),
        payload: "IP".into(),
        matches: vec![Match {
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn endpoint(number: usize, spread: usize) -> NetworkServiceEndpoint {
    let (service, node) = (number % spread, number / spread);
    let node = format!("node-{node}");
    offering(
        &format!("endpoint-{number}"),
        &format!("service-{service}"),
        ("nodeName", node.as_str()),
    )
}

fn offering(name: &str, service: &str, (label, value): (&str, &str)) -> NetworkServiceEndpoint {
    let labels = NetworkServiceLabels {
        labels: [(label.to_string(), value.to_string())].into(),
    };
    NetworkServiceEndpoint {
        name: name.to_string(),
        network_service_names: vec![service.to_string()],
        network_service_labels: [(service.to_string(), labels)].into(),
        url: "tcp://10.0.0.1:5001".to_string(),
        ..Default::default()
    }
}
