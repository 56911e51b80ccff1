// SPDX-License-Identifier: Apache-2.0
//! A document: its title, its links, and its blocks of commands.

use std::ops::Range;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use crate::attributes::Attributes;
use crate::problem::Problem;

/// What a document says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    /// The file.
    pub(crate) file: PathBuf,
    /// Its first heading.
    pub(crate) title: String,
    /// Its first paragraph, without markup.
    pub(crate) about: String,
    /// What is set up before it.
    pub(crate) requires: Vec<Link>,
    /// What runs inside of it.
    pub(crate) includes: Vec<Link>,
    /// Its steps.
    pub(crate) run: Vec<Block>,
    /// What removes everything, whatever has happened.
    pub(crate) cleanup: Vec<Block>,
}

/// A link to another document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// As it is written.
    pub(crate) target: String,
    /// Where.
    pub(crate) line: usize,
}

/// A fence of commands.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Where it begins.
    pub(crate) line: usize,
    /// The commands.
    pub(crate) code: String,
    /// How it is run.
    pub(crate) attributes: Attributes,
}

/// The parts that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Requires,
    Includes,
    Run,
    Cleanup,
}

impl Section {
    /// By the text of its heading.
    fn named(heading: &str) -> Option<Self> {
        Some(match heading.trim() {
            "Requires" => Self::Requires,
            "Includes" => Self::Includes,
            "Run" => Self::Run,
            "Cleanup" => Self::Cleanup,
            _ => return None,
        })
    }
}

impl Document {
    /// Reads the text of a file; what is wrong with it is added to `problems`.
    pub(crate) fn parse(file: &Path, text: &str, problems: &mut Vec<Problem>) -> Self {
        let mut reader = Reader {
            text,
            document: Self {
                file: file.to_path_buf(),
                ..Self::default()
            },
            problems,
            section: None,
            seen: Vec::new(),
            heading: None,
            paragraph: None,
            fence: None,
        };
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            reader.read(event, range);
        }
        reader.document
    }

    /// Whether there is anything to run, here or inside.
    pub(crate) fn is_test(&self) -> bool {
        !self.run.is_empty() || !self.cleanup.is_empty() || !self.includes.is_empty()
    }
}

/// What is known in the middle of a document.
struct Reader<'a> {
    text: &'a str,
    document: Document,
    problems: &'a mut Vec<Problem>,
    /// The section and the level of its heading.
    section: Option<(Section, HeadingLevel)>,
    seen: Vec<Section>,
    heading: Option<(HeadingLevel, String)>,
    paragraph: Option<String>,
    fence: Option<Block>,
}

impl Reader<'_> {
    fn read(&mut self, event: Event<'_>, range: Range<usize>) {
        match event {
            Event::Start(Tag::Heading { level, .. }) => self.heading = Some((level, String::new())),
            Event::End(TagEnd::Heading(_)) => self.end_heading(range),
            Event::Start(Tag::Paragraph) if self.document.about.is_empty() => {
                self.paragraph = Some(String::new());
            }
            Event::End(TagEnd::Paragraph) => {
                if let Some(paragraph) = self.paragraph.take() {
                    self.document.about = paragraph;
                }
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))) => self.start_fence(range),
            Event::End(TagEnd::CodeBlock) => self.end_fence(),
            Event::Start(Tag::Link { dest_url, .. }) => self.link(&dest_url, range),
            Event::Text(text) | Event::Code(text) => self.words(&text),
            Event::SoftBreak | Event::HardBreak => self.words(" "),
            _ => {}
        }
    }

    fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    fn problem(&mut self, at: usize, what: impl Into<String>, remedy: impl Into<String>) {
        let problem = Problem::new(&self.document.file, self.line(at), what, remedy);
        self.problems.push(problem);
    }

    fn words(&mut self, text: &str) {
        if let Some(fence) = &mut self.fence {
            fence.code.push_str(text);
        }
        if let Some((_, heading)) = &mut self.heading {
            heading.push_str(text);
        }
        if let Some(paragraph) = &mut self.paragraph {
            paragraph.push_str(text);
        }
    }

    /// A section goes to the next heading that is not below its own.
    fn end_heading(&mut self, range: Range<usize>) {
        let Some((level, heading)) = self.heading.take() else {
            return;
        };
        if self.document.title.is_empty() {
            self.document.title.clone_from(&heading);
        }
        match Section::named(&heading) {
            Some(section) => {
                if self.seen.contains(&section) {
                    let what = format!("this is the second section {heading:?}");
                    self.problem(range.start, what, "join them, or name one otherwise");
                }
                self.seen.push(section);
                self.section = Some((section, level));
            }
            None if self.section.is_some_and(|(_, own)| level <= own) => self.section = None,
            None => {}
        }
    }

    fn link(&mut self, target: &str, range: Range<usize>) {
        let is_elsewhere = target.contains("://") || target.starts_with(['#', '/']) || target.contains('@');
        if is_elsewhere {
            return;
        }
        let link = Link {
            target: target.to_string(),
            line: self.line(range.start),
        };
        match self.section {
            Some((Section::Requires, _)) => self.document.requires.push(link),
            Some((Section::Includes, _)) => self.document.includes.push(link),
            _ => {}
        }
    }

    fn start_fence(&mut self, range: Range<usize>) {
        let whole = &self.text[range.clone()];
        let (first, rest) = whole.split_once('\n').unwrap_or((whole, ""));
        let mark = first.chars().next().unwrap_or('`');
        let info = first.trim_start_matches(mark);
        let width = first.len() - info.len();
        if !is_closed(rest, mark, width) {
            let what = "this fence is never closed, and takes in the rest of the document";
            let close = mark.to_string().repeat(width);
            self.problem(range.start, what, format!("add a line {close} at its end"));
        }
        let mut words = info.trim().splitn(2, char::is_whitespace);
        let is_wanted = matches!(self.section, Some((Section::Run | Section::Cleanup, _)));
        if words.next() != Some("bash") || !is_wanted {
            return;
        }
        let attributes = Attributes::parse(words.next().unwrap_or_default());
        let attributes = attributes.unwrap_or_else(|(what, remedy)| {
            self.problem(range.start, what, remedy);
            Attributes::default()
        });
        self.fence = Some(Block {
            line: self.line(range.start),
            code: String::new(),
            attributes,
        });
    }

    fn end_fence(&mut self) {
        let Some(block) = self.fence.take() else {
            return;
        };
        match self.section {
            Some((Section::Run, _)) => self.document.run.push(block),
            Some((Section::Cleanup, _)) => self.document.cleanup.push(block),
            _ => {}
        }
    }
}

