// SPDX-License-Identifier: Apache-2.0
//! `nsm`: the command line for people.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;

/// That of glibc takes an eighth of the CPU time of a request more, and that of musl many times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Network Service Mesh: virtual wires between workloads, by name
#[derive(Parser)]
#[command(name = "nsm", version)]
struct Nsm {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Connections(commands::connections::Connections),
    Demo(commands::demo::Demo),
    Doctor(commands::doctor::Doctor),
    Endpoints(commands::endpoints::Endpoints),
    Explain(commands::explain::Explain),
    Health(commands::health::Health),
    Issuer(commands::issuer::Issuer),
    Mesh(commands::mesh::Mesh),
    Monitor(commands::monitor::Monitor),
    Path(commands::path::Path),
    Ping(commands::ping::Ping),
}

fn main() -> ExitCode {
    let done = match Nsm::parse().command {
        Command::Connections(connections) => connections.run(),
        Command::Demo(demo) => demo.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Endpoints(endpoints) => endpoints.run(),
        Command::Explain(explain) => explain.run(),
        Command::Health(health) => health.run(),
        Command::Issuer(issuer) => return issuer.run(),
        Command::Mesh(mesh) => mesh.run(),
        Command::Monitor(monitor) => monitor.run(),
        Command::Path(path) => path.run(),
        Command::Ping(ping) => ping.run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("nsm: {error:#}");
        ExitCode::FAILURE
    })
}
