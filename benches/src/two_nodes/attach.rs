// SPDX-License-Identifier: Apache-2.0
//! Wires between nodes, made one after the other, and at once.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use futures::stream::{StreamExt, TryStreamExt};
use nsm::mesh::{Attached, Client, Pinger};
use tokio::time::Instant;

use super::stage::{Kind, Stage, endpoint, url};
use crate::figure::{Figure, Times, median};

/// Wires of each kind that are made before anything counts.
const WARM_UP: usize = 5;

/// How many wires are asked for at the same moment.
const AT_ONCE: usize = 100;

/// How many wires one forwarder holds.
const MANY: usize = 500;

/// How many of the many are asked for at a time.
const WIDTH: usize = 16;

/// How long a ping may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The kinds by turns: attach until a ping is back, close.
pub(crate) async fn by_turns(stage: &Stage, kinds: &[Kind], rounds: usize) -> Result<Vec<Figure>> {
    let client = stage.client()?.pinging()?;
    let mut took = vec![Vec::with_capacity(rounds); kinds.len()];
    for round in 0..rounds + WARM_UP {
        for (number, (kind, took)) in kinds.iter().zip(&mut took).enumerate() {
            let id = format!("{}-{round}", kind.name());
            let name = format!("turn{round}-{number}");
            let attached = client.attach(&id, &url(*kind, &name)).await?;
            if round >= WARM_UP {
                took.push(attached.carried);
            }
            client.close(attached.request).await?;
            gone(stage, *kind)?;
        }
    }
    client.end().await;
    let times: Vec<_> = kinds
        .iter()
        .copied()
        .zip(took.into_iter().map(Times::new))
        .collect();
    let local = times.iter().find(|(kind, _)| *kind == Kind::Local);
    let local_ms = local.map_or(f64::NAN, |(_, times)| times.p50_ms());
    let mut figures = Vec::new();
    for (kind, times) in &times {
        let (name, p50) = (kind.name(), times.p50_ms());
        if *kind != Kind::Local {
            let name = format!("remote_attach.{name}_over_local");
            figures.push(Figure::new(name, p50 / local_ms, "ratio", rounds).at_most(2.5));
        }
        figures.push(Figure::new(
            format!("remote_attach.{name}_p50_ms"),
            p50,
            "ms",
            rounds,
        ));
    }
    Ok(figures)
}

/// Waits until the kernel has removed what was closed. Nobody else waits for that, but while it lasts the kernel makes
/// no other device either, and what it removes for one kind is not to be counted as the next one's.
fn gone(stage: &Stage, kind: Kind) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    for pod in [stage.near(), stage.far(kind)?] {
        while pod.ip(&["link"])?.as_array().map_or(0, Vec::len) > 1 {
            anyhow::ensure!(Instant::now() < until, "an interface stays in {}", pod.name());
        }
    }
    Ok(())
}

/// Many wires asked for at the same moment, until all of them carry a ping: half of them by VXLAN, half by WireGuard.
pub(crate) async fn at_once(stage: &Stage) -> Result<Vec<Figure>> {
    let kinds = [Kind::Vxlan, Kind::WireGuardUser];
    let mut runs = Vec::new();
    for run in 0..5 {
        let client = stage.client()?;
        let pinger = Pinger::new(stage.near().path())?;
        let asked: Vec<_> = kinds
            .into_iter()
            .cycle()
            .take(AT_ONCE)
            .enumerate()
            .map(|(number, kind)| {
                (
                    format!("at-once-{run}-{number}"),
                    url(kind, &format!("a{number}")),
                )
            })
            .collect();
        let began = Instant::now();
        let attached = try_join_all(asked.iter().map(|(id, service)| client.attach(id, service))).await?;
        ping_all(&pinger, &attached)?;
        runs.push(began.elapsed().as_secs_f64());
        close_all(&client, attached).await?;
        client.end().await;
    }
    let count = runs.len();
    Ok(vec![
        Figure::new("remote_attach.100_at_once_s", median(runs), "s", count).at_most(2.0),
    ])
}

/// Wires by WireGuard that stay, until each of the two forwarders holds [`MANY`]: what does it weigh?
pub(crate) async fn many(stage: &Stage) -> Result<Vec<Figure>> {
    let kind = Kind::WireGuardUser;
    let before = stage.forwarder_mib()?;
    let client = stage.client()?;
    let asked = (0..MANY).map(|number| {
        let (client, id) = (&client, format!("many-{number}"));
        async move { client.attach(&id, &url(kind, &format!("m{number}"))).await }
    });
    let attached: Vec<Attached> = futures::stream::iter(asked)
        .buffer_unordered(WIDTH)
        .try_collect()
        .await?;
    ping_all(&Pinger::new(stage.near().path())?, &attached)?;
    let after = stage.forwarder_mib()?;
    close_all(&client, attached).await?;
    client.end().await;
    let name = "rss.forwarder_500_user_tunnels_mib";
    Ok(vec![
        Figure::new(name, after, "MiB", MANY).at_most(64.0),
        Figure::new("rss.forwarder_without_tunnels_mib", before, "MiB", 1),
    ])
}

fn ping_all(pinger: &Pinger, wires: &[Attached]) -> Result<()> {
    for (number, wire) in (0_u16..).zip(wires) {
        let answer = pinger.once(endpoint(wire)?, number, Instant::now() + PATIENCE);
        answer.with_context(|| format!("the wire {} carries no ping", wire.request.connection.id))?;
    }
    Ok(())
}

async fn close_all(client: &Client, wires: Vec<Attached>) -> Result<()> {
    let closes = wires.into_iter().map(|wire| client.close(wire.request));
    futures::stream::iter(closes)
        .buffer_unordered(WIDTH)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(())
}
