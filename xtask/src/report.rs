// SPDX-License-Identifier: Apache-2.0
//! Runs the steps of a task, tells how they go, and counts.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{go, root};

/// How many tests or checks of a step passed and failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Those that passed.
    pub(crate) passed: u64,
    /// Those that failed.
    pub(crate) failed: u64,
    /// Those that did not run: nothing may be skipped, so they fail the step.
    pub(crate) skipped: u64,
    /// What tests that failed said of it, line by line.
    pub(crate) said: Vec<String>,
}

/// So many lines of what failed tests of a step said are repeated before the summary.
const REPEATED: usize = 200;

/// The steps so far.
#[derive(Debug)]
pub(crate) struct Report {
    started: Instant,
    steps: Vec<(String, Tally, Duration)>,
}

impl Report {
    /// An empty report, whose time starts now.
    pub(crate) fn new() -> Self {
        Self {
            started: now(),
            steps: Vec::new(),
        }
    }

    /// Runs one check, which passes or fails as a whole.
    pub(crate) fn check(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        self.step(name, || {
            run().map(|()| Tally {
                passed: 1,
                ..Tally::default()
            })
        });
    }

    /// Runs one step. An error counts as one failure; the steps after it run all the same.
    pub(crate) fn step(&mut self, name: &str, run: impl FnOnce() -> Result<Tally>) {
        println!("== {name}");
        let started = now();
        let tally = run().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Tally {
                failed: 1,
                ..Tally::default()
            }
        });
        self.steps.push((name.to_string(), tally, started.elapsed()));
        println!("{}", self.steps.last().map(line).unwrap_or_default());
    }

    /// Prints what failed tests said, the summary and, as the last line, the count of everything.
    ///
    /// Errors when something failed or was skipped, or when nothing ran at all, which proves nothing.
    pub(crate) fn finish(self) -> Result<()> {
        for (name, tally, _) in self.steps.iter().filter(|(_, tally, _)| !tally.said.is_empty()) {
            println!("\n== what failed in {name}\n{}", tally.said.join("\n"));
        }
        println!("\n== summary, after {}", seconds(self.started.elapsed()));
        let mut sum = Tally::default();
        for step in &self.steps {
            println!("{}", line(step));
            sum.passed += step.1.passed;
            sum.failed += step.1.failed;
            sum.skipped += step.1.skipped;
        }
        let skipped = match sum.skipped {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        println!("{} passed, {} failed{skipped}", sum.passed, sum.failed);
        std::io::stdout().flush()?;
        match &sum {
            Tally { failed: 1.., .. } => bail!("something failed"),
            Tally { skipped: 1.., .. } => bail!("something was skipped; what cannot run must fail"),
            Tally { passed: 0, .. } => bail!("nothing ran"),
            Tally { .. } => Ok(()),
        }
    }
}

fn line((name, tally, took): &(String, Tally, Duration)) -> String {
    let verdict = match tally {
        Tally {
            failed: 0,
            skipped: 0,
            ..
        } => "ok  ",
        Tally { .. } => "FAIL",
    };
    let Tally {
        passed,
        failed,
        skipped,
        ..
    } = tally;
    format!(
        "{verdict} {name}: {passed} passed, {failed} failed, {skipped} skipped in {}",
        seconds(*took)
    )
}

/// Lets a command run in the workspace's folder, and find the programs that [`go::path`] has, unless it has a path of
/// its own.
fn at_home(command: &mut Command) -> &mut Command {
    if !command.get_envs().any(|(name, _)| name == "PATH") {
        command.env("PATH", go::path());
    }
    command.current_dir(root())
}

