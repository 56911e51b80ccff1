// SPDX-License-Identifier: Apache-2.0
//! What runs inside of what, and in which order.

use crate::library::Library;

/// A document, what is set up for it, and what runs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The document.
    pub(crate) document: usize,
    /// What comes before it and is cleaned up after it.
    pub(crate) setups: Vec<Self>,
    /// What runs between its own steps and its cleanup.
    pub(crate) inner: Vec<Self>,
}

impl Step {
    /// All documents in it, in the order in which they begin.
    pub(crate) fn documents(&self) -> Vec<usize> {
        let setups = self.setups.iter().flat_map(Self::documents);
        let inner = self.inner.iter().flat_map(Self::documents);
        setups.chain([self.document]).chain(inner).collect()
    }
}

/// The steps for the wanted documents whose names contain one of `only`, if there are any.
///
/// A document runs in everybody that includes it; what it requires is set up before it, unless it runs in that; what
/// others require is not run for its own sake.
pub(crate) fn plan(library: &Library, only: &[String]) -> Vec<Step> {
    let numbers = 0..library.documents.len();
    let is_set_up = |number: usize| {
        numbers
            .clone()
            .any(|other| library.needs(other).any(|(need, _)| need == number))
    };
    let mut planner = Planner {
        library,
        only,
        provided: Vec::new(),
    };
    let tops = numbers
        .clone()
        .filter(|number| library.includers(*number).next().is_none());
    tops.filter_map(|top| {
        let is_wanted = library.wanted.contains(&top);
        let is_asked_for = planner.is_chosen(top) && (!is_set_up(top) || !only.is_empty());
        planner.step(top, is_wanted, is_asked_for)
    })
    .collect()
}

struct Planner<'a> {
    library: &'a Library,
    only: &'a [String],
    /// What is there while the next step runs.
    provided: Vec<usize>,
}

impl Planner<'_> {
    /// Whether the user has named it.
    fn is_chosen(&self, document: usize) -> bool {
        let name = self.library.name(document);
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// The step of a document, if there is something to run in it.
    fn step(&mut self, document: usize, is_above_wanted: bool, is_asked_for: bool) -> Option<Step> {
        let is_wanted = is_above_wanted || self.library.wanted.contains(&document);
        let before = self.provided.len();
        let setups = self.setups(document);
        self.provided.push(document);
        let inner: Vec<_> = self.library.includes[document]
            .iter()
            .filter_map(|(inner, _)| self.step(*inner, is_wanted, self.is_chosen(*inner)))
            .collect();
        self.provided.truncate(before);
        let is_run = is_wanted && is_asked_for && self.library.documents[document].is_test();
        let has_own = is_run && (self.library.includes[document].is_empty() || !self.only.is_empty());
        (has_own || !inner.is_empty()).then_some(Step {
            document,
            setups,
            inner,
        })
    }

    fn setups(&mut self, document: usize) -> Vec<Step> {
        let needs: Vec<_> = self.library.needs(document).map(|(need, _)| need).collect();
        let mut setups = Vec::new();
        for need in needs {
            if !self.provided.contains(&need) {
                let before = self.setups(need);
                self.provided.push(need);
                setups.push(Step {
                    document: need,
                    setups: before,
                    inner: Vec::new(),
                });
            }
        }
        setups
    }
}

