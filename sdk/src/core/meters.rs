// SPDX-License-Identifier: Apache-2.0
//! What a program counts of itself, for whoever asks: Prometheus, or a collector of OpenTelemetry.
//!
//! **Guarantees**: nothing is counted, and nothing costs more than a look, until somebody switches it on. Labels come
//! from a small set, and when a peer's words would make more series than [`MAX_SERIES`] of a family, the rest is counted
//! together as `other`.
//! **Cost**: one short lock a count, and no memory but for the series: some 200 bytes each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// How many series one family has.
pub const MAX_SERIES: usize = 128;

/// The upper bounds of what takes time, seconds: from a call on one node to one that waits for a pod.
pub(crate) const BOUNDS: [f64; 12] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0,
];

/// What stands for labels that are too many.
const OTHER: &str = "other";

/// What is counted under one name.
#[derive(Debug)]
pub struct Family {
    /// Its name, with its unit.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

/// How something that is counted behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It comes and goes.
    Gauge,
    /// It takes time.
    Histogram,
}

/// What a program counts. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct Meters(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_on: AtomicBool,
    series: Mutex<Vec<Series>>,
    others: Mutex<Vec<Others>>,
}

/// Counters of somebody else, by their names.
type Others = Box<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>;

/// What is counted under one name with the same labels.
#[derive(Clone)]
pub(crate) struct Series {
    pub(crate) family: &'static Family,
    pub(crate) labels: Vec<String>,
    pub(crate) value: Value,
}

/// How much it is.
#[derive(Clone)]
pub(crate) enum Value {
    Number(u64),
    Times {
        /// How many took at most so long as [`BOUNDS`] says, and longer than the bound before.
        buckets: [u64; BOUNDS.len()],
        count: u64,
        sum: Duration,
    },
}

/// Something that is counted for as long as this is there.
#[must_use = "it counts for as long as it is kept"]
pub struct Held {
    meters: Meters,
    family: &'static Family,
    labels: Vec<String>,
}

impl Meters {
    /// Counts from now on.
    pub fn switch_on(&self) {
        self.0.is_on.store(true, Ordering::Relaxed);
    }

    /// Whether anything is counted.
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    /// Counts `by` more.
    pub fn add(&self, family: &'static Family, labels: &[&str], by: u64) {
        self.change(family, labels, |value| {
            if let Value::Number(number) = value {
                *number = number.saturating_add(by);
            }
        });
    }

    /// Says how much there is now.
    pub fn set(&self, family: &'static Family, labels: &[&str], to: u64) {
        self.change(family, labels, |value| {
            if let Value::Number(number) = value {
                *number = to;
            }
        });
    }

    /// Counts something that took so long.
    pub fn took(&self, family: &'static Family, labels: &[&str], time: Duration) {
        self.change(family, labels, |value| {
            if let Value::Times { buckets, count, sum } = value {
                let seconds = time.as_secs_f64();
                if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
                    buckets[at] += 1;
                }
                *count += 1;
                *sum = sum.saturating_add(time);
            }
        });
    }

    /// Counts one more for as long as what is returned is kept; nothing when nothing is counted.
    pub fn hold(&self, family: &'static Family, labels: &[&str]) -> Option<Held> {
        self.is_on().then(|| {
            self.add(family, labels, 1);
            Held {
                meters: self.clone(),
                family,
                labels: labels.iter().map(ToString::to_string).collect(),
            }
        })
    }

    fn change(&self, family: &'static Family, labels: &[&str], change: impl FnOnce(&mut Value)) {
        if !self.is_on() {
            return;
        }
        let mut series = self.0.series.lock();
        let is_of = |one: &&mut Series| std::ptr::eq(one.family, family);
        if let Some(one) = series.iter_mut().filter(is_of).find(|one| one.labels == labels) {
            return change(&mut one.value);
        }
        let others = vec![OTHER; family.labels.len()];
        let is_full = series.iter_mut().filter(is_of).count() >= MAX_SERIES;
        let labels = if is_full { &others[..] } else { labels };
        if let Some(one) = series.iter_mut().filter(is_of).find(|one| one.labels == labels) {
            return change(&mut one.value);
        }
        let mut one = Series {
            family,
            labels: labels.iter().map(ToString::to_string).collect(),
            value: family.kind.zero(),
        };
        change(&mut one.value);
        series.push(one);
    }

    /// Everything that is counted now.
    pub(crate) fn read(&self) -> Vec<Series> {
        self.0.series.lock().clone()
    }

    /// Tells a collector of these counters as well, whose names come from others: no page shows them.
    pub fn also(&self, counters: impl Fn() -> BTreeMap<String, u64> + Send + Sync + 'static) {
        self.0.others.lock().push(Box::new(counters));
    }

    /// The counters of others.
    pub(crate) fn others(&self) -> BTreeMap<String, u64> {
        let others = self.0.others.lock();
        others.iter().flat_map(|counters| counters()).collect()
    }

    /// Everything that is counted, in the text format of Prometheus, version 0.0.4.
    pub fn text(&self) -> String {
        let mut series = self.0.series.lock();
        series.sort_by(|one, other| (one.family.name, &one.labels).cmp(&(other.family.name, &other.labels)));
        let (mut text, mut last) = (String::new(), "");
        for one in series.iter() {
            if one.family.name != last {
                last = one.family.name;
                head(&mut text, last, one.family.help, one.family.kind);
            }
            one.tell(&mut text);
        }
        text
    }
}

