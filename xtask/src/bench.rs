// SPDX-License-Identifier: Apache-2.0
//! Builds the programs as they are shipped and measures them.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::report::run;
use crate::tools::{self, DNSMASQ, GO, IP, IPERF3, NSENTER, PING, SETPRIV, Tool, UNSHARE, WG, WIREGUARD_GO};
use crate::{profile_folder, root};

/// What each suite needs.
const TOOLS: [Tool; 5] = [IP, PING, UNSHARE, NSENTER, SETPRIV];

/// What two nodes need besides: the load of wires, and WireGuard by other hands to compare with.
const TOOLS_OF_TWO_NODES: [Tool; 3] = [IPERF3, WIREGUARD_GO, WG];

/// Build the programs as they are shipped, run a suite of benchmarks, and print its figures beside their goals.
///
/// Suites: `one-node` (attach, refresh, close, memory, start, registry), `two-nodes` (attach, throughput, round trips
/// and memory of wires between nodes), `dns` (what the client's resolver adds to a question), `go` (request, refresh, close, load, memory, start and registry beside programs
/// on the Go SDK; the program that plays them is built, or named by `NSM_GO_PEER`). Every figure that compares is
/// measured against a floor, or against theirs, in the same run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_name = "SUITE", value_parser = ["one-node", "two-nodes", "dns", "go"])]
    suite: String,
    /// Write the figures to this file as well: a JSON array of {"name", "value", "unit", "goal", "bound", "runs"}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Options of the suite itself; `-- --help` tells them
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

impl Args {
    /// Builds, and becomes the benchmark.
    pub(crate) fn run(self) -> Result<()> {
        tools::need(&TOOLS)?;
        if self.suite == "two-nodes" {
            tools::need(&TOOLS_OF_TWO_NODES)?;
        }
        if self.suite == "dns" {
            tools::need(&[DNSMASQ])?;
        }
        let peer = match self.suite.as_str() {
            "go" => Some(peer()?),
            _ => None,
        };
        eprintln!("building the programs as images have them: about 8 minutes at first");
        run(Command::new("cargo").args([
            "build",
            "--profile=dist",
            "--workspace",
            "--bins",
            "--exclude=xtask",
        ]))?;
        let program = profile_folder("dist")?.join("nsm-bench");
        let mut bench = Command::new(&program);
        bench.arg(&self.suite).current_dir(root());
        if let Some(file) = self.json {
            bench.arg("--json").arg(std::path::absolute(file)?);
        }
        if let Some(peer) = peer {
            bench.arg("--peer").arg(peer);
        }
        bench.args(&self.options);
        Err(bench.exec()).with_context(|| format!("could not start {}", program.display()))
    }
}

/// The program on the Go SDK: the one that is given, or one that is built now, as the tests of mixed meshes build it.
fn peer() -> Result<PathBuf> {
    if let Some(file) = std::env::var_os("NSM_GO_PEER") {
        return Ok(std::path::absolute(file)?);
    }
    tools::need(&[GO])?;
    let file = profile_folder("dist")?.join("interop/nsm-peer");
    eprintln!("building the program on the Go SDK: about a minute at first");
    run(Command::new("go")
        .arg("-C")
        .arg(root().join("tests/interop/peer"))
        .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o"])
        .arg(&file)
        .env("CGO_ENABLED", "0"))?;
    Ok(file)
}
