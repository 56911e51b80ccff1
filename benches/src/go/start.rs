// SPDX-License-Identifier: Apache-2.0
//! From `exec` until a program answers; an endpoint or a forwarder is registered by then.

use anyhow::Result;

use super::files::Files;
use super::mesh::{self, Kind};
use crate::figure::{Figure, median};

/// How often everything is started.
const RUNS: usize = 3;

const PROGRAMS: [&str; 4] = ["registry", "nsmgr", "forwarder", "nse"];

pub(super) async fn by_turns(files: &Files) -> Result<Vec<Figure>> {
    let mut runs = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let started = mesh::on([Kind::Go, Kind::Links], files, async |meshes| {
            Ok(meshes.map(|mesh| mesh.started.clone()))
        });
        runs.push(started.await?);
    }
    let mut figures = Vec::new();
    for (at, whose) in ["go", "ours"].into_iter().enumerate() {
        for program in PROGRAMS {
            let times = runs.iter().flat_map(|run| &run[at]);
            let times = times.filter(|(name, _)| name == program);
            let times = times.map(|(_, took)| took.as_secs_f64() * 1e3).collect();
            let name = format!("{whose}.start_ready_ms.{program}");
            figures.push(Figure::new(name, median(times), "ms", RUNS));
        }
    }
    Ok(figures)
}
