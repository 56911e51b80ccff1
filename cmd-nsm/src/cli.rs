// SPDX-License-Identifier: Apache-2.0
//! The command line: commands about this machine, and, under the name `kubectl-nsm`, about a cluster.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::commands;
use crate::kubectl::KubectlNsm;

/// The name by which kubectl finds us.
const PLUGIN: &str = "kubectl-nsm";

/// Network Service Mesh: virtual wires between workloads, by name
///
/// A link to this program by the name kubectl-nsm in a folder of PATH makes it a plug-in of kubectl: `kubectl nsm`.
#[derive(Parser)]
#[command(name = "nsm", version)]
struct Nsm {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(commands::demo::Demo),
    Issuer(commands::issuer::Issuer),
    Mesh(commands::mesh::Mesh),
    #[command(flatten)]
    Ask(Question),
}

/// What is asked of the programs of one node.
#[derive(Subcommand)]
enum Question {
    Connections(commands::connections::Connections),
    Doctor(commands::doctor::Doctor),
    Endpoints(commands::endpoints::Endpoints),
    Explain(commands::explain::Explain),
    Health(commands::health::Health),
    Monitor(commands::monitor::Monitor),
    Path(commands::path::Path),
    Ping(commands::ping::Ping),
}

/// The same, for a program that can do nothing else.
#[derive(Parser)]
#[command(name = "ask", version)]
struct Asks {
    #[command(subcommand)]
    question: Question,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next();
    let is_plugin = name.is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new(PLUGIN)));
    if is_plugin {
        return told(PLUGIN, KubectlNsm::parse().run());
    }
    let done = match Nsm::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Issuer(issuer) => return issuer.run(),
        Command::Mesh(mesh) => mesh.run(),
        Command::Ask(question) => question.run(),
    };
    told("nsm", done)
}

/// Answers a question about the node that is asked by the arguments, of which the first is a name.
pub fn answer(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    told("nsm", Asks::parse_from(arguments).question.run())
}

fn told(name: &str, done: Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("{name}: {error:#}");
        ExitCode::FAILURE
    })
}

impl Question {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Connections(connections) => connections.run(),
            Self::Doctor(doctor) => doctor.run(),
            Self::Endpoints(endpoints) => endpoints.run(),
            Self::Explain(explain) => explain.run(),
            Self::Health(health) => health.run(),
            Self::Monitor(monitor) => monitor.run(),
            Self::Path(path) => path.run(),
            Self::Ping(ping) => ping.run(),
        }
    }
}