/// The documents and how they depend on each other, as a Mermaid flow chart.
pub(crate) fn graph(library: &Library, steps: &[Step]) -> String {
    let mut shown: Vec<_> = steps.iter().flat_map(Step::documents).collect();
    shown.sort_unstable();
    shown.dedup();
    let mut text = "flowchart LR\n".to_string();
    for number in &shown {
        text += &format!("    d{number}[\"{}\"]\n", library.name(*number));
    }
    for number in &shown {
        for (inner, _) in library.includes[*number]
            .iter()
            .filter(|(inner, _)| shown.contains(inner))
        {
            text += &format!("    d{number} -- includes --> d{inner}\n");
        }
        for (need, _) in library.needs(*number).filter(|(need, _)| shown.contains(need)) {
            text += &format!("    d{number} -. requires .-> d{need}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Block, Document};

    /// Documents `names` of which each has a block; `requires` and `includes` are pairs of their letters.
    fn library(names: &str, requires: &[&str], includes: &[&str]) -> Library {
        let number = |letter: u8| names.bytes().position(|name| name == letter).expect("a letter");
        let links = |pairs: &[&str], from: u8| {
            let pairs = pairs.iter().map(|pair| pair.as_bytes());
            pairs
                .filter(|pair| pair[0] == from)
                .map(|pair| (number(pair[1]), 1))
                .collect::<Vec<_>>()
        };
        let block = || Block {
            line: 1,
            code: "true".into(),
            attributes: Default::default(),
        };
        Library {
            documents: names
                .chars()
                .map(|name| Document {
                    file: name.to_string().into(),
                    run: vec![block()],
                    ..Document::default()
                })
                .collect(),
            requires: names.bytes().map(|name| links(requires, name)).collect(),
            includes: names.bytes().map(|name| links(includes, name)).collect(),
            wanted: (0..names.len()).collect(),
            ..Library::default()
        }
    }

    /// The steps as text: setups in brackets before a name, inner ones in parentheses after it.
    fn shown(library: &Library, steps: &[Step]) -> String {
        let one = |step: &Step| {
            let mut text = String::new();
            if !step.setups.is_empty() {
                text += &format!("[{}]", shown(library, &step.setups));
            }
            text += &library.name(step.document);
            if !step.inner.is_empty() {
                text += &format!("({})", shown(library, &step.inner));
            }
            text
        };
        steps.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn planned(library: &Library, only: &[&str]) -> String {
        let only: Vec<_> = only.iter().map(ToString::to_string).collect();
        shown(library, &plan(library, &only))
    }

    #[test]
    fn a_leaf_runs_in_everybody_that_includes_it() {
        // b: basic, m: memory, s: spire; the leaf says that it requires basic or memory.
        let library = library("bmsl", &["bs", "ms", "lb", "lm"], &["bl", "ml"]);
        assert_eq!(planned(&library, &[]), "[s]b(l) [s]m(l)");
    }

    #[test]
    fn requirements_are_set_up_once_and_before() {
        let library = library("abcd", &["ab", "bc", "dc"], &[]);
        assert_eq!(planned(&library, &[]), "[[c]b]a [c]d");
    }

    #[test]
    fn an_inner_document_has_requirements_of_its_own() {
        let library = library("abx", &["bx"], &["ab"]);
        assert_eq!(planned(&library, &[]), "a([x]b)");
    }

    #[test]
    fn what_was_named_runs_with_all_that_it_needs() {
        let library = library("absxy", &["as"], &["ax", "ay"]);
        assert_eq!(planned(&library, &["x"]), "[s]a(x)");
        assert_eq!(planned(&library, &["s"]), "s");
        assert_eq!(planned(&library, &["q"]), "");
    }

    #[test]
    fn only_what_was_given_runs_and_what_is_in_it() {
        let mut library = library("axyb", &[], &["ax", "ay"]);
        library.wanted = vec![1];
        assert_eq!(planned(&library, &[]), "a(x)");
        library.wanted = vec![0];
        assert_eq!(planned(&library, &[]), "a(x y)");
    }

    #[test]
    fn the_graph_shows_both_kinds_of_links() {
        let library = library("ais", &["as"], &["ai"]);
        let text = graph(&library, &plan(&library, &[]));
        assert!(text.starts_with("flowchart LR\n    d0[\"a\"]\n"), "{text}");
        assert!(
            text.contains("d0 -- includes --> d1\n") && text.contains("d0 -. requires .-> d2\n"),
            "{text}"
        );
    }
}
