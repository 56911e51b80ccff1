// SPDX-License-Identifier: Apache-2.0
//! The tables of `docs/interop.md`, and what ran.
//!
//! With `NSM_BLESS=1` a run of all tests writes them. Any other run checks that the document tells what it has seen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::Bench;
use crate::mix::{Hop, Mix};

/// Asks for the tables to be written.
const BLESS: &str = "NSM_BLESS";

/// How the tables begin: that of one node, that of two, and that of what is healed.
const MIXES: &str = "| client |";
const PAIRS: &str = "| manager 1 |";
const HEALED: &str = "| client that heals |";

/// Which column of the last one differs from run to run.
const SILENCE: usize = 4;

/// What passed, as rows of the tables of the document.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Of one node.
    mixes: Vec<String>,
    /// Of two nodes.
    pairs: Vec<String>,
    /// Of what is healed.
    healed: Vec<String>,
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

    /// Adds that a client has mended its wire after a loss, and for how long no ping was answered.
    pub(crate) fn healed(&mut self, test: &str, theirs: [bool; 2], lost: &str, silence: Duration) {
        let [client, other] = theirs.map(whose);
        let silence = silence.as_secs_f64();
        self.healed.push(format!(
            "| {client} | {lost} | {other} | {silence:.2} s | `{test}` |"
        ));
    }
}

fn whose(is_go: bool) -> &'static str {
    if is_go { "Go" } else { "ours" }
}

/// A row without what differs from run to run.
fn lasting(row: &str) -> Vec<&str> {
    let columns = row.split('|').map(str::trim).enumerate();
    columns
        .filter(|(at, _)| *at != SILENCE)
        .map(|(_, text)| text)
        .collect()
}

fn row(test: &str, theirs: &[bool]) -> String {
    let words: Vec<_> = theirs.iter().map(|is_go| whose(*is_go)).collect();
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
        for row in &table.healed {
            ensure!(
                text.lines().any(|line| lasting(line) == lasting(row)),
                "docs/interop.md has no line like\n{row}\nrun `NSM_BLESS=1 cargo test -p nsm-tests --test interop`"
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
    for (head, rows) in [
        (MIXES, &table.mixes),
        (PAIRS, &table.pairs),
        (HEALED, &table.healed),
    ] {
        let at = lines.iter().position(|line| line.starts_with(head));
        let after = at.with_context(|| format!("docs/interop.md has no table {head}"))? + 2;
        lines.splice(after..after, rows.iter().map(String::as_str));
    }
    Ok(lines.join("\n") + "\n")
}
