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

/// How the tables begin: that of one node, and that of two.
const MIXES: &str = "| client |";
const PAIRS: &str = "| manager 1 |";

/// What passed, as rows of the tables of the document.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Of one node.
    mixes: Vec<String>,
    /// Of two nodes.
    pairs: Vec<String>,
}

impl Table {
    /// Adds that all works on one node with this mixture.
    pub(crate) fn passed(&mut self, test: &str, mix: Mix) {
        self.mixes.push(row(test, &Hop::ALL.map(|hop| mix.is_go(hop))));
    }

    /// Adds that all works between two nodes with these managers and forwarders.
    pub(crate) fn passed_apart(&mut self, test: &str, theirs: [bool; 4]) {
        self.pairs.push(row(test, &theirs));
    }
}

fn row(test: &str, theirs: &[bool]) -> String {
    let words: Vec<_> = theirs
        .iter()
        .map(|is_go| if *is_go { "Go" } else { "ours" })
        .collect();
    format!("| {} | yes | `{test}` |", words.join(" | "))
}

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![bench.trial("the_document_tells_what_mixes", async |bench| {
        let table = bench.table.lock().await;
        let path = document();
        let text = std::fs::read_to_string(&path)?;
        if std::env::var_os(BLESS).is_some() {
            return Ok(std::fs::write(&path, blessed(&text, &table)?)?);
        }
        for row in table.mixes.iter().chain(&table.pairs) {
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
    let mut lines: Vec<_> = text.lines().filter(|line| !is_row(line)).collect();
    for (head, rows) in [(MIXES, &table.mixes), (PAIRS, &table.pairs)] {
        let at = lines.iter().position(|line| line.starts_with(head));
        let after = at.with_context(|| format!("docs/interop.md has no table {head}"))? + 2;
        lines.splice(after..after, rows.iter().map(String::as_str));
    }
    Ok(lines.join("\n") + "\n")
}
