// SPDX-License-Identifier: Apache-2.0
//! Wires made, refreshed and closed.

use std::time::Duration;

use anyhow::{Context, Result};
use nsm::mesh::{Attached, Memory, Pinger};
use tokio::time::Instant;

use super::Bench;
use super::floor::{Floor, Taken, WARM_UP};
use crate::figure::{Figure, Times, median};

/// How many of ours follow each other until it is the floor's turn.
const A_TURN: usize = 20;

/// How many attaches in turn stand for "the first" and "the thousandth", and how many turns there are.
const WINDOW: usize = 10;
const WINDOWS: usize = 10;

/// One after the other: attach until a ping is back, close.
pub(crate) async fn one_by_one(bench: &Bench, floor: &mut Floor, rounds: usize) -> Result<Vec<Figure>> {
    let (mut attach, mut close) = (Vec::new(), Vec::new());
    let mut bare = Taken::default();
    for turn in 0..rounds.div_ceil(A_TURN) {
        floor.attaches(A_TURN, &mut bare).await?;
        for round in 0..A_TURN + WARM_UP {
            let (id, service) = (
                format!("one-{turn}-{round}"),
                format!("kernel://icmp-responder/t{turn}n{round}"),
            );
            let attached = bench.client.attach(&id, &service).await?;
            let carried = attached.carried;
            let closed = bench.client.close(attached.request).await?;
            if round >= WARM_UP {
                attach.push(carried);
                close.push(closed);
            }
        }
    }
    let (attach, close) = (Times::new(attach), Times::new(close));
    let rounds = attach.runs();
    let ratio = |name: &str, ratio| Figure::new(name, ratio, "ratio", rounds);
    let over_floor = attach.p50_ms() / bare.attach_ms();
    let mut figures = vec![
        ratio("attach.p50_over_floor", over_floor).at_most(2.0),
        Figure::new("attach.p50_ms", attach.p50_ms(), "ms", rounds),
        Figure::new("attach.p99_ms", attach.quantile_ms(0.99), "ms", rounds).at_most(10.0),
        ratio("close.p50_over_attach", close.p50_ms() / attach.p50_ms()).at_most(1.0),
        Figure::new("close.p50_ms", close.p50_ms(), "ms", rounds),
    ];
    figures.extend(bare.figures());
    Ok(figures)
}

/// One wire that stays, refreshed time after time, as the floor's calls are made.
pub(crate) async fn refresh(bench: &Bench, floor: &mut Floor, rounds: usize) -> Result<Vec<Figure>> {
    let mut wire = bench
        .client
        .attach("refreshed", "kernel://icmp-responder/refreshed")
        .await?;
    let mut refresh = Vec::with_capacity(rounds);
    let mut bare = Taken::default();
    for _ in 0..rounds.div_ceil(A_TURN) {
        floor.calls(A_TURN, &mut bare).await?;
        for round in 0..A_TURN + WARM_UP {
            wire = bench.client.again(wire.request).await?;
            if round >= WARM_UP {
                refresh.push(wire.answered);
            }
        }
    }
    bench.client.close(wire.request).await?;
    let refresh = Times::new(refresh);
    let rounds = refresh.runs();
    let ratio = refresh.p50_ms() / bare.hops_ms();
    Ok(vec![
        Figure::new("refresh.p50_over_hops", ratio, "ratio", rounds).at_most(1.5),
        Figure::new("refresh.p50_ms", refresh.p50_ms(), "ms", rounds),
        Figure::new("floor.refresh_hops_p50_ms", bare.hops_ms(), "ms", rounds),
    ])
}

/// Many wires asked for at the same moment, until all of them carry a ping.
pub(crate) async fn at_once(bench: &Bench, wires: usize) -> Result<Vec<Figure>> {
    let mut runs = Vec::new();
    for _ in 0..5 {
        let client = nsm::mesh::Client::new(&bench.node, "at-once", bench.pod.path())?;
        let pinger = Pinger::new(bench.pod.path())?;
        let began = Instant::now();
        let asked: Vec<(String, String)> = (0..wires)
            .map(|number| {
                (
                    format!("at-once-{number}"),
                    format!("kernel://icmp-responder/a{number}"),
                )
            })
            .collect();
        let attached =
            futures::future::try_join_all(asked.iter().map(|(id, service)| client.attach(id, service)))
                .await?;
        for (number, wire) in (0_u16..).zip(&attached) {
            ping(&pinger, wire, number, began)?;
        }
        runs.push(began.elapsed().as_secs_f64());
        close_all(&client, attached).await?;
        client.end().await;
    }
    let count = runs.len();
    Ok(vec![
        Figure::new("attach.100_at_once_s", median(runs), "s", count).at_most(1.0),
    ])
}

/// Wires that stay, until there are many: does one more come as fast as the first of `other`, where there are none,
/// and what does each weigh?
pub(crate) async fn many(bench: &Bench, other: &Bench, wires: usize) -> Result<Vec<Figure>> {
    let memory = |name: &str| -> Result<Memory> {
        let program = bench.node.programs().find(|program| program.name() == name);
        program.context("the program does not run")?.memory_kib()
    };
    let before = (memory("nsmgr")?, memory("forwarder")?);
    let mut attached = Vec::with_capacity(wires);
    for number in 0..wires {
        attached.push(wire(bench, "many", number).await?);
    }
    let after = (memory("nsmgr")?, memory("forwarder")?);
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        first.extend(window(other).await?);
        last.extend(window(bench).await?);
    }
    close_all(&bench.client, attached).await?;
    let (first, last) = (Times::new(first), Times::new(last));
    let ratio = last.p50_ms() / first.p50_ms();
    let each = |name: &str, before: Memory, after: Memory| {
        let kib = after.resident.saturating_sub(before.resident) as f64 / wires as f64;
        Figure::new(format!("rss.per_connection_kib.{name}"), kib, "KiB", wires).at_most(25.0)
    };
    Ok(vec![
        Figure::new("attach.1000th_over_first", ratio, "ratio", last.runs()).at_most(1.2),
        each("nsmgr", before.0, after.0),
        each("forwarder", before.1, after.1),
    ])
}

/// A few wires that come and go.
async fn window(bench: &Bench) -> Result<Vec<Duration>> {
    let mut carried = Vec::with_capacity(WINDOW);
    for number in 0..WINDOW + WARM_UP {
        let made = wire(bench, "one", number).await?;
        if number >= WARM_UP {
            carried.push(made.carried);
        }
        bench.client.close(made.request).await?;
    }
    Ok(carried)
}

async fn wire(bench: &Bench, word: &str, number: usize) -> Result<Attached> {
    let (id, service) = (
        format!("{word}-{number}"),
        format!("kernel://icmp-responder/{word}{number}"),
    );
    bench.client.attach(&id, &service).await
}

fn ping(pinger: &Pinger, wire: &Attached, number: u16, began: Instant) -> Result<()> {
    let to = wire.endpoint().context("the endpoint has no IPv4 address")?;
    pinger.once(to, number, began + Duration::from_secs(15))?;
    Ok(())
}

async fn close_all(client: &nsm::mesh::Client, wires: Vec<Attached>) -> Result<()> {
    for wire in wires {
        client.close(wire.request).await?;
    }
    Ok(())
}
