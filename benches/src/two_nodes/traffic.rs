// SPDX-License-Identifier: Apache-2.0
//! What wires carry and how long packets need, beside the same devices made by hand, by turns.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use nsm::mesh::Pinger;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::hand;
use super::iperf::Server;
use super::stage::{Kind, Stage, endpoint, url};
use super::{Part, TwoNodes};
use crate::figure::{Figure, Times, median};

/// How often a ping is sent; each line gets every other one.
const PACE: Duration = Duration::from_millis(1);

/// How many pings each line gets.
const PINGS: u16 = 2000;

/// How long a ping may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The interface of the wire.
const INTERFACE: &str = "traffic";

/// A wire of this kind and its counterpart made by hand.
pub(crate) async fn measure(stage: &Stage, kind: Kind, how: &TwoNodes) -> Result<Vec<Figure>> {
    let client = stage.client()?.pinging()?;
    let wire = client.attach(kind.name(), &url(kind, INTERFACE)).await?;
    let links = stage.near().ip(&["link", "show", "dev", INTERFACE])?;
    let mtu = links[0]["mtu"].as_u64().context("the wire has no MTU")?;
    let hand = hand::make(stage, kind, mtu).await?;
    let lines = [endpoint(&wire)?, hand.to];
    let mut figures = Vec::new();
    if how.wants(Part::Roundtrip) && matches!(kind, Kind::Local | Kind::Vxlan) {
        figures.extend(round_trips(stage, kind, lines).await?);
    }
    if how.wants(Part::Throughput) {
        figures.extend(throughput(stage, kind, lines, how).await?);
    }
    client.close(wire.request).await?;
    client.end().await;
    Ok(figures)
}

/// What the wire carries over what the other line does.
async fn throughput(stage: &Stage, kind: Kind, lines: [Ipv4Addr; 2], how: &TwoNodes) -> Result<Vec<Figure>> {
    let mut server = Server::start(stage.far(kind)?, stage.folder())?;
    let (name, other) = (kind.name(), hand::name(kind));
    let mut figures = Vec::new();
    for streams in [1, 4] {
        let ratio = match kind {
            Kind::WireGuardUser if streams == 1 => format!("throughput.{name}_over_{other}"),
            Kind::WireGuardUser => continue,
            _ => format!("throughput.{name}_over_bare_{streams}"),
        };
        let goal = if kind == Kind::WireGuardUser { 2.5 } else { 0.97 };
        let [wire, bare] = by_turns(stage, &mut server, lines, streams, how).await?;
        // Neighbours in time, so that what else the machine does is the same for both.
        let over = wire.iter().zip(&bare).map(|(wire, bare)| wire / bare).collect();
        figures.push(Figure::new(ratio, median(over), "ratio", how.turns).at_least(goal));
        for (name, gbit) in [(name, wire), (other, bare)] {
            let name = format!("throughput.{name}_{streams}_gbit");
            figures.push(Figure::new(name, median(gbit), "Gbit/s", how.turns));
        }
    }
    Ok(figures)
}

/// Gigabits a second of each line; who is first changes from turn to turn.
async fn by_turns(
    stage: &Stage,
    server: &mut Server,
    lines: [Ipv4Addr; 2],
    streams: usize,
    how: &TwoNodes,
) -> Result<[Vec<f64>; 2]> {
    let mut gbit = [Vec::new(), Vec::new()];
    for turn in 0..how.turns {
        for at in [turn % 2, 1 - turn % 2] {
            gbit[at].push(server.gbit(stage.near(), lines[at], streams, how.seconds).await?);
        }
    }
    Ok(gbit)
}

/// How long pings of the wire take over those of the other line.
async fn round_trips(stage: &Stage, kind: Kind, lines: [Ipv4Addr; 2]) -> Result<Vec<Figure>> {
    let pinger = Pinger::new(stage.near().path())?;
    let mut times = [Vec::new(), Vec::new()];
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0..2 * PINGS {
        pace.tick().await;
        let at = usize::from(number % 2);
        times[at].push(pinger.once(lines[at], number, Instant::now() + PATIENCE)?);
    }
    let [wire, bare] = times.map(Times::new);
    let (name, runs) = (kind.name(), wire.runs());
    let figure = |name: &str, times: &Times| {
        Figure::new(
            format!("roundtrip.{name}_p50_us"),
            times.p50_ms() * 1e3,
            "µs",
            runs,
        )
    };
    Ok(vec![
        Figure::new(
            format!("roundtrip.{name}_over_bare"),
            wire.p50_ms() / bare.p50_ms(),
            "ratio",
            runs,
        )
        .at_most(1.05),
        figure(name, &wire),
        figure(hand::name(kind), &bare),
    ])
}
