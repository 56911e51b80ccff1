// SPDX-License-Identifier: Apache-2.0
//! Connections requested, refreshed and closed by many callers at once, and the CPU time that a request takes in all
//! programs that it passes.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::cpu::{quiet, spent};
use super::mesh::{Kind, Made, Mesh};
use super::taken::{self, Taken, compared};
use crate::figure::{Figure, median};

/// How often each number of callers asks each mesh.
const TURNS: usize = 3;

/// How many requests of ours stand beside one of theirs, so that both take time that can be measured.
const OURS_BESIDE_ONE: usize = 10;

/// Callers that ask once before it counts, so that all have dialled.
const WARM_UP: usize = 64;

/// Requests of a turn of theirs, at least.
const REQUESTS: usize = 64;

/// What was found out about one mesh.
#[derive(Default)]
struct Found {
    per_second: Vec<f64>,
    taken: Taken,
}

/// The CPU time of one mesh, and the requests that took it.
#[derive(Default)]
struct Cpu {
    spent: Duration,
    requests: usize,
}

impl Cpu {
    fn ms_a_request(&self) -> f64 {
        self.spent.as_secs_f64() * 1e3 / self.requests as f64
    }
}

pub(super) async fn by_turns(meshes: [&Mesh; 2]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut cpu: [Cpu; 2] = Default::default();
    for mesh in meshes {
        warm_up(mesh).await?;
    }
    for callers in [8, 64] {
        let mut found: [Found; 2] = Default::default();
        for turn in 0..TURNS {
            for (at, mesh) in meshes.iter().enumerate() {
                quiet(&meshes).await?;
                let word = format!("c{callers}t{turn}n");
                burst(mesh, &word, callers, &mut found[at], &mut cpu[at]).await?;
            }
        }
        figures.extend(told(meshes, callers, found));
    }
    let requests = cpu[0].requests;
    let ratio = cpu[0].ms_a_request() / cpu[1].ms_a_request();
    figures.push(Figure::new("go.cpu_per_request_over_ours", ratio, "ratio", requests).at_least(40.0));
    for (mesh, cpu) in meshes.iter().zip(&cpu) {
        let name = mesh.named("cpu_per_request_ms");
        figures.push(Figure::new(name, cpu.ms_a_request(), "ms", cpu.requests));
        let (name, refused) = (mesh.named("requests_refused"), mesh.refused() as f64);
        figures.push(Figure::new(name, refused, "requests", cpu.requests));
    }
    Ok(figures)
}

async fn warm_up(mesh: &Mesh) -> Result<()> {
    let made = mesh.attach("warm", WARM_UP, WARM_UP).await?;
    mesh.close_all(made).await?;
    Ok(())
}

/// Many connections, by so many callers. Each call begins when all callers have done the one before.
async fn burst(mesh: &Mesh, word: &str, callers: usize, found: &mut Found, cpu: &mut Cpu) -> Result<()> {
    let theirs = REQUESTS.max(2 * callers);
    let requests = match mesh.kind {
        Kind::Go | Kind::GoOpen => theirs,
        Kind::Bare | Kind::Links => theirs * OURS_BESIDE_ONE,
    };
    let before = spent(mesh)?;
    let began = Instant::now();
    let made = mesh.attach(word, requests, callers).await?;
    let took = began.elapsed();
    cpu.spent += spent(mesh)?.saturating_sub(before);
    cpu.requests += requests;
    found.per_second.push(requests as f64 / took.as_secs_f64());
    found.taken.request.extend(answered(&made));
    quiet(&[mesh]).await?;
    let made = mesh.refresh_all(made).await?;
    found.taken.refresh.extend(answered(&made));
    quiet(&[mesh]).await?;
    let closed = mesh.close_all(made).await?;
    found.taken.close.extend(closed.into_iter().flatten());
    Ok(())
}

fn answered(made: &[Vec<Made>]) -> impl Iterator<Item = Duration> {
    made.iter().flatten().map(|made| made.attached.answered)
}

fn told(meshes: [&Mesh; 2], callers: usize, found: [Found; 2]) -> Vec<Figure> {
    let [go, ours] = found.map(|found| (median(found.per_second), found.taken.by_call()));
    let suffix = format!("_{callers}");
    let name = format!("go.ours_over_requests_per_s{suffix}");
    let mut figures = vec![Figure::new(name, ours.0 / go.0, "ratio", TURNS).at_least(40.0)];
    for ((call, go), (_, ours)) in go.1.iter().zip(&ours.1) {
        figures.extend(compared(call, go, ours, &suffix));
    }
    for (mesh, (per_second, calls)) in meshes.iter().zip([&go, &ours]) {
        let name = mesh.named(&format!("requests_per_s{suffix}"));
        figures.push(Figure::new(name, *per_second, "1/s", TURNS));
        for (call, times) in calls {
            figures.extend(taken::told(mesh, call, times, &suffix));
        }
    }
    figures
}
