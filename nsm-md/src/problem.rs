// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a document: where, what, and what helps.

use std::fmt;
use std::path::{Path, PathBuf};

/// Something in a document that makes no sense, found before anything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    file: PathBuf,
    line: usize,
    what: String,
    remedy: String,
}

impl Problem {
    /// At this line of a file, counted from 1.
    pub(crate) fn new(file: &Path, line: usize, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            file: file.to_path_buf(),
            line,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            what,
            remedy,
        } = self;
        write!(f, "{}:{line}: {what}; {remedy}", file.display())
    }
}

/// The word of `known` that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let candidates = known.iter().map(|other| (distance(word, other), *other));
    let (distance, other) = candidates.min()?;
    (distance <= word.len().min(other.len()) / 2).then_some(other)
}

/// How many letters must be changed, added or removed to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<_> = other.chars().collect();
    let mut row: Vec<_> = (0..=other.len()).collect();
    for (number, letter) in one.chars().enumerate() {
        let mut before = number;
        let mut next = vec![number + 1];
        for (column, (above, wanted)) in row[1..].iter().zip(&other).enumerate() {
            let replaced = before + usize::from(letter != *wanted);
            next.push(replaced.min(above + 1).min(next[column] + 1));
            before = *above;
        }
        row = next;
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognized() {
        let known = ["expect", "expect-exit", "timeout", "retry"];
        assert_eq!(nearest("timout", &known), Some("timeout"));
        assert_eq!(nearest("expct", &known), Some("expect"));
        assert_eq!(nearest("colour", &known), None);
    }

    #[test]
    fn a_problem_names_file_line_and_remedy() {
        let problem = Problem::new(Path::new("a/README.md"), 7, "it is wrong", "do it right");
        assert_eq!(problem.to_string(), "a/README.md:7: it is wrong; do it right");
    }
}
