// SPDX-License-Identifier: Apache-2.0
//! How long the pages of `deployments/examples` take, without a cluster or on one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nsm::mesh::Programs;
use tokio::process::Command;

use crate::figure::Figure;

/// The pages.
const PAGES: &str = "deployments/examples";

/// The examples: how long all take in namespaces, or on a cluster
#[derive(Args)]
pub(crate) struct Examples {
    /// Write what each takes into the table of deployments/examples/README.md
    #[arg(long)]
    index: bool,
    /// On the cluster that kubectl knows, instead of in namespaces
    #[arg(long)]
    cluster: bool,
    /// Options of nsm-md
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
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
        let (place, goal) = match self.cluster {
            true => ("cluster", 900.0),
            false => ("namespaces", 60.0),
        };
        let mut pages = Command::new(programs.file("nsm-md")?);
        pages
            .args([PAGES, "--on", place, "--json"])
            .arg(&report)
            .args(&self.options)
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
        let documents = report["documents"].as_array().into_iter().flatten();
        let pages = documents.filter(|page| page["outcome"] == "passed").count();
        Ok(vec![
            Figure::new(format!("examples.{place}_total_s"), total, "s", 1).at_most(goal),
            Figure::new(format!("examples.{place}_pages"), pages as f64, "pages", 1),
        ])
    }
}
