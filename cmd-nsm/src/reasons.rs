// SPDX-License-Identifier: Apache-2.0
//! What the reason codes of errors mean, as `docs/reasons.md` says.

use std::fmt;

use serde::Serialize;

const DOCUMENT: &str = include_str!("../../docs/reasons.md");

/// What is said of one reason code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The code.
    pub reason: &'static str,
    /// What has happened.
    pub meaning: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// What is said of `reason`, if it is a code.
pub fn entry(reason: &str) -> Option<Entry> {
    entries().find(|entry| entry.reason == reason)
}

/// Every code, in the order of the document.
pub fn entries() -> impl Iterator<Item = Entry> {
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
        let reason = cells.next()?.strip_suffix('`')?;
        let (meaning, remedy) = (cells.next()?, cells.next()?);
        Some(Entry {
            reason,
            meaning,
            remedy,
        })
    };
    DOCUMENT.lines().filter_map(row)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.reason)?;
        writeln!(f, "  means:  {}", self.meaning)?;
        writeln!(f, "  remedy: {}", self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_a_meaning_and_a_remedy() {
        let entry = entry("no-endpoint").expect("it is in the document");
        assert!(!entry.meaning.is_empty() && !entry.remedy.is_empty());
        assert!(super::entry("kernel://no-endpoint").is_none());
    }
}
