// SPDX-License-Identifier: Apache-2.0
//! Every task of a developer: `cargo xtask --help`.
//!
//! A command is one file with a type `Args`, whose documentation is its help, and a method `run`. It is registered by
//! its `mod` line and one line in the table below.

use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod bench;
mod built;
mod busybox;
mod cluster;
mod coredns;
mod demo;
mod examples;
mod go;
mod images;
mod kubernetes;
mod lint;
mod oci;
mod previous;
mod report;
mod sbom;
mod suites;
mod test;
mod tools;
mod vm;

macro_rules! commands {
    ($($name:ident = $module:ident,)*) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($name($module::Args),)*
        }

        impl Command {
            fn run(self) -> Result<()> {
                match self {
                    $(Self::$name(args) => args.run(),)*
                }
            }
        }
    };
}

commands! {
    Demo = demo,
    Test = test,
    Bench = bench,
    Lint = lint,
    Images = images,
    Cluster = cluster,
}

/// The tasks of a developer of Network Service Mesh.
///
/// Exit codes: 0 all is well; 1 something failed; 2 it could not be tried, because a tool is missing or the command
/// line is wrong.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<tools::Missing>() { 2 } else { 1 })
        }
    }
}

/// The folder of the workspace, wherever the command was started: what cargo tells now, for two checkouts may share
/// what is built.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR");
    let here = here.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().unwrap_or(&here).to_path_buf()
}

/// The folder into which cargo puts programs.
fn profile_folder(profile: &str) -> Result<PathBuf> {
    let printed = Process::new("cargo")
        .args(["metadata", "--format-version=1", "--no-deps"])
        .current_dir(root())
        .output()
        .context("could not start cargo")?
        .stdout;
    let metadata: serde_json::Value =
        serde_json::from_slice(&printed).context("cargo metadata printed no JSON")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(Path::new(target).join(profile))
}
