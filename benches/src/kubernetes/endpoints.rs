// SPDX-License-Identifier: Apache-2.0
//! A registry whose API server has many endpoints, as the registry's own test measures it: beside an API server and
//! nothing else.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::figure::Figure;

/// What the test prints of each, in what, and what was promised for 10,000 endpoints.
const FIGURES: [(&str, &str, f64); 3] = [
    ("k8s.registry_find_p99_ms", "ms", 1.0),
    ("k8s.registry_rss_mib", "MiB", 60.0),
    ("k8s.registry_ready_s", "s", 3.0),
];

/// Runs the test with so many endpoints.
pub(super) fn many(test: &Path, endpoints: usize) -> Result<Vec<Figure>> {
    let mut test = Command::new(test);
    let told = test
        .args(["c108_many_endpoints_are_found_in_little_memory", "--nocapture"])
        .env("NSM_MANY", endpoints.to_string())
        .output()
        .with_context(|| format!("could not start {test:?}"))?;
    let printed = String::from_utf8_lossy(&told.stdout);
    ensure!(told.status.success(), "the registry's test fails: {printed}");
    let figure = |(name, unit, goal)| {
        let value = value(&printed, name).with_context(|| format!("no {name} in {printed}"))?;
        Ok(Figure::new(name, value, unit, 1).at_most(goal))
    };
    FIGURES.into_iter().map(figure).collect()
}

/// The value of a figure among what was printed.
fn value(printed: &str, name: &str) -> Option<f64> {
    let mut figures = printed.lines().filter_map(|line| line.split_once("figure "));
    let line = figures.find_map(|(_, figure)| figure.strip_prefix(name))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_among_what_a_test_prints() {
        let printed = "running 1 test\nfigure a.b_ms 0.25\ntest c ... figure a.b_mib 7\nok";
        assert_eq!(value(printed, "a.b_ms"), Some(0.25));
        assert_eq!(value(printed, "a.b_mib"), Some(7.0));
        assert_eq!(value(printed, "a.c"), None);
    }
}
