// SPDX-License-Identifier: Apache-2.0
//! Tests that mostly wait: each runs in a process and in namespaces of its own, some of them side by side.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Tells such a process that it is one.
const BESIDE: &str = "NSM_BESIDE_OTHERS";

/// How many run at a time.
pub(crate) const AT_ONCE: usize = 6;

/// Whether this is such a process.
pub(crate) fn is_one() -> bool {
    std::env::var_os(BESIDE).is_some()
}

/// Runs one test in a process of its own.
pub(crate) fn run(name: &str) -> Result<()> {
    let done = Command::new("unshare")
        .args(["--mount", "--net", "setpriv", "--pdeathsig", "TERM", "--"])
        .arg(std::env::current_exe()?)
        .args(["--exact", name])
        .env(BESIDE, "1")
        .output()
        .context("cannot start unshare")?;
    let printed = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    if done.status.success() && printed.contains(" 1 passed;") {
        return Ok(());
    }
    // Indented, so that nobody takes its lines for ours.
    let lines: Vec<_> = printed.lines().map(|line| format!("    {line}")).collect();
    bail!("it ended with {}:\n{}", done.status, lines.join("\n"))
}
