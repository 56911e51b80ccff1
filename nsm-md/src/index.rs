// SPDX-License-Identifier: Apache-2.0
//! Writes the table of a page that includes others: what each shows, and how long it takes.
//!
//! The table is the first one in the page; its first line is `| example | shows |` and a column for each place where
//! the documents run. What other places have told stays.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::document::Document;
use crate::library::Library;
use crate::report::{Outcome, Report};

/// What the first line of the table begins with.
const HEAD: [&str; 2] = ["example", "shows"];

/// A line of the table: the link's text and target, what the document shows, and how long it takes where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    title: String,
    target: String,
    shows: String,
    took: BTreeMap<String, String>,
}

/// Writes the table of `file` anew with what this run has told of `place`.
pub(crate) fn write(file: &Path, place: &str, library: &Library, report: &Report) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let page = file.canonicalize()?;
    let folder = page.parent().context("a file is in a folder")?.to_path_buf();
    let mut told = Vec::new();
    for (number, document) in library.documents.iter().enumerate() {
        let Ok(own) = document.file.canonicalize() else {
            continue;
        };
        let is_inner = own != page && own.starts_with(&folder) && document.is_test();
        let target = own.parent().and_then(|own| own.strip_prefix(&folder).ok());
        let Some(target) = target.filter(|_| is_inner) else {
            continue;
        };
        let name = library.name(number);
        let done = report.documents.iter().find(|done| done.name == name);
        let took = done.and_then(|done| match done.outcome {
            Outcome::Passed => Some(format!("{:.1} s", done.took.as_secs_f64())),
            Outcome::Elsewhere => Some("–".to_string()),
            _ => None,
        });
        told.push((target.display().to_string(), document.clone(), took));
    }
    let text = renewed(&text, place, &told).with_context(|| {
        format!(
            "{} has no table: add the lines `| {} | {place} |` and `|---|---|---|`",
            file.display(),
            HEAD.join(" | ")
        )
    })?;
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The text with another table, if it has one.
fn renewed(text: &str, place: &str, told: &[(String, Document, Option<String>)]) -> Option<String> {
    let lines: Vec<_> = text.lines().collect();
    let is_head = |line: &&str| cells(line).get(..2).is_some_and(|cells| cells == HEAD);
    let begin = lines.iter().position(is_head)?;
    let length = lines[begin..]
        .iter()
        .take_while(|line| line.starts_with('|'))
        .count();
    let mut places: Vec<_> = cells(lines[begin]).split_off(2);
    if !places.contains(&place) {
        places.push(place);
    }
    let mut rows: Vec<_> = lines[begin..begin + length]
        .iter()
        .skip(2)
        .filter_map(|line| row(line, &places))
        .filter(|row| told.iter().any(|(target, ..)| *target == row.target))
        .collect();
    for (target, document, took) in told {
        let at = rows
            .iter()
            .position(|row| row.target == *target)
            .unwrap_or_else(|| {
                rows.push(Row {
                    title: String::new(),
                    target: target.clone(),
                    shows: String::new(),
                    took: BTreeMap::new(),
                });
                rows.len() - 1
            });
        rows[at].title.clone_from(&document.title);
        rows[at].shows = first_sentence(&document.about);
        if let Some(took) = took {
            rows[at].took.insert(place.to_string(), took.clone());
        }
    }
    let before = lines[..begin].iter().map(|line| format!("{line}\n"));
    let after = lines[begin + length..].iter().map(|line| format!("{line}\n"));
    Some(before.chain([table(&places, &rows)]).chain(after).collect())
}

fn table(places: &[&str], rows: &[Row]) -> String {
    let mut text = format!("| {} | {} |\n", HEAD.join(" | "), places.join(" | "));
    text += &format!("|---|---|{}\n", "--:|".repeat(places.len()));
    for row in rows {
        let took = places
            .iter()
            .map(|place| row.took.get(*place).map_or("", String::as_str));
        let took: Vec<_> = took.collect();
        let Row {
            title, target, shows, ..
        } = row;
        let _infallible = writeln!(text, "| [{title}]({target}) | {shows} | {} |", took.join(" | "));
    }
    text
}

fn row(line: &str, places: &[&str]) -> Option<Row> {
    let cells = cells(line);
    let (title, target) = cells
        .first()?
        .strip_prefix('[')?
        .strip_suffix(')')?
        .split_once("](")?;
    let took = places.iter().zip(cells.iter().skip(2));
    Some(Row {
        title: title.to_string(),
        target: target.to_string(),
        shows: cells.get(1)?.to_string(),
        took: took
            .map(|(place, took)| (place.to_string(), took.to_string()))
            .collect(),
    })
}

fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

fn first_sentence(text: &str) -> String {
    let end = text.find(". ").map_or(text.len(), |end| end + 1);
    text[..end].trim_end_matches('.').replace('|', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(title: &str, about: &str) -> Document {
        Document {
            title: title.into(),
            about: about.into(),
            ..Document::default()
        }
    }

    #[test]
    fn rows_are_renewed_added_and_removed_and_other_places_stay() {
        let text = "# All\n\n| example | shows | cluster |\n|---|---|--:|\n| [Old](b) | old | 9.0 s |\n| [Gone](x) | | |\n\nEnd.\n";
        let told = [
            (
                "a".to_string(),
                document("A", "First. Second."),
                Some("0.5 s".to_string()),
            ),
            ("b".to_string(), document("B", "Only one."), None),
        ];
        let text = renewed(text, "namespaces", &told).expect("there is a table");
        assert_eq!(
            text,
            "# All\n\n| example | shows | cluster | namespaces |\n|---|---|--:|--:|\n| [B](b) | Only one | 9.0 s |  |\n\
             | [A](a) | First |  | 0.5 s |\n\nEnd.\n"
        );
        assert!(renewed("# No table\n", "x", &told).is_none());
    }
}
