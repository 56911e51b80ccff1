// SPDX-License-Identifier: Apache-2.0
//! What the demo found out, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use nsm::mesh::Pings;
use serde::Serialize;

/// What the demo found out; its JSON is a promise to scripts.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Facts {
    /// From the request until the wire carried a ping.
    pub(crate) attach_ms: Latency,
    /// The pings through the wire.
    pub(crate) ping: Vec<Pings>,
    /// Resident memory by program.
    pub(crate) rss_mib: BTreeMap<String, f64>,
    /// What was still there at the end.
    pub(crate) left_behind: Vec<String>,
    /// The path, drawn.
    #[serde(skip)]
    pub(crate) picture: String,
    /// The programs that ran, and their process ids.
    #[serde(skip)]
    pub(crate) running: Vec<(String, u32)>,
}

/// Milliseconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Latency {
    /// The very first, with nothing warm.
    pub(crate) first: f64,
    /// The median of those after it.
    pub p50: f64,
    /// 99 of 100 of those after it were faster.
    pub p99: f64,
}

impl Latency {
    /// The first and the quantiles of the others.
    pub(crate) fn of(first: f64, mut others: Vec<Duration>) -> Self {
        others.sort_unstable();
        let quantile = |share: f64| {
            let at = (others.len() as f64 * share) as usize;
            let at = at.min(others.len().saturating_sub(1));
            others.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
        };
        Self {
            first,
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", self.picture)?;
        for ping in &self.ping {
            let verdict = if ping.loss == 0.0 { "all answered" } else { "LOST" };
            writeln!(
                f,
                "  ping {} → {}: {verdict}, {:.3} ms",
                ping.from, ping.to, ping.round_trip_ms
            )?;
        }
        let Latency { first, p50, p99 } = self.attach_ms;
        writeln!(
            f,
            "  attach: first {first:.1} ms, then p50 {p50:.1} ms, p99 {p99:.1} ms until a ping came back"
        )?;
        let memory: Vec<_> = self
            .rss_mib
            .iter()
            .map(|(name, mib)| format!("{name} {mib:.1}"))
            .collect();
        writeln!(f, "  memory, MiB: {}", memory.join(", "))?;
        if self.left_behind.is_empty() {
            write!(f, "  left behind: nothing")
        } else {
            write!(f, "  LEFT BEHIND:\n    {}", self.left_behind.join("\n    "))
        }
    }
}
