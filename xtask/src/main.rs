// SPDX-License-Identifier: Apache-2.0
//! Every task of a developer: `cargo xtask --help`.
//!
//! A command is one file with a type `Args`, whose documentation is its help, and a method `run`. It is registered by
//! its `mod` line and one line in the table below.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod lint;
mod report;
mod suites;
mod test;
mod tools;

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
    Test = test,
    Lint = lint,
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

/// The folder of the workspace, wherever the command was started.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
