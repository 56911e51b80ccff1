// SPDX-License-Identifier: Apache-2.0
//! `nsm-md`: runs the commands of Markdown documents as tests, word for word.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::time::Instant;

mod attributes;
mod document;
mod index;
mod kept;
mod leaks;
mod library;
mod plan;
mod problem;
mod report;
mod run;
mod shell;
mod stop;
mod trial;

use kept::Kept;
use library::Library;
use plan::Step;
use problem::{Problem, nearest};
use report::{Outcome, Report, Screen};
use run::{Runner, Settings};
use stop::Stop;

/// What blocks may be for without anybody saying so.
const PLACES: [&str; 2] = ["cluster", "namespaces"];

/// Run the commands of Markdown documents as tests
///
/// A document is a README.md with the sections Requires (links to what is set up before), Includes (links to what runs
/// inside), Run and Cleanup (fences of bash). Blocks are tried until they succeed; Cleanup runs whatever has happened.
#[derive(Debug, Parser)]
#[command(
    name = "nsm-md",
    version,
    after_help = "\
Attributes of a fence, behind bash:
  expect=\"REGEX\"          its output must match
  expect-exit=CODE        it must end by this code; nonzero: by any but 0
  timeout=DURATION        for all tries together
  retry=no, retry=PAUSE   tried once; or with this pause
  background              the next block begins at once; ended as by Ctrl-C before Cleanup, and looked at then
  only=WORD,WORD          left out but for these, see --on

Exit codes: 0 all passed; 1 something failed, or nothing ran; 2 a document or the command line is wrong;
3 all passed and something was left behind; 130 told to end."
)]
struct Args {
    /// Documents, or folders with documents
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What this is, for blocks that run there only; the operating system and the processor are known
    #[arg(long, value_name = "WORD")]
    on: Vec<String>,
    /// What this is not, although blocks name it
    #[arg(long, value_name = "WORD")]
    off: Vec<String>,
    /// Only documents whose path contains this, with all that they need
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Show what would run
    #[arg(long, conflicts_with = "graph")]
    list: bool,
    /// Show what depends on what, as a Mermaid flow chart
    #[arg(long)]
    graph: bool,
    /// Leave everything as it is at the end, for --resume
    #[arg(long)]
    keep: bool,
    /// Go on where a run with --keep came to, and clean up
    #[arg(long)]
    resume: bool,
    /// Where --keep writes how far it came
    #[arg(long, default_value = ".nsm-md", value_name = "FOLDER")]
    state: PathBuf,
    /// How long a block may take that does not say it itself
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    timeout: std::time::Duration,
    /// A command that lists all that could be left behind, a line each: run before each document and after its Cleanup
    #[arg(long, value_name = "COMMAND")]
    leak_check: Option<String>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the table of this page anew: what each document shows, and how long it took on the first WORD of --on
    #[arg(long, value_name = "FILE", requires = "on")]
    index: Option<PathBuf>,
    /// Tell of each block
    #[arg(long, short)]
    verbose: bool,
}

fn main() -> ExitCode {
    match Args::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nsm-md: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Args {
    fn run(mut self) -> Result<ExitCode> {
        let mut problems = Vec::new();
        let library = Library::read(&self.paths, &mut problems)?;
        self.on
            .extend([std::env::consts::OS, std::env::consts::ARCH].map(String::from));
        self.check_words(&library, &mut problems);
        for problem in &problems {
            eprintln!("{problem}");
        }
        ensure!(problems.is_empty(), "nothing was run: {} to mend", problems.len());
        let steps = plan::plan(&library, &self.only);
        if self.graph {
            print!("{}", plan::graph(&library, &steps));
            return Ok(ExitCode::SUCCESS);
        }
        if self.list {
            steps.iter().for_each(|step| list(&library, step, 0));
            return Ok(ExitCode::SUCCESS);
        }
        ensure!(
            !steps.is_empty(),
            "no document that could be run matches: see --list"
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let report = runtime.block_on(self.all(&library, &steps))?;
        Screen::new(self.verbose).summary(&report);
        self.write(&library, &report)?;
        Ok(code(&report))
    }

    async fn all(&self, library: &Library, steps: &[Step]) -> Result<Report> {
        let (began, settings) = (Instant::now(), self.settings());
        let mut runner = Runner {
            library,
            settings: &settings,
            screen: Screen::new(self.verbose),
            stop: Stop::new()?,
            before: self.resume.then(|| Kept::read(&self.state)).transpose()?,
            kept: self.keep.then(|| Kept::new(&self.state)),
            within: Vec::new(),
            done: Vec::new(),
        };
        for step in steps {
            runner.visit(step, Vec::new()).await;
        }
        if let Some(before) = runner.before.take().filter(|_| !self.keep) {
            before.forget()?;
        }
        Ok(Report {
            on: settings.on.clone(),
            took: began.elapsed(),
            documents: runner.done,
        })
    }

    fn settings(&self) -> Settings {
        Settings {
            on: self.on.clone(),
            timeout: self.timeout,
            is_kept: self.keep,
            leak_check: self.leak_check.clone(),
        }
    }

    /// Names words of `only` that nobody knows: such a block would run nowhere, and nobody would notice.
    fn check_words(&self, library: &Library, problems: &mut Vec<Problem>) {
        let known = self.on.iter().chain(&self.off).map(String::as_str);
        let known: Vec<_> = known.chain(PLACES).collect();
        for document in &library.documents {
            for block in document.run.iter().chain(&document.cleanup) {
                let words = block.attributes.only.iter();
                for word in words.filter(|word| !known.contains(&word.as_str())) {
                    let meant =
                        nearest(word, &known).map_or(String::new(), |near| format!("write {near}, or "));
                    let remedy = format!("{meant}say by --on {word} or --off {word} whether that is here");
                    let what = format!("only={word}: nobody knows {word:?}");
                    problems.push(Problem::new(&document.file, block.line, what, remedy));
                }
            }
        }
    }

    fn write(&self, library: &Library, report: &Report) -> Result<()> {
        let write = |file: &PathBuf, text: String| {
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        if let Some(file) = &self.json {
            write(file, serde_json::to_string_pretty(report)?)?;
        }
        if let Some(file) = &self.junit {
            write(file, report::junit(report))?;
        }
        if let (Some(file), Some(place)) = (&self.index, self.on.first()) {
            index::write(file, place, library, report)?;
        }
        Ok(())
    }
}

fn list(library: &Library, step: &Step, depth: usize) {
    for setup in &step.setups {
        list(library, setup, depth);
    }
    let document = &library.documents[step.document];
    println!(
        "{}{}  {} ({} blocks)",
        "  ".repeat(depth),
        library.name(step.document),
        document.title,
        document.run.len() + document.cleanup.len()
    );
    for inner in &step.inner {
        list(library, inner, depth + 1);
    }
}

fn code(report: &Report) -> ExitCode {
    let has = |outcome| report.count(outcome) > 0;
    let is_any_good = has(Outcome::Passed) || has(Outcome::Before) || has(Outcome::Left);
    ExitCode::from(if has(Outcome::Interrupted) || has_been_stopped(report) {
        130
    } else if has(Outcome::Failed) || has(Outcome::NotRun) || !is_any_good {
        1
    } else if has(Outcome::Left) {
        3
    } else {
        0
    })
}

/// Whether a document was not run because we were told to end.
fn has_been_stopped(report: &Report) -> bool {
    let reasons = report.documents.iter().filter_map(|done| done.why.as_deref());
    reasons.into_iter().any(|why| why == run::TOLD_TO_END)
}
