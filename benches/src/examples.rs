// SPDX-License-Identifier: Apache-2.0
//! How long the pages of `deployments/examples` take that run without a cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nsm::mesh::Programs;
use tokio::process::Command;

use crate::figure::Figure;

/// The pages.
const PAGES: &str = "deployments/examples";

/// The examples: how long all take in namespaces
#[derive(Args)]
pub(crate) struct Examples {
    /// Write what each takes into the table of deployments/examples/README.md
    #[arg(long)]
    index: bool,
    /// Where the program files are; beside this one by default
    #[arg(long)]
    programs: Option<PathBuf>,
}

impl Examples {
    /// Runs all of them once.
    pub(crate) async fn run(self) -> Result<Vec<Figure>> {
        let programs = match &self.programs {
            Some(folder) => Programs::in_folder(folder),
            None => Programs::beside_us()?,
        };
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let report = folder.path().join("report.json");
        let mut folders = vec![programs.folder().to_path_buf()];
        folders.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let mut pages = Command::new(programs.file("nsm-md")?);
        pages
            .args([PAGES, "--on", "namespaces", "--json"])
            .arg(&report)
            .env("PATH", std::env::join_paths(folders)?)
            .env("NSM_MESH", folder.path().join("mesh"));
        if self.index {
            pages.arg("--index").arg(Path::new(PAGES).join("README.md"));
        }
        let status = pages.status().await.context("cannot start nsm-md")?;
        ensure!(
            status.success(),
            "a page did not pass: nsm-md ended with {status}"
        );
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report)?)?;
        let total = report["seconds"].as_f64().context("the report has no time")?;
        let pages = report["documents"].as_array().map_or(0, Vec::len);
        Ok(vec![
            Figure::new("examples.namespaces_total_s", total, "s", 1).at_most(60.0),
            Figure::new("examples.namespaces_pages", pages as f64, "pages", 1),
        ])
    }
}
