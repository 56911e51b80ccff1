// SPDX-License-Identifier: Apache-2.0
//! Format, clippy, what they are for Go, and the rules for dependencies.

use std::process::Command;

use anyhow::Result;

use crate::go;
use crate::report::{Report, run};
use crate::tools::{self, GO};

/// Check the format, clippy (warnings are errors), what they are for Go, and the dependencies (licences, bans,
/// duplicates, sources).
///
/// Builds cargo-deny on its first run, into a folder of this user's cache. Advisories are not checked: their database
/// lives on the network.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

impl Args {
    /// Runs the checks.
    pub(crate) fn run(self) -> Result<()> {
        tools::need_components()?;
        tools::need(&[GO])?;
        let mut report = Report::new();
        checks(&mut report);
        report.finish()
    }
}

/// The checks, in the order of what they cost.
pub(crate) fn checks(report: &mut Report) {
    report.check("format", || {
        run(Command::new("cargo").args(["fmt", "--all", "--check"]))
    });
    report.check("clippy", || {
        run(Command::new("cargo").args([
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--test=kubernetes",
            "--",
            "--deny",
            "warnings",
        ]))
    });
    report.check("go", go::check);
    report.check("dependencies", || {
        let cargo_deny = tools::cargo_deny()?;
        run(Command::new(cargo_deny).args(["--workspace", "check", "licenses", "bans", "sources"]))
    });
}
