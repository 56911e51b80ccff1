// SPDX-License-Identifier: Apache-2.0
//! A measured figure, its goal, and what to make of many measurements.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

/// On which side of its goal a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Bound {
    /// Below it, or on it.
    #[serde(rename = "at most")]
    AtMost,
    /// Above it, or on it.
    #[serde(rename = "at least")]
    AtLeast,
}

/// One measured figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    /// How much of it.
    pub(crate) value: f64,
    /// In what.
    pub(crate) unit: &'static str,
    /// What it is to be, if something was promised.
    pub(crate) goal: Option<f64>,
    /// On which side of the goal.
    pub(crate) bound: Option<Bound>,
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
            bound: None,
            runs,
        }
    }

    /// The same with what it is to be at most.
    #[must_use]
    pub(crate) fn at_most(self, goal: f64) -> Self {
        self.bound(Bound::AtMost, goal)
    }

    /// The same with what it is to be at least.
    #[must_use]
    pub(crate) fn at_least(self, goal: f64) -> Self {
        self.bound(Bound::AtLeast, goal)
    }

    fn bound(self, bound: Bound, goal: f64) -> Self {
        Self {
            goal: Some(goal),
            bound: Some(bound),
            ..self
        }
    }

    /// The goal for people.
    fn wanted(&self) -> String {
        match (self.bound, self.goal) {
            (Some(Bound::AtMost), Some(goal)) => format!("≤ {goal}"),
            (Some(Bound::AtLeast), Some(goal)) => format!("≥ {goal}"),
            _ => String::new(),
        }
    }

    fn verdict(&self) -> &'static str {
        let is_met = match (self.bound, self.goal) {
            (Some(Bound::AtMost), Some(goal)) => self.value <= goal,
            (Some(Bound::AtLeast), Some(goal)) => self.value >= goal,
            _ => return "",
        };
        if is_met { "met" } else { "MISSED" }
    }
}

/// The figures for people.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<46} {:>10} {:<8} {:>8} {:<7} {:>7}\n",
        "figure", "value", "unit", "goal", "", "runs"
    );
    for figure in figures {
        let _infallible = writeln!(
            text,
            "{:<46} {:>10.3} {:<8} {:>8} {:<7} {:>7}",
            figure.name,
            figure.value,
            figure.unit,
            figure.wanted(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_meets_its_goal_on_the_right_side_and_on_the_goal_itself() {
        let figure = |value| Figure::new("name", value, "ratio", 1);
        for (figure, verdict) in [
            (figure(1.0), ""),
            (figure(1.0).at_most(1.0), "met"),
            (figure(1.1).at_most(1.0), "MISSED"),
            (figure(1.0).at_least(1.0), "met"),
            (figure(0.9).at_least(1.0), "MISSED"),
            (figure(f64::NAN).at_least(1.0), "MISSED"),
        ] {
            assert_eq!(figure.verdict(), verdict, "{figure:?}");
        }
    }

    #[test]
    fn a_script_can_tell_on_which_side_the_goal_is() {
        let figure = Figure::new("name", 2.0, "ratio", 3).at_least(1.5);
        let json = serde_json::to_value(&figure).expect("plain data");
        let wanted = serde_json::json!(
            {"name": "name", "value": 2.0, "unit": "ratio", "goal": 1.5, "bound": "at least", "runs": 3}
        );
        assert_eq!(json, wanted);
    }
}
