// SPDX-License-Identifier: Apache-2.0
//! Builds the programs as they are shipped and measures them.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::built;
use crate::cluster;
use crate::images;
use crate::kubernetes;
use crate::report::run;
use crate::suites;
use crate::tools::{
    self, DIG, DNSMASQ, GO, IP, IPERF3, NSENTER, PING, SETPRIV, Tool, UNSHARE, WG, WIREGUARD_GO,
};
use crate::vm;
use crate::{profile_folder, root};

/// What each suite needs.
const TOOLS: [Tool; 5] = [IP, PING, UNSHARE, NSENTER, SETPRIV];

/// What two nodes need besides: the load of wires, and WireGuard by other hands to compare with.
const TOOLS_OF_TWO_NODES: [Tool; 3] = [IPERF3, WIREGUARD_GO, WG];

/// Build the programs as they are shipped, run a suite of benchmarks, and print its figures beside their goals.
///
/// Suites: `one-node` (attach, refresh, close, memory, start, registry), `two-nodes` (attach, throughput, round trips
/// and memory of wires between nodes; those of the kernel's WireGuard, where this one has none, with `--vm`), `dns`
/// (what the client's resolver adds to a question), `go` (request, refresh, close, load, memory, start and registry
/// beside programs on the Go SDK; the program that plays them is built, or named by `NSM_GO_PEER`), `kubernetes`
/// (start of pods, requests, memory, endpoints from zero and updates in a cluster of two nodes on this machine, which
/// is built and needs root), `explain` (`nsm explain` with many endpoints), `examples` (how long the pages of
/// deployments/examples take in namespaces, or with `--cluster` on a cluster). Every figure that compares is measured
/// against a floor, or against theirs, in the same run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_name = "SUITE", value_parser = ["one-node", "two-nodes", "dns", "go", "kubernetes", "explain", "examples"])]
    suite: String,
    /// How the programs are built that the cluster runs: release as people get them, dev as tests have them
    #[arg(long, default_value = "release", value_parser = ["release", "dev"])]
    images: String,
    /// Write the figures to this file as well: a JSON array of {"name", "value", "unit", "goal", "bound", "runs"}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure on Debian's kernel in a virtual machine, for what the kernel of this machine lacks: WireGuard. It is
    /// emulated, and much slower; only what is compared within it says something
    #[arg(long)]
    vm: bool,
    /// Run the examples on a cluster of two nodes on this machine, which is built and needs root
    #[arg(long)]
    cluster: bool,
    /// Options of the suite itself; `-- --help` tells them
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

impl Args {
    /// Builds, and becomes the benchmark.
    pub(crate) fn run(self) -> Result<()> {
        if self.vm {
            let is_possible = self.suite == "two-nodes";
            anyhow::ensure!(
                is_possible,
                "--vm is for the suite two-nodes, not for {}",
                self.suite
            );
            tools::need(suites::MACHINE)?;
        }
        let is_of_pages = self.suite == "examples";
        anyhow::ensure!(
            is_of_pages || !self.cluster,
            "--cluster is for the suite examples, not for {}",
            self.suite
        );
        if self.suite == "kubernetes" || self.cluster {
            return self.on_a_cluster();
        }
        tools::need(&TOOLS)?;
        if self.suite == "two-nodes" {
            tools::need(&TOOLS_OF_TWO_NODES)?;
        }
        if self.suite == "dns" || is_of_pages {
            tools::need(&[DNSMASQ, DIG])?;
        }
        let peer = match self.suite.as_str() {
            "go" => Some(peer()?),
            _ => None,
        };
        eprintln!("building the programs that images have: about 10 minutes at first");
        let programs = images::programs()?;
        if self.vm {
            return self.in_a_machine(&programs);
        }
        let program = programs.join("nsm-bench");
        let mut bench = self.bench(&program)?;
        if let Some(peer) = peer {
            bench.arg("--peer").arg(peer);
        }
        bench.args(&self.options);
        Err(bench.exec()).with_context(|| format!("could not start {}", program.display()))
    }

    /// Measures on another kernel.
    fn in_a_machine(self, programs: &Path) -> Result<()> {
        let options: Vec<_> = [self.suite].into_iter().chain(self.options).collect();
        let figures = vm::bench(programs, &options)?;
        if let Some(file) = self.json {
            let copied = std::fs::copy(&figures, &file);
            copied.with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// Measures what is built as tests have it, and what is built for people, on a cluster that ends with it.
    fn on_a_cluster(self) -> Result<()> {
        tools::need(cluster::TOOLS)?;
        let archives = cluster::images_built_for(&self.images)?;
        if self.images == "release" {
            run(&mut suites::everything())?;
        }
        let program = profile_folder("debug")?.join("nsm-bench");
        kubernetes::with_cluster("bench", cluster::Kubernetes::default(), &archives, |cluster| {
            let mut bench = self.bench(&program)?;
            bench.args(&self.options);
            if self.cluster {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let path = [kubernetes::programs_for_pages()?]
                    .into_iter()
                    .chain(std::env::split_paths(&path));
                bench.env("PATH", std::env::join_paths(path)?);
                bench.args(["--cluster", "--"]).args(kubernetes::FOR_PAGES);
            }
            run(kubernetes::at(cluster, &mut bench)?)
        })
    }

    /// What measures a registry with many endpoints, which needs an API server alone.
    fn beside_an_api_server(&self, bench: &mut Command) -> Result<()> {
        let programs = match self.images.as_str() {
            "release" => images::programs()?,
            _ => profile_folder("debug")?,
        };
        for test in built::tests([("cmd-registry-k8s", "kubernetes")])? {
            bench.env("NSM_REGISTRY_TEST", test);
        }
        bench
            .env("NSM_PROGRAMS", programs)
            .env("CLUSTER_PROGRAMS", cluster::build(cluster::Kubernetes::V1_34)?);
        Ok(())
    }

    /// The program that measures, with what it is to measure.
    fn bench(&self, program: &Path) -> Result<Command> {
        let mut bench = Command::new(program);
        bench.arg(&self.suite).current_dir(root());
        if self.suite == "kubernetes" {
            self.beside_an_api_server(&mut bench)?;
        }
        if let Some(file) = &self.json {
            bench.arg("--json").arg(std::path::absolute(file)?);
        }
        Ok(bench)
    }
}

/// The program on the Go SDK: the one that is given, or one that is built now, as the tests of mixed meshes build it.
fn peer() -> Result<PathBuf> {
    if let Some(file) = std::env::var_os("NSM_GO_PEER") {
        return Ok(std::path::absolute(file)?);
    }
    tools::need(&[GO])?;
    let file = profile_folder("release")?.join("interop/nsm-peer");
    eprintln!("building the program on the Go SDK: about a minute at first");
    run(Command::new("go")
        .arg("-C")
        .arg(root().join("tests/interop/peer"))
        .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o"])
        .arg(&file)
        .env("CGO_ENABLED", "0"))?;
    Ok(file)
}
