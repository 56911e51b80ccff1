// SPDX-License-Identifier: Apache-2.0
//! The programs of an earlier commit, built once beside the work tree.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::report::run;
use crate::root;
use crate::tools::cache;

/// Names programs that are built already: their folder.
pub(crate) const PROGRAMS: &str = "NSM_PREVIOUS_PROGRAMS";

/// Names another commit than the one before this.
const COMMIT: &str = "NSM_PREVIOUS";

/// The one before this.
const BEFORE: &str = "HEAD~1";

/// What of its workspace is no program of a mesh.
const OTHERS: [&str; 4] = ["xtask", "nsm-benches", "nsm-tests", "nsm-md"];

/// Builds the programs, unless that was done or they are given. Returns their folder.
pub(crate) fn programs() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(PROGRAMS) {
        return Ok(folder.into());
    }
    let named = std::env::var(COMMIT).unwrap_or_else(|_| BEFORE.into());
    let commit = commit(&named)?;
    let folder = cache()?.join("previous");
    let (programs, stamp) = (folder.join("programs"), folder.join("commit"));
    if fs::read_to_string(&stamp).is_ok_and(|before| before == commit) {
        return Ok(programs);
    }
    println!("building {named}, which is {commit}, in {}", folder.display());
    let (source, target) = (folder.join("source"), folder.join("target"));
    for old in [&source, &programs] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
        fs::create_dir_all(old)?;
    }
    unpack(&commit, &source)?;
    compile(&source, &target)?;
    for program in built(&target.join("debug"))? {
        fs::rename(&program, programs.join(program.file_name().unwrap_or_default()))?;
    }
    fs::write(stamp, commit)?;
    Ok(programs)
}

/// The hash of a commit.
fn commit(named: &str) -> Result<String> {
    let asked = format!("{named}^{{commit}}");
    let told = Command::new("git")
        .args(["rev-parse", "--verify", "--quiet", &asked])
        .current_dir(root())
        .output()
        .context("could not start git")?;
    ensure!(
        told.status.success(),
        "there is no commit {named} here: fetch more of the history, or name another one by {COMMIT}"
    );
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_string())
}

/// Writes the files of a commit into a folder. They are as old as now: to cargo, what is older than its last build has
/// not changed.
fn unpack(commit: &str, folder: &Path) -> Result<()> {
    let mut archive = Command::new("git")
        .args(["archive", commit])
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .context("could not start git")?;
    let files = archive.stdout.take().context("it is piped")?;
    let unpacked = Command::new("tar")
        .args(["--extract", "--touch", "--directory"])
        .arg(folder)
        .stdin(files)
        .status()
        .context("could not start tar")?;
    let archived = archive.wait()?;
    ensure!(
        archived.success() && unpacked.success(),
        "the files of {commit} could not be read ({archived}) or written ({unpacked})"
    );
    Ok(())
}

/// Builds the programs as tests do, and without what debuggers need.
fn compile(source: &Path, target: &Path) -> Result<()> {
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--workspace", "--bins", "--manifest-path"]);
    build.arg(source.join("Cargo.toml"));
    for package in OTHERS {
        build.args(["--exclude", package]);
    }
    let settings = [("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_INCREMENTAL", "0")];
    run(build.env("CARGO_TARGET_DIR", target).envs(settings))
}

/// The programs in a folder of cargo.
fn built(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), entry.metadata()?);
        let is_program = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        if is_program && path.extension().is_none() {
            programs.push(path);
        }
    }
    ensure!(!programs.is_empty(), "{} has no programs", folder.display());
    Ok(programs)
}