/// Runs a command in the workspace's folder; errors when it cannot be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = at_home(command)
        .status()
        .with_context(|| format!("could not start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Runs a command that runs Rust tests, shows what it prints but for the tests that passed, and counts them.
///
/// A command that fails although no test did (it does not compile, or a test program died) counts as one failure.
pub(crate) fn run_tests(command: &mut Command) -> Result<Tally> {
    run_tests_into(command, std::io::sink())
}

/// The same, and writes everything that the command prints into `log`.
pub(crate) fn run_tests_into(command: &mut Command, mut log: impl Write) -> Result<Tally> {
    let mut child = at_home(command)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {command:?}"))?;
    let output = child.stdout.take().context("the output of a test run is piped")?;
    let mut tally = Tally::default();
    let mut explaining = false;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("could not read the output of a test run")?;
        log.write_all(&line)?;
        log.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line);
        // A test program tells what each of its failed tests said, and then lists them.
        if line == "failures:" {
            explaining = !explaining;
        } else if explaining && tally.said.len() < REPEATED {
            tally.said.push(line.to_string());
        }
        if let Some(result) = result_line(&line) {
            explaining = false;
            tally.passed += result.passed;
            tally.failed += result.failed;
            tally.skipped += result.skipped;
        }
        if !is_routine(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        println!("{command:?} ended with {status}");
        tally.failed = 1;
    }
    Ok(tally)
}

/// The counts in the line by which a test program ends.
fn result_line(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let count = |what: &str| {
        let words: Vec<_> = counts
            .split([' ', ';', '.'])
            .filter(|word| !word.is_empty())
            .collect();
        words
            .windows(2)
            .find_map(|pair| (pair[1] == what).then(|| pair[0].parse().ok())?)
            .unwrap_or(0)
    };
    Some(Tally {
        passed: count("passed"),
        failed: count("failed"),
        skipped: count("ignored"),
        ..Tally::default()
    })
}

/// Whether a line of a test run tells nothing that the summary does not.
fn is_routine(line: &str) -> bool {
    let line = line.trim();
    line.is_empty()
        || (line.starts_with("test ") && line.ends_with(" ... ok"))
        || (line.starts_with("running ") && line.split(' ').count() == 3)
        || line.starts_with("test result: ok. 0 passed")
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[allow(clippy::disallowed_methods, reason = "what a task takes is real time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_a_test_program_reports() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.05s";
        let expected = Tally {
            passed: 12,
            failed: 3,
            skipped: 1,
            ..Tally::default()
        };
        assert_eq!(result_line(line), Some(expected));
        assert_eq!(result_line("test a::b ... ok"), None);
    }

    #[test]
    fn what_is_not_routine_is_shown() {
        assert!(is_routine("test core::store::tests::one_value_a_type ... ok"));
        assert!(is_routine("running 12 tests"));
        assert!(!is_routine(
            "test core::store::tests::one_value_a_type ... FAILED"
        ));
        assert!(!is_routine(
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
        ));
    }

    #[test]
    fn a_failure_a_skip_and_an_empty_run_are_errors() {
        let report = |tally: Tally| {
            let mut report = Report::new();
            report.step("step", || Ok(tally));
            report.finish()
        };
        let tally = |passed, failed, skipped| Tally {
            passed,
            failed,
            skipped,
            ..Tally::default()
        };
        assert!(report(tally(1, 0, 0)).is_ok());
        assert!(report(tally(1, 1, 0)).is_err());
        assert!(report(tally(1, 0, 1)).is_err());
        assert!(report(Tally::default()).is_err());
    }

    #[test]
    fn a_command_that_dies_is_a_failure_and_its_tests_are_counted() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'; exit 3";
        let tally = run_tests(Command::new("sh").args(["-c", script])).expect("sh starts");
        assert_eq!(
            tally,
            Tally {
                passed: 2,
                failed: 1,
                ..Tally::default()
            }
        );
    }

    #[test]
    fn what_failed_tests_said_is_kept() {
        let script = "printf 'test a ... FAILED\\n\\nfailures:\\n\\n---- a ----\\nit broke\\n\\nfailures:\\n    a\\n'; \
                      echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101";
        let tally = run_tests(Command::new("sh").args(["-c", script])).expect("sh starts");
        assert_eq!(tally.failed, 1);
        assert_eq!(tally.said, ["", "---- a ----", "it broke", ""]);
    }
}
