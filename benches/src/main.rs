// SPDX-License-Identifier: Apache-2.0
//! Runs one suite of benchmarks on the real programs and prints its figures.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use futures::future::{FutureExt, LocalBoxFuture};
// What is compared with the programs shall not differ by it.
use nsm_memory as _;

mod dns;
mod examples;
mod explain;
mod figure;
mod go;
mod kubernetes;
mod one_node;
mod two_nodes;

/// What the mesh costs, beside what its parts cost bare, measured in the same run
#[derive(Parser)]
#[command(name = "nsm-bench", version)]
struct Bench {
    #[command(subcommand)]
    suite: Suite,
    /// Write the figures to this file as well: a JSON array of {"name", "value", "unit", "goal", "bound", "runs"}
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Suite {
    /// One node: attach, refresh, close, memory, start, registry
    OneNode(one_node::OneNode),
    /// Two nodes: attach, throughput, round trips, memory
    TwoNodes(two_nodes::TwoNodes),
    /// DNS: what the client's resolver adds to a question
    Dns(dns::Dns),
    /// Beside the Go implementation: request, refresh, close, load, memory, start, registry
    Go(go::Go),
    /// A cluster of Kubernetes: start of pods, requests, memory, endpoints from zero, updates
    Kubernetes(kubernetes::Kubernetes),
    /// A mesh that explains itself: explain with 10,000 endpoints
    Explain(explain::Explain),
    /// The pages of deployments/examples: how long all take in namespaces
    Examples(examples::Examples),
    /// The bare server that floors are measured against; started by the suites themselves
    #[command(hide = true)]
    FloorServer(one_node::floor::FloorServer),
}

fn main() -> ExitCode {
    run(Bench::parse()).unwrap_or_else(|error| {
        eprintln!("nsm-bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(bench: Bench) -> Result<ExitCode> {
    let json = bench.json;
    let suite: LocalBoxFuture<'_, Result<Vec<figure::Figure>>> = match bench.suite {
        Suite::FloorServer(server) => return server.run(),
        // It has no namespaces of its own: those of the cluster are somebody else's.
        Suite::Kubernetes(suite) => return tell(&suite.run()?, json),
        Suite::OneNode(suite) => suite.run().boxed_local(),
        Suite::TwoNodes(suite) => suite.run().boxed_local(),
        Suite::Dns(suite) => suite.run().boxed_local(),
        Suite::Go(suite) => suite.run().boxed_local(),
        Suite::Explain(suite) => suite.run().boxed_local(),
        Suite::Examples(suite) => suite.run().boxed_local(),
    };
    if let Some(code) = nsm::mesh::enter()? {
        return Ok(code);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // As programs do.
        .max_io_events_per_tick(nsm_sdk::app::EVENTS)
        .build()?;
    tell(&runtime.block_on(suite)?, json)
}

/// Prints the figures, and writes them into a file when one is wanted.
fn tell(figures: &[figure::Figure], json: Option<PathBuf>) -> Result<ExitCode> {
    print!("{}", figure::table(figures));
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(figures)?;
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
