// SPDX-License-Identifier: Apache-2.0
//! All documents that are wanted, and those that they link to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::document::{Document, Link};
use crate::problem::Problem;

/// The name of a document in its folder.
const README: &str = "README.md";

/// How many documents there may be.
const MOST: usize = 10_000;

/// Documents by number, and how they depend on each other.
#[derive(Debug, Default)]
pub(crate) struct Library {
    /// The documents.
    pub(crate) documents: Vec<Document>,
    /// Of each, what it requires: another document and the line of the link.
    pub(crate) requires: Vec<Vec<(usize, usize)>>,
    /// Of each, what it includes, likewise.
    pub(crate) includes: Vec<Vec<(usize, usize)>>,
    /// Those that were asked for.
    pub(crate) wanted: Vec<usize>,
    /// The numbers by file.
    pub(crate) by_path: BTreeMap<PathBuf, usize>,
}

impl Library {
    /// Reads the documents at `paths` (in a folder all below it, by the name README.md), and all that they link to.
    pub(crate) fn read(paths: &[PathBuf], problems: &mut Vec<Problem>) -> Result<Self> {
        let mut library = Self::default();
        for path in paths {
            for file in find(path)? {
                let number = library.add(&file, problems)?;
                if !library.wanted.contains(&number) {
                    library.wanted.push(number);
                }
            }
        }
        library.find_circles(problems);
        Ok(library)
    }

    /// How a document is called: its path from here, without README.md.
    pub(crate) fn name(&self, number: usize) -> String {
        name(&self.documents[number].file)
    }

    /// Those that include this one.
    pub(crate) fn includers(&self, number: usize) -> impl Iterator<Item = usize> {
        let includes = self.includes.iter().enumerate();
        includes
            .filter(move |(_, included)| included.iter().any(|(other, _)| *other == number))
            .map(|(includer, _)| includer)
    }

    /// What a document needs that no includer of it provides.
    pub(crate) fn needs(&self, number: usize) -> impl Iterator<Item = (usize, usize)> {
        let above = self.above(number);
        let requires = self.requires[number].iter().copied();
        requires.filter(move |(other, _)| !above.contains(other))
    }

    /// All in which this one runs.
    fn above(&self, number: usize) -> Vec<usize> {
        let mut above: Vec<_> = self.includers(number).collect();
        let mut next = 0;
        while let Some(includer) = above.get(next).copied() {
            for further in self.includers(includer).collect::<Vec<_>>() {
                if !above.contains(&further) {
                    above.push(further);
                }
            }
            next += 1;
        }
        above
    }

    /// Reads one document, if it is not there yet, and all that it links to.
    fn add(&mut self, file: &Path, problems: &mut Vec<Problem>) -> Result<usize> {
        let path = file
            .canonicalize()
            .with_context(|| format!("there is no {}", file.display()))?;
        if let Some(number) = self.by_path.get(&path) {
            return Ok(*number);
        }
        let number = self.documents.len();
        ensure!(
            number < MOST,
            "there are more than {MOST} documents below these paths; name fewer"
        );
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", file.display()))?;
        let file = shorten(&path);
        let document = Document::parse(&file, &String::from_utf8_lossy(&text), problems);
        self.by_path.insert(path.clone(), number);
        let links = [document.requires.clone(), document.includes.clone()];
        self.documents.push(document);
        self.requires.push(Vec::new());
        self.includes.push(Vec::new());
        let [requires, includes] = links;
        self.requires[number] = self.follow(&file, &path, &requires, problems)?;
        self.includes[number] = self.follow(&file, &path, &includes, problems)?;
        Ok(number)
    }

    fn follow(
        &mut self,
        file: &Path,
        path: &Path,
        links: &[Link],
        problems: &mut Vec<Problem>,
    ) -> Result<Vec<(usize, usize)>> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut found = Vec::<(usize, usize)>::new();
        for link in links {
            let target = link.target.split('#').next().unwrap_or_default();
            let mut to = folder.join(target);
            if to.is_dir() {
                to.push(README);
            }
            if !to.is_file() {
                let what = format!("the link {:?} leads to no document", link.target);
                let remedy = format!("make {}, or correct the link", shorten(&to).display());
                problems.push(Problem::new(file, link.line, what, remedy));
            } else if to.extension().is_some_and(|ending| ending == "md") {
                let number = self.add(&to, problems)?;
                if !found.iter().any(|(other, _)| *other == number) {
                    found.push((number, link.line));
                }
            }
        }
        Ok(found)
    }

    /// Finds documents that wait for each other.
    fn find_circles(&self, problems: &mut Vec<Problem>) {
        for (what, next) in [("include", true), ("require", false)] {
            let edges: Vec<Vec<_>> = (0..self.documents.len())
                .map(|number| {
                    if next {
                        self.includes[number].clone()
                    } else {
                        self.needs(number).collect()
                    }
                })
                .collect();
            if let Some(circle) = circle(&edges) {
                let (first, line) = circle[0];
                let names: Vec<_> = circle
                    .iter()
                    .map(|(number, _)| self.name(*number))
                    .chain([self.name(first)])
                    .collect();
                let text = format!("these documents {what} each other: {}", names.join(" → "));
                let file = &self.documents[first].file;
                problems.push(Problem::new(file, line, text, "remove one of the links"));
            }
        }
    }
}

