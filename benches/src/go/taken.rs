// SPDX-License-Identifier: Apache-2.0
//! How long calls took, in milliseconds of a mesh and as how many times longer theirs took than ours.

use std::time::Duration;

use super::mesh::Mesh;
use crate::figure::{Figure, Times};

/// What is told of many times.
const QUANTILES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

/// How long the calls of one mesh took.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) request: Vec<Duration>,
    pub(super) refresh: Vec<Duration>,
    pub(super) close: Vec<Duration>,
}

impl Taken {
    /// The times by the names of the calls.
    pub(super) fn by_call(self) -> [(&'static str, Times); 3] {
        [
            ("request", Times::new(self.request)),
            ("refresh", Times::new(self.refresh)),
            ("close", Times::new(self.close)),
        ]
    }
}

/// The times of calls of one mesh; the figures' names end with `suffix`.
pub(super) fn told(mesh: &Mesh, call: &str, times: &Times, suffix: &str) -> [Figure; 2] {
    QUANTILES.map(|(part, share)| {
        let name = mesh.named(&format!("{call}_{part}_ms{suffix}"));
        Figure::new(name, times.quantile_ms(share), "ms", times.runs())
    })
}

/// Theirs over ours, first the median; the figures' names end with `suffix`.
pub(super) fn compared(call: &str, theirs: &Times, ours: &Times, suffix: &str) -> [Figure; 2] {
    QUANTILES.map(|(part, share)| {
        let ratio = theirs.quantile_ms(share) / ours.quantile_ms(share);
        let name = format!("go.{call}_{part}_over_ours{suffix}");
        Figure::new(name, ratio, "ratio", theirs.runs())
    })
}
