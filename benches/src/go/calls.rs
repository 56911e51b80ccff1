// SPDX-License-Identifier: Apache-2.0
//! Connections requested, refreshed and closed one after the other, in each mesh by turns.

use anyhow::Result;

use super::cpu::quiet;
use super::mesh::{Mesh, wire};
use super::taken::{Taken, compared, told};
use crate::figure::Figure;

/// How many connections of one mesh come and go until it is another's turn.
const A_TURN: usize = 10;

/// How many more before, which do not count.
const WARM_UP: usize = 2;

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
    let [go, ours, with_links] = taken.map(Taken::by_call);
    for ((call, go), (_, ours)) in go.iter().zip(&ours) {
        let [p50, p99] = compared(call, go, ours, "");
        figures.extend([p50.at_least(15.0), p99]);
    }
    let [p50, p99] = compared("request", &go[0].1, &with_links[0].1, "_with_links");
    figures.extend([p50.at_least(8.0), p99]);
    for (mesh, calls) in meshes.iter().zip([&go, &ours, &with_links]) {
        for (call, times) in calls {
            figures.extend(told(mesh, call, times, ""));
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
