// SPDX-License-Identifier: Apache-2.0
//! The program on the Go SDK.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nsm::mesh::Programs;

/// Names a program that is built already.
const BUILT: &str = "NSM_GO_PEER";

/// Where the program is, or will be.
pub(crate) fn file() -> Result<PathBuf> {
    match std::env::var_os(BUILT) {
        Some(file) => Ok(file.into()),
        None => Ok(Programs::beside_us()?.folder().join("interop/nsm-peer")),
    }
}

/// Builds the program from the modules that its `go.sum` names, unless it is given. What is unchanged comes from Go's
/// own cache; nothing is written beside the sources.
pub(crate) fn build() -> Result<()> {
    if std::env::var_os(BUILT).is_some() {
        return Ok(());
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/peer");
    let done = Command::new("go")
        .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o"])
        .arg(file()?)
        .current_dir(&sources)
        .env("CGO_ENABLED", "0")
        .status()
        .context("Go is not there: install 1.21 or newer, or name a program that is built by NSM_GO_PEER")?;
    ensure!(
        done.success(),
        "the program in {} cannot be built: {done}",
        sources.display()
    );
    Ok(())
}
