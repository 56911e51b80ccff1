// SPDX-License-Identifier: Apache-2.0
//! One node: the real programs in namespaces of their own, driven by a client in this process.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use nsm::mesh::{Client, Node, Pod, Program, Programs, Settings};

use crate::figure::Figure;
use floor::Floor;

mod attach;
mod chain;
pub(crate) mod floor;
mod registry;
mod start;

/// One node: attach, refresh, close, memory, start, registry
#[derive(Args)]
pub(crate) struct OneNode {
    /// Measure only this part, or these; all of them by default
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// How many wires are made, refreshed and closed one after the other
    #[arg(long, default_value_t = 500)]
    rounds: usize,
    /// How many wires are kept at once
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Where the program files are; beside this one by default
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What an element of a chain costs
    Chain,
    /// How long programs take until they are ready, and what they weigh then
    Start,
    /// A registry with many endpoints and watchers
    Registry,
    /// Wires made and closed one after the other
    Attach,
    /// One wire refreshed time after time
    Refresh,
    /// Wires made at the same moment
    AtOnce,
    /// Many wires that stay
    Many,
}

/// A node with one endpoint and a client that pings.
struct Bench {
    node: Node,
    endpoint: Program,
    client: Client,
    pod: Pod,
    _endpoints_pod: Pod,
}

impl OneNode {
    /// Measures everything, each part on a mesh of its own.
    pub(crate) async fn run(self) -> Result<Vec<Figure>> {
        let programs = match &self.programs {
            Some(folder) => Programs::in_folder(folder),
            None => Programs::beside_us()?,
        };
        let mut figures = Vec::new();
        if self.wants(Part::Chain) {
            figures.extend(chain::element().await?);
        }
        if self.wants(Part::Start) {
            say("start");
            figures.extend(start::all(&programs).await?);
        }
        if self.wants(Part::Registry) {
            say("registry");
            figures.extend(registry::all(&programs).await?);
        }
        let wires = [Part::Attach, Part::Refresh, Part::AtOnce, Part::Many];
        if wires.iter().any(|part| self.wants(*part)) {
            figures.extend(self.wires(&programs).await?);
        }
        Ok(figures)
    }

    async fn wires(&self, programs: &Programs) -> Result<Vec<Figure>> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let bench = Bench::start(programs, folder.path(), "bench").await?;
        let mut floor = Floor::start(&bench.node).await?;
        let mut figures = Vec::new();
        if self.wants(Part::Attach) {
            say("attach, close");
            figures.extend(attach::one_by_one(&bench, &mut floor, self.rounds).await?);
        }
        if self.wants(Part::Refresh) {
            say("refresh");
            figures.extend(attach::refresh(&bench, &mut floor, self.rounds).await?);
        }
        floor.end().await?;
        if self.wants(Part::AtOnce) {
            say("100 at once");
            figures.extend(attach::at_once(&bench, 100).await?);
        }
        if self.wants(Part::Many) {
            say("many connections");
            let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
            let other = Bench::start(programs, folder.path(), "other").await?;
            figures.extend(attach::many(&bench, &other, self.connections).await?);
            other.end().await?;
        }
        bench.end().await?;
        Ok(figures)
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

impl Bench {
    async fn start(programs: &Programs, folder: &Path, name: &str) -> Result<Self> {
        let settings = Settings {
            programs: programs.clone(),
            folder: folder.to_path_buf(),
            log_level: "WARN".to_string(),
            identities: vec!["nse".to_string()],
            svid_lifetime: None,
            variables: Vec::new(),
            host: None,
        };
        let (pod, far) = (
            Pod::new(&format!("{name}-client"))?,
            Pod::new(&format!("{name}-endpoint"))?,
        );
        let node = Node::start(settings, |_, _| ()).await?;
        // The kernel finds the neighbours of at most 1,024 Ethernet ends by itself; those of IP are told to it.
        let payload = [("NSM_PAYLOAD", "IP".to_string())];
        let (endpoint, _) = node.start_endpoint("nse", &far, &payload).await?;
        let client = Client::new(&node, "bench", pod.path())?.pinging()?;
        Ok(Self {
            node,
            endpoint,
            client,
            pod,
            _endpoints_pod: far,
        })
    }

    async fn end(self) -> Result<()> {
        self.client.end().await;
        self.endpoint.stop().await?;
        self.node.end().await
    }
}

fn say(what: &str) {
    eprintln!("measuring: {what}");
}
