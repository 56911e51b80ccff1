// SPDX-License-Identifier: Apache-2.0
//! Format, clippy, what they are for Go, and the rules for dependencies.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::report::{Report, run};
use crate::root;
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
            "--",
            "--deny",
            "warnings",
        ]))
    });
    report.check("go", go);
    report.check("dependencies", || {
        let cargo_deny = tools::cargo_deny()?;
        run(Command::new(cargo_deny).args(["--workspace", "check", "licenses", "bans", "sources"]))
    });
}

/// Programs in Go, and which of their packages `go vet` looks at: with those that link Kubernetes it takes ten minutes.
const GO_MODULES: [(&str, &[&str]); 2] = [
    ("tests/interop/peer", &["./..."]),
    ("tests/cluster", &[".", "./pause"]),
];

/// The format and `go vet` of programs in Go.
fn go() -> Result<()> {
    for (folder, packages) in GO_MODULES {
        let folder = root().join(folder);
        let told = Command::new("gofmt").arg("-l").arg(&folder).output()?;
        let unformatted = String::from_utf8_lossy(&told.stdout);
        ensure!(
            told.status.success() && unformatted.is_empty(),
            "gofmt would change {unformatted}"
        );
        run(Command::new("go")
            .arg("-C")
            .arg(folder)
            .args(["vet", "-mod=readonly"])
            .args(packages))?;
    }
    Ok(())
}
