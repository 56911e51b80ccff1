// SPDX-License-Identifier: Apache-2.0
//! Runs the suites.

use anyhow::Result;

use crate::report::Report;
use crate::suites::{Runs, SUITES, Suite};
use crate::tools;

/// Run the tests that a change must pass, or the named suites.
///
/// Installs the programs that it needs when it may (root on Debian), else says how to. The last line counts what
/// passed and failed: every test, and every check as one.
#[derive(Debug, clap::Args)]
#[command(after_help = suites_help())]
pub(crate) struct Args {
    /// Run the long suites as well
    #[arg(long, conflicts_with = "suites")]
    all: bool,
    /// The suites to run; without any, all that are not long
    #[arg(value_name = "SUITE", value_parser = names())]
    suites: Vec<String>,
}

impl Args {
    /// Runs the suites.
    pub(crate) fn run(self) -> Result<()> {
        let suites: Vec<_> = SUITES.iter().filter(|suite| self.wants(suite)).collect();
        tools::need_components()?;
        let mut needed = Vec::new();
        for tool in suites.iter().flat_map(|suite| suite.tools) {
            if !needed.contains(tool) {
                needed.push(*tool);
            }
        }
        tools::need(&needed)?;
        let mut report = Report::new();
        for suite in suites {
            (suite.run)(&mut report);
        }
        report.finish()
    }

    fn wants(&self, suite: &Suite) -> bool {
        match self.suites.as_slice() {
            [] => suite.runs == Runs::Always || (self.all && suite.runs == Runs::WithAll),
            named => named.iter().any(|name| name == suite.name),
        }
    }
}

fn names() -> clap::builder::PossibleValuesParser {
    SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().into()
}

fn suites_help() -> String {
    let line = |suite: &Suite| {
        let when = match suite.runs {
            Runs::Always | Runs::WithAnother => "",
            Runs::WithAll => " (long)",
            Runs::Named => " (only when named)",
        };
        format!("\n  {:<16} {}{when}", suite.name, suite.about)
    };
    format!("Suites:{}", SUITES.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Suite = Suite {
        name: "soak",
        about: "",
        runs: Runs::WithAll,
        tools: &[],
        run: |_| (),
    };

    #[test]
    fn long_suites_run_only_when_asked_for() {
        let args = |all, suites: &[&str]| Args {
            all,
            suites: suites.iter().map(ToString::to_string).collect(),
        };
        assert!(!args(false, &[]).wants(&LONG));
        assert!(args(true, &[]).wants(&LONG));
        assert!(args(false, &["soak"]).wants(&LONG));
        assert!(!args(false, &["lint"]).wants(&LONG));
    }
}
