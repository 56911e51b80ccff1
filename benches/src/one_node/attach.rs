// SPDX-License-Identifier: Apache-2.0
//! Wires made, refreshed and closed.

use std::time::Duration;

use anyhow::{Context, Result};
use nsm::mesh::{Attached, Memory, Pinger};
use tokio::time::Instant;

use super::Bench;
use super::floor::Floor;
use crate::figure::{Figure, Times, median};

/// Wires made before anything counts.
const WARM_UP: usize = 20;

/// How many attaches stand for "the first" and "the thousandth".
const WINDOW: usize = 25;

/// One after the other: attach until a ping is back, close.
pub(crate) async fn one_by_one(bench: &Bench, floor: &Floor, rounds: usize) -> Result<Vec<Figure>> {
    let (mut attach, mut close) = (Vec::new(), Vec::new());
    for round in 0..rounds + WARM_UP {
        let attached = bench
            .client
            .attach(
                &format!("one-{round}"),
                &format!("kernel://icmp-responder/one{round}"),
            )
            .await?;
        let carried = attached.carried;
        let closed = bench.client.close(attached.request).await?;
        if round >= WARM_UP {
            attach.push(carried);
            close.push(closed);
        }
    }
    let (attach, close) = (Times::new(attach), Times::new(close));
    Ok(vec![
        Figure::new(
            "attach.p50_over_floor",
            attach.p50_ms() / floor.attach_ms(),
            "ratio",
            rounds,
        )
        .at_most(2.0),
        Figure::new("attach.p50_ms", attach.p50_ms(), "ms", rounds),
        Figure::new("attach.p99_ms", attach.quantile_ms(0.99), "ms", rounds).at_most(10.0),
        Figure::new(
            "close.p50_over_attach",
            close.p50_ms() / attach.p50_ms(),
            "ratio",
            rounds,
        )
        .at_most(1.0),
        Figure::new("close.p50_ms", close.p50_ms(), "ms", rounds),
    ])
}

/// One wire that stays, refreshed time after time, as the floor's calls are made.
pub(crate) async fn refresh(bench: &Bench, floor: &Floor, rounds: usize) -> Result<Vec<Figure>> {
    let mut wire = bench
        .client
        .attach("refreshed", "kernel://icmp-responder/refreshed")
        .await?;
    let mut refresh = Vec::with_capacity(rounds);
    for round in 0..rounds + WARM_UP {
        wire = bench.client.again(wire.request).await?;
        if round >= WARM_UP {
            refresh.push(wire.answered);
        }
    }
    bench.client.close(wire.request).await?;
    let refresh = Times::new(refresh);
    Ok(vec![
        Figure::new(
            "refresh.p50_over_hops",
            refresh.p50_ms() / floor.hops_ms(),
            "ratio",
            rounds,
        )
        .at_most(1.5),
        Figure::new("refresh.p50_ms", refresh.p50_ms(), "ms", rounds),
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

/// Wires that stay, until there are many: does the last one come as fast as the first, and what does each weigh?
pub(crate) async fn many(bench: &Bench, wires: usize) -> Result<Vec<Figure>> {
    let memory = |name: &str| -> Result<Memory> {
        let program = bench.node.programs().find(|program| program.name() == name);
        program.context("the program does not run")?.memory_kib()
    };
    let before = (memory("nsmgr")?, memory("forwarder")?);
    let mut attached = Vec::with_capacity(wires);
    for number in 0..wires {
        attached.push(
            bench
                .client
                .attach(
                    &format!("many-{number}"),
                    &format!("kernel://icmp-responder/m{number}"),
                )
                .await?,
        );
    }
    let after = (memory("nsmgr")?, memory("forwarder")?);
    let window = |part: &[Attached]| Times::new(part.iter().map(|wire| wire.carried).collect()).p50_ms();
    let first = window(&attached[..WINDOW.min(wires)]);
    let last = window(&attached[wires.saturating_sub(WINDOW)..]);
    let each =
        |before: Memory, after: Memory| after.resident.saturating_sub(before.resident) as f64 / wires as f64;
    close_all(&bench.client, attached).await?;
    Ok(vec![
        Figure::new("attach.1000th_over_first", last / first, "ratio", WINDOW).at_most(1.2),
        Figure::new(
            "rss.per_connection_kib.nsmgr",
            each(before.0, after.0),
            "KiB",
            wires,
        )
        .at_most(25.0),
        Figure::new(
            "rss.per_connection_kib.forwarder",
            each(before.1, after.1),
            "KiB",
            wires,
        )
        .at_most(25.0),
    ])
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
