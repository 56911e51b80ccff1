// SPDX-License-Identifier: Apache-2.0
//! What `cargo xtask test` can run.

use std::process::Command;

use crate::lint;
use crate::report::{Report, run, run_tests};
use crate::root;
use crate::tools::{IP, PING, Tool, UNSHARE};

/// A group of tests or checks that is run by its name.
#[derive(Debug)]
pub(crate) struct Suite {
    /// What people type.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// Whether it takes too long for every change: it runs when it is named, or with `--all`.
    pub(crate) long: bool,
    /// The programs that it needs.
    pub(crate) tools: &'static [Tool],
    /// Runs it.
    pub(crate) run: fn(&mut Report),
}

/// Every suite, in the order in which they run.
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        name: "lint",
        about: "format, clippy, dependencies",
        long: false,
        tools: &[],
        run: lint::checks,
    },
    Suite {
        name: "workspace",
        about: "the tests of every crate, on virtual time or the real kernel, and the documents' examples",
        long: false,
        tools: &[IP, PING, UNSHARE],
        run: workspace,
    },
    Suite {
        name: "soak",
        about: "10,000 wires that come and go on the real kernel, with programs built for release",
        long: true,
        tools: &[IP, PING, UNSHARE],
        run: soak,
    },
];

/// Builds everything with the features that tests need, so that system tests find the programs that they start and
/// nothing is built twice; then runs the tests.
fn workspace(report: &mut Report) {
    report.check("build", || {
        run(Command::new("cargo").args(["build", "--workspace", "--lib", "--bins", "--tests", "--examples"]))
    });
    report.step("tests", || {
        run_tests(Command::new("cargo").args(["test", "--workspace", "--no-fail-fast"]))
    });
}

/// Counts everything before and after many wires of the programs as people run them.
fn soak(report: &mut Report) {
    report.check("build", || {
        run(Command::new("cargo").args(["build", "--release", "--workspace", "--bins"]))
    });
    report.step("soak", || {
        run_tests(
            Command::new("cargo")
                .args(["test", "--package", "nsm-tests", "--test", "netns", "soak"])
                .env("NSM_PROGRAMS", root().join("target/release"))
                .env("NSM_LOG_LEVEL", "INFO")
                .env("NSM_SOAK_CYCLES", "10000"),
        )
    });
}