/// Writes what a scraper wants to know about a family before its series.
pub(crate) fn head(text: &mut String, name: &str, help: &str, kind: Kind) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let _infallible = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

impl Kind {
    fn zero(self) -> Value {
        match self {
            Self::Counter | Self::Gauge => Value::Number(0),
            Self::Histogram => Value::Times {
                buckets: [0; BOUNDS.len()],
                count: 0,
                sum: Duration::ZERO,
            },
        }
    }
}

impl Series {
    fn tell(&self, text: &mut String) {
        let name = self.family.name;
        let labels = self.labels(None);
        let _infallible = match &self.value {
            Value::Number(number) => writeln!(text, "{name}{labels} {number}"),
            Value::Times { buckets, count, sum } => {
                let mut below = 0;
                for (bound, bucket) in BOUNDS.iter().zip(buckets) {
                    below += bucket;
                    let labels = self.labels(Some(&bound.to_string()));
                    let _infallible = writeln!(text, "{name}_bucket{labels} {below}");
                }
                let all = self.labels(Some("+Inf"));
                write!(
                    text,
                    "{name}_bucket{all} {count}\n{name}_sum{labels} {}\n{name}_count{labels} {count}\n",
                    sum.as_secs_f64()
                )
            }
        };
    }

    /// The labels in braces, with the bound of a bucket if there is one.
    fn labels(&self, bound: Option<&str>) -> String {
        let own = self.family.labels.iter().copied();
        let own = own.zip(self.labels.iter().map(String::as_str));
        let pairs: Vec<_> = own
            .chain(bound.map(|bound| ("le", bound)))
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        match pairs.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", pairs.join(",")),
        }
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

impl Drop for Held {
    fn drop(&mut self) {
        let labels: Vec<_> = self.labels.iter().map(String::as_str).collect();
        self.meters.change(self.family, &labels, |value| {
            if let Value::Number(number) = value {
                *number = number.saturating_sub(1);
            }
        });
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters")
            .field("is_on", &self.is_on())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static CALLS: Family = Family {
        name: "calls_total",
        help: "Calls.",
        kind: Kind::Counter,
        labels: &["api", "reason"],
    };

    static TIMES: Family = Family {
        name: "call_seconds",
        help: "How long calls take.",
        kind: Kind::Histogram,
        labels: &[],
    };

    static THERE: Family = Family {
        name: "there",
        help: "Who is there.",
        kind: Kind::Gauge,
        labels: &["what"],
    };

    fn on() -> Meters {
        let meters = Meters::default();
        meters.switch_on();
        meters
    }

    #[test]
    fn nothing_is_counted_until_somebody_wants_it() {
        let meters = Meters::default();
        meters.add(&CALLS, &["ns", "ok"], 1);
        assert!(meters.hold(&THERE, &["x"]).is_none());
        assert_eq!(meters.text(), "");
    }

    #[test]
    fn what_is_counted_is_told_in_the_format_of_prometheus() {
        let meters = on();
        meters.add(&CALLS, &["ns", "a\"b"], 2);
        meters.add(&CALLS, &["ns", "a\"b"], 1);
        meters.took(&TIMES, &[], Duration::from_millis(3));
        meters.took(&TIMES, &[], Duration::from_secs(100));
        let text = meters.text();
        assert!(
            text.starts_with("# HELP call_seconds How long calls take.\n# TYPE call_seconds histogram\n")
        );
        for line in [
            "call_seconds_bucket{le=\"0.002\"} 0",
            "call_seconds_bucket{le=\"0.005\"} 1",
            "call_seconds_bucket{le=\"60\"} 1",
            "call_seconds_bucket{le=\"+Inf\"} 2",
            "call_seconds_sum 100.003",
            "call_seconds_count 2",
            "# TYPE calls_total counter",
            "calls_total{api=\"ns\",reason=\"a\\\"b\"} 3",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\nnot in\n{text}");
        }
    }

    #[test]
    fn what_is_held_is_counted_for_as_long() {
        let meters = on();
        let held = [meters.hold(&THERE, &["x"]), meters.hold(&THERE, &["x"])];
        assert!(meters.text().contains("there{what=\"x\"} 2"));
        drop(held);
        assert!(meters.text().contains("there{what=\"x\"} 0"));
    }

    #[test]
    fn words_of_peers_make_no_more_series_than_there_may_be() {
        let meters = on();
        for number in 0..MAX_SERIES + 50 {
            meters.add(&CALLS, &["ns", &number.to_string()], 1);
        }
        let text = meters.text();
        assert!(
            text.contains("calls_total{api=\"other\",reason=\"other\"} 50"),
            "{text}"
        );
        assert_eq!(text.lines().count(), MAX_SERIES + 3);
    }
}
