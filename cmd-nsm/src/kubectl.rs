// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm`: the same questions about a whole cluster.
//!
//! Where the cluster is, and who we are there, kubectl knows: it is asked by the program itself, so every kind of
//! kubeconfig works. What is registered are objects; what a node knows is told by the agent beside its manager, in which
//! `nsm` answers ([`cluster`]).

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod cluster;
mod connections;
mod doctor;
mod endpoints;
mod events;
mod explain;
mod monitor;
mod path;
mod ping;
mod pod;

use cluster::Settings;

/// Ask the Network Service Mesh of a cluster
#[derive(Parser)]
#[command(name = "kubectl nsm", bin_name = "kubectl nsm", version)]
pub(crate) struct KubectlNsm {
    #[command(subcommand)]
    question: Question,
    #[command(flatten)]
    settings: Settings,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Question {
    Connections(connections::Connections),
    /// Tell what the cluster lacks for the mesh, by name and with a remedy
    ///
    /// The exit code is 1 when something is missing.
    Doctor,
    Endpoints(endpoints::Endpoints),
    Explain(explain::Explain),
    Monitor(monitor::Monitor),
    Path(path::Path),
    Ping(ping::Ping),
}

impl KubectlNsm {
    /// Asks.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let (cluster, json) = (self.settings.cluster(), self.json);
        match self.question {
            Question::Connections(connections) => connections.run(&cluster, json),
            Question::Doctor => doctor::run(&cluster, json),
            Question::Endpoints(endpoints) => endpoints.run(&cluster, json),
            Question::Explain(explain) => explain.run(&cluster, json),
            Question::Monitor(monitor) => monitor.run(&cluster, json),
            Question::Path(path) => path.run(&cluster, json),
            Question::Ping(ping) => ping.run(&cluster, json),
        }
    }
}