/// Whether what follows the first line of a fence ends by a line that closes it, in a quotation or a list as well.
fn is_closed(rest: &str, mark: char, width: usize) -> bool {
    let last = rest.trim_end().lines().last().unwrap_or_default();
    let last = last.trim_start_matches([' ', '\t', '>']);
    last.len() >= width && last.chars().all(|char| char == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Document, Vec<String>) {
        let mut problems = Vec::new();
        let document = Document::parse(Path::new("README.md"), text, &mut problems);
        (document, problems.iter().map(ToString::to_string).collect())
    }

    fn codes(blocks: &[Block]) -> Vec<&str> {
        blocks.iter().map(|block| block.code.as_str()).collect()
    }

    const WHOLE: &str = "# A wire\n\nIt *carries*\n`pings`.\n\n## Requires\n\nDo [that](../that) or [this](../this/README.md) \
        first, see [more](https://example.org/x).\n\n## Includes\n\n- [Inner](./inner)\n\n## Run\n\nFirst:\n```bash\n# a \
        comment\necho 1\n```\nIts output:\n```text\n1\n```\n### In detail\n```bash timeout=1s\necho 2\n```\n\n## Cleanup\n\
        - once\n  ```bash\n  rm x\n  ```\n\n## More\n```bash\nnever\n```\n";

    #[test]
    fn sections_links_and_blocks_are_found() {
        let (document, problems) = parse(WHOLE);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(
            (document.title.as_str(), document.about.as_str()),
            ("A wire", "It carries pings.")
        );
        let targets: Vec<_> = document
            .requires
            .iter()
            .map(|link| link.target.as_str())
            .collect();
        assert_eq!(targets, ["../that", "../this/README.md"]);
        assert_eq!(document.includes.len(), 1);
        assert_eq!(codes(&document.run), ["# a comment\necho 1\n", "echo 2\n"]);
        assert_eq!(
            document.run[1].attributes.timeout,
            Some(std::time::Duration::from_secs(1))
        );
        assert_eq!(codes(&document.cleanup), ["rm x\n"]);
        assert_eq!(document.run[0].line, 17);
    }

    #[test]
    fn a_hash_in_prose_ends_no_section_and_a_heading_that_only_begins_alike_begins_none() {
        let (document, _) = parse("# Run\nIssue #1 of many\n```bash\na\n```\n# Running\n```bash\nb\n```\n");
        assert_eq!(codes(&document.run), ["a\n"]);
    }

    #[test]
    fn a_fence_that_is_never_closed_is_named_with_its_line() {
        let (_, problems) = parse("# Run\n\n```bash\necho\n\n## Cleanup\n");
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].starts_with("README.md:3: this fence is never closed"),
            "{problems:?}"
        );
        assert!(problems[0].ends_with("add a line ``` at its end"), "{problems:?}");
    }

    #[test]
    fn an_unknown_attribute_is_named_with_its_line() {
        let (_, problems) = parse("# Run\n\n```bash retries=3\necho\n```\n");
        assert!(
            problems[0].starts_with("README.md:3: there is no attribute \"retries\""),
            "{problems:?}"
        );
    }

    #[test]
    fn a_second_section_of_a_kind_is_named() {
        let (_, problems) = parse("# Run\n```bash\na\n```\n# Run\n```bash\nb\n```\n");
        assert_eq!(
            problems,
            ["README.md:5: this is the second section \"Run\"; join them, or name one otherwise"]
        );
    }
}
