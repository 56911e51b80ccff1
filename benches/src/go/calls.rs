// SPDX-License-Identifier: Apache-2.0
//! Connections requested, refreshed and closed one after the other, in each mesh by turns.

use std::time::Duration;

use anyhow::Result;

use super::cpu::quiet;
use super::mesh::{Mesh, wire};
use crate::figure::{Figure, Times};

/// How many connections of one mesh come and go until it is another's turn.
const A_TURN: usize = 10;

/// How many more before, which do not count.
const WARM_UP: usize = 2;

/// How long the calls of one mesh took.
#[derive(Default)]
struct Taken {
    request: Vec<Duration>,
    refresh: Vec<Duration>,
    close: Vec<Duration>,
}

pub(super) async fn by_turns(meshes: [&Mesh; 3], rounds: usize) -> Result<Vec<Figure>> {
    let mut taken: [Taken; 3] = Default::default();
    for turn in 0..rounds.div_ceil(A_TURN) {
        for at in 0..meshes.len() {
            let at = (turn + at) % meshes.len();
            quiet(&meshes).await?;
            once(meshes[at], turn, &mut taken[at]).await?;
        }
    }
    let mut figures = Vec::new();
    let rounds = taken[0].request.len();
    let [go, ours, with_links] = taken.map(|taken| {
        [
            ("request", Times::new(taken.request)),
            ("refresh", Times::new(taken.refresh)),
            ("close", Times::new(taken.close)),
        ]
    });
    for ((call, go), (_, ours)) in go.iter().zip(&ours) {
        let ratio = go.p50_ms() / ours.p50_ms();
        figures.push(Figure::new(format!("go.{call}_p50_over_ours"), ratio, "ratio", rounds).at_least(15.0));
    }
    let ratio = go[0].1.p50_ms() / with_links[0].1.p50_ms();
    figures.push(Figure::new("go.request_p50_over_ours_with_links", ratio, "ratio", rounds).at_least(8.0));
    for (mesh, calls) in meshes.iter().zip([&go, &ours, &with_links]) {
        for (call, times) in calls {
            let named = |part: &str| mesh.named(&format!("{call}_{part}_ms"));
            figures.push(Figure::new(named("p50"), times.p50_ms(), "ms", rounds));
            figures.push(Figure::new(named("p99"), times.quantile_ms(0.99), "ms", rounds));
        }
    }
    Ok(figures)
}

/// The turn of one mesh.
async fn once(mesh: &Mesh, turn: usize, taken: &mut Taken) -> Result<()> {
    for round in 0..A_TURN + WARM_UP {
        let (id, service) = wire(&format!("t{turn}n"), round);
        let made = mesh.request(0, &id, &service).await?;
        let answered = made.attached.answered;
        let again = mesh.again(made).await?;
        let refreshed = again.attached.answered;
        let closed = mesh.close(again).await?;
        if round >= WARM_UP {
            taken.request.push(answered);
            taken.refresh.push(refreshed);
            taken.close.push(closed);
        }
    }
    Ok(())
}