/// The first circle: each document in it with the line of the link to the next.
fn circle(edges: &[Vec<(usize, usize)>]) -> Option<Vec<(usize, usize)>> {
    let mut done = vec![false; edges.len()];
    for start in 0..edges.len() {
        let mut way: Vec<(usize, usize)> = vec![(start, 0)];
        while let Some((at, next)) = way.last_mut() {
            let Some((to, _)) = edges[*at].get(*next).filter(|_| !done[*at]) else {
                done[*at] = true;
                way.pop();
                continue;
            };
            *next += 1;
            if let Some(begin) = way.iter().position(|(other, _)| other == to) {
                let lines = way[begin..].iter();
                return Some(
                    lines
                        .map(|(number, next)| (*number, edges[*number][next - 1].1))
                        .collect(),
                );
            }
            way.push((*to, 0));
        }
    }
    None
}

/// The documents at a path, in the order of their names.
fn find(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let (mut found, mut folders) = (Vec::new(), vec![path.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
                folders.push(entry.path());
            } else if entry.file_name() == README {
                found.push(entry.path());
            }
        }
        ensure!(
            found.len() <= MOST,
            "there are more than {MOST} documents below {}",
            path.display()
        );
    }
    found.sort();
    Ok(found)
}

/// A path as people would type it here.
fn shorten(path: &Path) -> PathBuf {
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    let short = here.ok().and_then(|here| path.strip_prefix(here).ok());
    short.unwrap_or(path).to_path_buf()
}

fn name(file: &Path) -> String {
    let folder = if file.ends_with(README) {
        file.parent()
    } else {
        None
    };
    match folder.unwrap_or(file).display().to_string() {
        empty if empty.is_empty() => ".".to_string(),
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(files: &[(&str, &str)]) -> (Library, Vec<String>) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        let mut problems = Vec::new();
        let library = Library::read(&[folder.path().to_path_buf()], &mut problems).expect("they can be read");
        let base = folder
            .path()
            .canonicalize()
            .expect("it is there")
            .display()
            .to_string();
        let problems = problems
            .iter()
            .map(|problem| problem.to_string().replace(&base, "~"));
        (library, problems.collect())
    }

    #[test]
    fn a_missing_link_is_named_with_its_line_and_the_remedy() {
        let (_, problems) = library(&[("a/README.md", "# A\n\n## Requires\n\n- [B](../b)\n")]);
        assert_eq!(
            problems,
            ["~/a/README.md:5: the link \"../b\" leads to no document; make ~/a/../b, or correct the link"]
        );
    }

    #[test]
    fn a_circle_of_requirements_is_named() {
        let (_, problems) = library(&[
            ("a/README.md", "# Requires\n[b](../b)\n"),
            ("b/README.md", "# Requires\n\n[c](../c)\n"),
            ("c/README.md", "# Requires\n[b](../b)\n"),
        ]);
        assert_eq!(
            problems,
            ["~/b/README.md:3: these documents require each other: ~/b → ~/c → ~/b; remove one of the links"]
        );
    }

    #[test]
    fn what_an_includer_provides_is_needed_no_more() {
        let (library, problems) = library(&[
            ("README.md", "# Includes\n[a](a)\n"),
            ("a/README.md", "# Requires\n[all](..) or [other](../other)\n"),
            ("other/README.md", "# Other\n"),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        let number = |end: &str| {
            (0..3)
                .find(|number| library.name(*number).ends_with(end))
                .expect("it is there")
        };
        let needs: Vec<_> = library.needs(number("/a")).map(|(other, _)| other).collect();
        assert_eq!(needs, [number("/other")]);
    }
}
