// SPDX-License-Identifier: Apache-2.0
//! Builds the programs and shows wires of every kind.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cluster;
use crate::report::run;
use crate::tools::{self, IP, IPERF3, NSENTER, PING, SETPRIV, UNSHARE, WG, WIREGUARD_GO};
use crate::{profile_folder, root};

mod kubernetes;

/// Build the programs and show four wires between pods of two nodes on this machine: made, measured, removed.
///
/// On one node, to another by VXLAN and by WireGuard, and of both IP families. Needs no root and touches nothing
/// outside; what the machine withholds is named. Exit code 0 only if every ping was answered, nothing was left, and
/// every wire was there that the machine allows.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show the mesh in Kubernetes instead, on a cluster of its own: apply, annotate, ping, kill, heal, delete. Needs root
    #[arg(long, conflicts_with_all = ["keep", "json", "more", "debug"])]
    kubernetes: bool,
    /// Leave it running, say how to look inside, and clean up on Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the facts as one JSON document instead of pictures
    #[arg(long)]
    json: bool,
    /// How many more wires of the first kind to ask for, one after the other; a fifth of it of each other kind
    #[arg(long, default_value_t = 100)]
    more: u32,
    /// Use programs that are built for debugging: built sooner, and slower
    #[arg(long)]
    debug: bool,
}

impl Args {
    /// Builds, and becomes the demo.
    pub(crate) fn run(self) -> Result<()> {
        if self.kubernetes {
            tools::need(cluster::TOOLS)?;
            return kubernetes::run();
        }
        tools::need(&[IP, PING, UNSHARE, NSENTER, SETPRIV])?;
        if let Err(error) = tools::need(&[IPERF3, WIREGUARD_GO, WG]) {
            eprintln!("what is missing here is not compared with: {error:#}");
        }
        let mut build = Command::new("cargo");
        build.args(["build", "--bins"]).args(
            [
                "cmd-forwarder",
                "cmd-nsc",
                "cmd-nse-icmp",
                "cmd-nsm",
                "cmd-nsmgr",
                "cmd-registry-memory",
            ]
            .map(|name| format!("--package={name}")),
        );
        if !self.debug {
            build.arg("--release");
        }
        eprintln!("building the programs");
        run(&mut build)?;
        let program = profile_folder(if self.debug { "debug" } else { "release" })?.join("nsm");
        let mut demo = Command::new(&program);
        demo.arg("demo")
            .current_dir(root())
            .arg(format!("--more={}", self.more));
        for (flag, is_set) in [("--keep", self.keep), ("--json", self.json)] {
            if is_set {
                demo.arg(flag);
            }
        }
        Err(demo.exec()).with_context(|| format!("could not start {}", program.display()))
    }
}
