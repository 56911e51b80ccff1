// SPDX-License-Identifier: Apache-2.0
//! Builds the programs as they are shipped and measures them.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::report::run;
use crate::tools::{self, IP, NSENTER, PING, SETPRIV, UNSHARE};
use crate::{profile_folder, root};

/// Build the programs as they are shipped, run a suite of benchmarks, and print its figures beside their goals.
///
/// Every figure that compares is measured against a floor in the same run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_name = "SUITE", value_parser = ["one-node"])]
    suite: String,
    /// Write the figures to this file as well: a JSON array of {"name", "value", "unit", "goal", "runs"}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Args {
    /// Builds, and becomes the benchmark.
    pub(crate) fn run(self) -> Result<()> {
        tools::need(&[IP, PING, UNSHARE, NSENTER, SETPRIV])?;
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
        Err(bench.exec()).with_context(|| format!("could not start {}", program.display()))
    }
}
