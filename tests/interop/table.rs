// SPDX-License-Identifier: Apache-2.0
//! The tables of `docs/interop.md`, and what ran.
//!
//! With `NSM_BLESS=1` a run of all tests writes them. Any other run checks that the document tells what it has seen.

use std::collections::BTreeMap;
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
    /// Of one node, by which programs are theirs.
    mixes: BTreeMap<Vec<bool>, Row>,
    /// Of two nodes.
    pairs: BTreeMap<Vec<bool>, Row>,
    /// Of what is healed.
    healed: Vec<String>,
}

/// The tests of a mixture that have passed.
#[derive(Debug, Default)]
struct Row {
    /// That of a wire that comes and goes.
    comes_and_goes: Option<String>,
    /// That of a wire that lives on while programs die.
    lives_on: Option<String>,
}

impl Table {
    /// Adds that a wire comes and goes on one node with this mixture.
    pub(crate) fn comes_and_goes(&mut self, test: &str, mix: Mix) {
        self.mix(mix).comes_and_goes = Some(test.to_string());
    }

    /// Adds that a wire lives on there while programs die.
    pub(crate) fn lives_on(&mut self, test: &str, mix: Mix) {
        self.mix(mix).lives_on = Some(test.to_string());
    }

    fn mix(&mut self, mix: Mix) -> &mut Row {
        row_of(&mut self.mixes, &Hop::ALL.map(|hop| mix.is_go(hop)))
    }

    /// Adds that a wire comes and goes between two nodes with these managers and forwarders.
    pub(crate) fn comes_and_goes_apart(&mut self, test: &str, theirs: [bool; 4]) {
        row_of(&mut self.pairs, &theirs).comes_and_goes = Some(test.to_string());
    }

    /// Adds that a wire lives on there while programs die.
    pub(crate) fn lives_on_apart(&mut self, test: &str, theirs: [bool; 4]) {
        row_of(&mut self.pairs, &theirs).lives_on = Some(test.to_string());
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

/// The row of a mixture; rows are in the order of what is theirs, read from the last program to the first.
fn row_of<'t>(table: &'t mut BTreeMap<Vec<bool>, Row>, theirs: &[bool]) -> &'t mut Row {
    table.entry(theirs.iter().rev().copied().collect()).or_default()
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

/// The first columns of a mixture.
fn head(theirs: &[bool]) -> String {
    let words: Vec<_> = theirs.iter().rev().map(|is_go| whose(*is_go)).collect();
    format!("| {} |", words.join(" | "))
}

impl Row {
    /// The last columns.
    fn tests(&self) -> String {
        let [comes_and_goes, lives_on] = [&self.comes_and_goes, &self.lives_on].map(|test| match test {
            Some(test) => format!("`{test}`"),
            None => "no".to_string(),
        });
        format!(" {comes_and_goes} | {lives_on} |")
    }

    /// Whether a line tells of all that has passed.
    fn is_told(&self, line: &str) -> bool {
        let mut tests = self.comes_and_goes.iter().chain(&self.lives_on);
        tests.all(|test| line.contains(&format!("| `{test}` |")))
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
        for (theirs, row) in table.mixes.iter().chain(&table.pairs) {
            let head = head(theirs);
            ensure!(
                text.lines()
                    .any(|line| line.starts_with(&head) && row.is_told(line)),
                "docs/interop.md has no line\n{head}{}\nrun `NSM_BLESS=1 cargo test -p nsm-tests --test interop`",
                row.tests()
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
    let [mixes, pairs] = [&table.mixes, &table.pairs].map(|table| {
        let rows = table.iter().map(|(theirs, row)| head(theirs) + &row.tests());
        rows.collect::<Vec<_>>()
    });
    for (head, rows) in [(MIXES, &mixes), (PAIRS, &pairs), (HEALED, &table.healed)] {
        let at = lines.iter().position(|line| line.starts_with(head));
        let after = at.with_context(|| format!("docs/interop.md has no table {head}"))? + 2;
        lines.splice(after..after, rows.iter().map(String::as_str));
    }
    Ok(lines.join("\n") + "\n")
}
