// SPDX-License-Identifier: Apache-2.0
//! The tables of `docs/interop.md`, and what ran.
//!
//! With `NSM_BLESS=1` a run of all tests writes them. Any other run checks that the document tells what it has seen.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::Bench;
use crate::mix::{Hop, Mix};

/// Asks for the tables to be written.
const BLESS: &str = "NSM_BLESS";

/// What passed, as rows of one table of the document.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<String>);

impl Table {
    /// Adds that all has passed which the table is about, with this mixture.
    pub(crate) fn passed(&mut self, test: &str, mix: Mix) {
        let hops = Hop::ALL.map(|hop| if mix.is_go(hop) { "Go" } else { "ours" });
        self.0.push(format!("| {} | yes | `{test}` |", hops.join(" | ")));
    }
}

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![bench.trial("the_document_tells_what_mixes", async |bench| {
        let table = bench.table.lock().await;
        let path = document();
        let text = std::fs::read_to_string(&path)?;
        if std::env::var_os(BLESS).is_some() {
            return Ok(std::fs::write(&path, blessed(&text, &table)?)?);
        }
        for row in &table.0 {
            ensure!(
                text.lines().any(|line| line == row),
                "docs/interop.md has no line\n{row}\nrun `NSM_BLESS=1 cargo test -p nsm-tests --test interop`"
            );
        }
        Ok(())
    })]
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md")
}

/// The document with these rows in place of those that it has.
fn blessed(text: &str, table: &Table) -> Result<String> {
    let is_row = |line: &&str| line.starts_with("| ours |") || line.starts_with("| Go |");
    let head = text
        .lines()
        .position(|line| line.starts_with("|---|"))
        .context("docs/interop.md has no table")?;
    let mut lines: Vec<_> = text.lines().filter(|line| !is_row(line)).collect();
    lines.splice(head + 1..head + 1, table.0.iter().map(String::as_str));
    Ok(lines.join("\n") + "\n")
}
