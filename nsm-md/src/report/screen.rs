// SPDX-License-Identifier: Apache-2.0
//! What people see. Colours only on a terminal, and not where NO_COLOR is set.

use std::io::IsTerminal;
use std::time::Duration;

use super::{Done, Outcome, Report, Section, Tried};

/// How many lines of a failed block's output are shown, from its end.
const MOST_LINES: usize = 40;

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    has_colours: bool,
    tells_blocks: bool,
}

impl Screen {
    /// As it is; `tells_blocks` shows each block.
    pub(crate) fn new(tells_blocks: bool) -> Self {
        let is_forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            has_colours: std::io::stdout().is_terminal() && !is_forbidden,
            tells_blocks,
        }
    }

    /// A document begins.
    pub(crate) fn begins(self, name: &str, depth: usize) {
        if self.tells_blocks {
            println!("{}{}", indent(depth), self.coloured("1", name));
        }
    }

    /// A block is done.
    pub(crate) fn block(self, file: &str, tried: &Tried, depth: usize) {
        if self.tells_blocks || tried.outcome == Outcome::Failed {
            let section = if tried.section == Section::Cleanup {
                " (cleanup)"
            } else {
                ""
            };
            let tries = match tried.tries {
                1 => String::new(),
                tries => format!(", {tries} tries"),
            };
            let why = tried.why.as_ref().filter(|_| tried.outcome == Outcome::Failed);
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            println!(
                "{}  {} {file}:{}{section}{why} ({}{tries})",
                indent(depth),
                self.mark(tried.outcome),
                tried.line,
                seconds(tried.took)
            );
        }
        if tried.outcome == Outcome::Failed {
            let lines: Vec<_> = tried.end_of_output().lines().collect();
            for line in &lines[lines.len().saturating_sub(MOST_LINES)..] {
                println!("{}    | {line}", indent(depth));
            }
        }
    }

    /// A document is done.
    pub(crate) fn done(self, done: &Done) {
        let depth = done.within.len();
        let why = done.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        println!(
            "{}{} {}{why} ({})",
            indent(depth),
            self.mark(done.outcome),
            done.name,
            seconds(done.took)
        );
        for left in &done.left {
            println!("{}    left behind: {left}", indent(depth));
        }
    }

    /// The end.
    pub(crate) fn summary(self, report: &Report) {
        let counts = [
            ("passed", Outcome::Passed),
            ("done before", Outcome::Before),
            ("failed", Outcome::Failed),
            ("left something behind", Outcome::Left),
            ("not run", Outcome::NotRun),
            ("not for here", Outcome::Elsewhere),
            ("interrupted", Outcome::Interrupted),
        ];
        let told: Vec<_> = counts
            .into_iter()
            .map(|(what, outcome)| (what, report.count(outcome)))
            .filter(|(what, count)| *count > 0 || matches!(*what, "passed" | "failed"))
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        println!("{} in {}", told.join(", "), seconds(report.took));
    }

    fn mark(self, outcome: Outcome) -> String {
        let (colour, mark) = match outcome {
            Outcome::Passed | Outcome::Before => ("32", "✓"),
            Outcome::Failed | Outcome::Left | Outcome::Interrupted => ("31", "✗"),
            Outcome::NotRun | Outcome::Elsewhere => ("33", "–"),
        };
        self.coloured(colour, mark)
    }

    fn coloured(self, colour: &str, text: &str) -> String {
        if self.has_colours {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_string()
        }
    }
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}
