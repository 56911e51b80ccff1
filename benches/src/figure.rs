// SPDX-License-Identifier: Apache-2.0
//! A measured figure, its goal, and what to make of many measurements.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

/// One measured figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    /// How much of it.
    pub(crate) value: f64,
    /// In what.
    pub(crate) unit: &'static str,
    /// What it is to be at most, if something was promised.
    pub(crate) goal: Option<f64>,
    /// How many measurements the value was made of.
    pub(crate) runs: usize,
}

impl Figure {
    /// A figure that nothing was promised of.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str, runs: usize) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            goal: None,
            runs,
        }
    }

    /// The same with what it is to be at most.
    #[must_use]
    pub(crate) fn at_most(self, goal: f64) -> Self {
        Self {
            goal: Some(goal),
            ..self
        }
    }

    fn verdict(&self) -> &'static str {
        match self.goal {
            None => "",
            Some(goal) if self.value <= goal => "met",
            Some(_) => "MISSED",
        }
    }
}

/// The figures for people.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<34} {:>10} {:<8} {:>8} {:<7} {:>7}\n",
        "figure", "value", "unit", "at most", "", "runs"
    );
    for figure in figures {
        let goal = figure.goal.map(|goal| goal.to_string()).unwrap_or_default();
        let _infallible = writeln!(
            text,
            "{:<34} {:>10.3} {:<8} {:>8} {:<7} {:>7}",
            figure.name,
            figure.value,
            figure.unit,
            goal,
            figure.verdict(),
            figure.runs
        );
    }
    text
}

/// Many durations, sorted.
#[derive(Clone, Debug)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Of these.
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many.
    pub(crate) fn runs(&self) -> usize {
        self.0.len()
    }

    /// The duration that this share of them does not exceed, milliseconds.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let at = (self.0.len() as f64 * share) as usize;
        let at = at.min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    /// The median, milliseconds.
    pub(crate) fn p50_ms(&self) -> f64 {
        self.quantile_ms(0.5)
    }
}

/// The median of these.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
