// SPDX-License-Identifier: Apache-2.0
//! What has become of each document: for people while it happens, for machines at the end.

mod junit;
mod screen;

use std::time::Duration;

use serde::{Serialize, Serializer};

pub(crate) use junit::junit;
pub(crate) use screen::Screen;

/// As much of the output of a failed block is told, from its end, in bytes.
const MOST_OUTPUT: usize = 64 << 10;

/// Which part of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Section {
    /// Its steps.
    Run,
    /// What removes everything.
    Cleanup,
}

/// What has become of a block or of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// All is well.
    Passed,
    /// It was done in an earlier run.
    Before,
    /// All is well, but something is left.
    Left,
    /// It went wrong.
    Failed,
    /// Something went wrong that it needs.
    NotRun,
    /// It has no steps for what it was run on.
    Elsewhere,
    /// We were told to end.
    Interrupted,
}

/// A block that was run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Tried {
    /// Where it is from.
    pub(crate) section: Section,
    /// Its line.
    pub(crate) line: usize,
    /// What has become of it.
    pub(crate) outcome: Outcome,
    /// How long all of its tries took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(crate) took: Duration,
    /// How many tries there were.
    pub(crate) tries: u32,
    /// The exit code of the last one.
    pub(crate) exit: Option<i32>,
    /// Why it is no success.
    pub(crate) why: Option<String>,
    /// What the last try printed.
    pub(crate) output: String,
}

/// A document that was run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Done {
    /// How it is called.
    pub(crate) name: String,
    /// Its file.
    pub(crate) file: String,
    /// Its title.
    pub(crate) title: String,
    /// What it ran in, the outermost first.
    pub(crate) within: Vec<String>,
    /// What has become of it.
    pub(crate) outcome: Outcome,
    /// How long its own blocks took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(crate) took: Duration,
    /// Why it did not pass, if no block says that.
    pub(crate) why: Option<String>,
    /// Its blocks.
    pub(crate) blocks: Vec<Tried>,
    /// What was there after it and not before.
    pub(crate) left: Vec<String>,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// What it was run on.
    pub(crate) on: Vec<String>,
    /// How long all took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(crate) took: Duration,
    /// In the order in which they were done.
    pub(crate) documents: Vec<Done>,
}

fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64())
}

impl Tried {
    /// One that has not been tried yet.
    pub(crate) fn begun(section: Section, line: usize) -> Self {
        Self {
            section,
            line,
            outcome: Outcome::NotRun,
            took: Duration::ZERO,
            tries: 0,
            exit: None,
            why: None,
            output: String::new(),
        }
    }

    /// Says why it is no success.
    pub(crate) fn fail(&mut self, why: String) {
        self.outcome = Outcome::Failed;
        self.why = Some(why);
    }

    /// The end of what its last try printed.
    pub(crate) fn end_of_output(&self) -> &str {
        let mut from = self.output.len().saturating_sub(MOST_OUTPUT);
        while !self.output.is_char_boundary(from) {
            from += 1;
        }
        &self.output[from..]
    }
}

impl Report {
    /// How many documents had this outcome.
    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.documents
            .iter()
            .filter(|done| done.outcome == outcome)
            .count()
    }
}
