// SPDX-License-Identifier: Apache-2.0
//! Files that people write, in YAML: what is wrong with one is told with its line.
//!
//! **Guarantees**: a key that does not exist is told with its place and with the known one that it is most like, if the
//! type that is read denies unknown fields, as all types of such files do.

use serde::de::DeserializeOwned;
use serde_saphyr::Error;

/// What a text says. Errors: what is wrong with it and where, in one line.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| told(&error))
}

/// An error for people.
fn told(error: &Error) -> String {
    let error = error.without_snippet();
    let what = match error {
        Error::SerdeUnknownField { field, expected, .. } => unknown(field, expected),
        other => {
            let text = other.to_string();
            // The place stands behind it, in many words.
            let end = text.find(" at line ").or_else(|| text.find('\n'));
            text[..end.unwrap_or(text.len())].to_string()
        }
    };
    match error.location() {
        Some(place) => format!("line {}, column {}: {what}", place.line(), place.column()),
        None => what,
    }
}

fn unknown(field: &str, known: &[&str]) -> String {
    match nearest(field, known) {
        Some(near) => format!("the key {field:?} is not known: did you mean {near:?}?"),
        None => format!("the key {field:?} is not known: there are {}", known.join(", ")),
    }
}

/// The one of `known` that `word` is most like; nothing when it is like none.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = |word: &str| word.to_lowercase().replace('-', "_");
    let letters = |word: &str| word.replace('_', "");
    let (written, word) = (word, lower(word));
    let far = known.iter().map(|name| {
        let known = lower(name);
        let far = distance(&letters(&word), &letters(&known));
        // Of spellings of one word the one that is written most alike.
        ((far, distance(&word, &known), distance(written, name)), *name)
    });
    let ((far, ..), near) = far.min_by_key(|(far, _)| *far)?;
    (far <= (word.chars().count() / 3).max(1)).then_some(near)
}

/// How many single-character edits lead from one to the other.
pub(crate) fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Known {
        #[serde(alias = "dst_port")]
        dstport: u16,
        routes: Vec<Known>,
    }

    fn wrong(text: &str) -> String {
        read::<Vec<Known>>(text).expect_err("it is wrong")
    }

    #[test]
    fn an_unknown_key_is_told_with_its_line_and_the_nearest_known_one() {
        assert_eq!(
            wrong("# a list\n- dstport: 1\n- dstprt: 2\n"),
            "line 3, column 3: the key \"dstprt\" is not known: did you mean \"dstport\"?"
        );
        assert_eq!(
            wrong("- routes:\n    - dstport: 1\n      DST-PORTS: 2\n"),
            "line 3, column 7: the key \"DST-PORTS\" is not known: did you mean \"dst_port\"?"
        );
        assert_eq!(
            wrong("- colour: red"),
            "line 1, column 3: the key \"colour\" is not known: there are dst_port, dstport, routes"
        );
    }

    #[test]
    fn other_faults_are_told_in_one_line_with_their_place() {
        for text in [
            "- dstport: many",
            "- dstport: 70000",
            "dstport: 1",
            "- [",
            "- a: b: c",
            "\t- x",
        ] {
            let told = wrong(text);
            assert!(told.starts_with("line "), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
            assert_eq!(told.matches("line ").count(), 1, "{told}");
        }
    }
}
