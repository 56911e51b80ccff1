// SPDX-License-Identifier: Apache-2.0
//! Runs the pages of `deployments/examples` as tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::report::Tally;
use crate::{go, profile_folder, root};

/// Everything that a page could leave behind.
const LEAK_CHECK: &str = "nsm mesh snapshot";

/// In network namespaces of this machine.
pub(crate) fn in_namespaces() -> Result<Tally> {
    let folder = std::env::temp_dir().join(format!("nsm-examples-{}", std::process::id()));
    run("namespaces", &[], |pages| {
        pages.args(["--leak-check", LEAK_CHECK]).env("NSM_MESH", folder);
        Ok(())
    })
}

/// Runs the pages at `place`, with `programs` to be found before all others; `add` says what is special there.
pub(crate) fn run(
    place: &str,
    programs: &[PathBuf],
    add: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<Tally> {
    let built = profile_folder("debug")?;
    let report = built.join(format!("examples-{place}.json"));
    let mut folders = programs.to_vec();
    folders.push(built.clone());
    folders.extend(std::env::split_paths(&go::path()));
    let mut pages = Command::new(built.join("nsm-md"));
    pages
        .arg("deployments/examples")
        .args(["--on", place, "--json"])
        .arg(&report)
        .env("PATH", std::env::join_paths(folders)?)
        .current_dir(root());
    add(&mut pages)?;
    let status = pages.status().context("could not start nsm-md")?;
    let tally = count(&std::fs::read(&report).context("the pages were not run")?)?;
    if !status.success() && tally.failed == 0 {
        bail!("nsm-md ended with {status}");
    }
    Ok(tally)
}

/// How many pages passed and failed. Pages that are for another place count for nothing.
fn count(report: &[u8]) -> Result<Tally> {
    let report: serde_json::Value = serde_json::from_slice(report)?;
    let mut tally = Tally::default();
    for page in report["documents"].as_array().into_iter().flatten() {
        match page["outcome"].as_str() {
            Some("passed") => tally.passed += 1,
            Some("elsewhere") => {}
            _ => tally.failed += 1,
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_pass_has_failed_unless_it_is_for_another_place() {
        let outcomes = ["passed", "passed", "elsewhere", "failed", "left", "not-run"];
        let pages = outcomes.map(|outcome| serde_json::json!({"outcome": outcome}));
        let report = serde_json::json!({"documents": pages}).to_string();
        let expected = Tally {
            passed: 2,
            failed: 3,
            ..Tally::default()
        };
        assert_eq!(count(report.as_bytes()).expect("it is a report"), expected);
    }
}
