// SPDX-License-Identifier: Apache-2.0
//! Wires that come and go for long: everything that can be counted is as before.
//!
//! `NSM_SOAK_CYCLES` says how many; `NSM_PROGRAMS` where programs are that were built for release.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::Client;

use crate::Bench;
use crate::world::{PATIENCE, World, same, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![bench.alone("d70_soak", async |mut world| {
        soak(&mut world).await?;
        world.end().await
    })]
}

/// How many wires come and go, unless told otherwise.
pub(crate) const CYCLES: usize = 500;

/// How many at a time.
const AT_A_TIME: usize = 16;

/// From how many cycles on the memory tells something, and by how much it may have grown after the first tenth, per cent.
const LONG: usize = 5_000;
const GROWTH: u64 = 5;

/// What can be counted of each program.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    descriptors: BTreeMap<String, BTreeMap<String, usize>>,
    threads: BTreeMap<String, usize>,
    registered: Vec<String>,
}

impl Counts {
    async fn take(world: &World) -> Result<Self> {
        let (mut descriptors, mut threads) = (BTreeMap::new(), BTreeMap::new());
        for program in world.node.programs().chain(&world.endpoint) {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", program.pid()))?.count();
            threads.insert(program.name().to_string(), tasks);
            descriptors.insert(program.name().to_string(), program.descriptors()?);
        }
        let registered = world.endpoints().await?;
        Ok(Self {
            descriptors,
            threads,
            registered,
        })
    }
}

fn memory(world: &World) -> Result<BTreeMap<String, u64>> {
    let programs = world.node.programs().chain(&world.endpoint);
    programs
        .map(|program| Ok((program.name().to_string(), program.memory_kib()?.resident)))
        .collect()
}

async fn soak(world: &mut World) -> Result<()> {
    let cycles = cycles(CYCLES)?;
    let client = world.quiet()?;
    cycle(&client, cycles / 10).await?;
    world.clean().await?;
    let (before, warm) = (Counts::take(world).await?, memory(world)?);
    cycle(&client, cycles).await?;
    world.clean().await?;
    let mut now = Counts::take(world).await?;
    let settled = wait_for(PATIENCE, "everything is as before", async || {
        now = Counts::take(world).await?;
        Ok((now == before).then_some(()))
    });
    if settled.await.is_err() {
        same("what can be counted", now, before)?;
    }
    for (program, is) in memory(world)? {
        let was = warm.get(&program).copied().unwrap_or_default();
        println!("{program}: {was} KiB before, {is} KiB after {cycles} cycles");
        let most = was + was * GROWTH / 100;
        ensure!(
            cycles < LONG || is <= most,
            "{program} grew from {was} KiB to {is} KiB"
        );
    }
    client.end().await;
    Ok(())
}

/// How many wires are to come and go: so many, unless told otherwise.
pub(crate) fn cycles(usual: usize) -> Result<usize> {
    match std::env::var("NSM_SOAK_CYCLES") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("NSM_SOAK_CYCLES is {text:?}")),
        Err(_) => Ok(usual),
    }
}

/// Makes and closes wires.
pub(crate) async fn cycle(client: &Client, cycles: usize) -> Result<()> {
    let workers = (0..AT_A_TIME).map(|worker| async move {
        for number in (worker..cycles).step_by(AT_A_TIME) {
            let url = format!("kernel://icmp-responder/nsm-{worker}");
            let attached = client.attach(&format!("soak-{number}"), &url).await;
            let attached = attached.with_context(|| format!("cycle {number}"))?;
            client
                .close(attached.request)
                .await
                .with_context(|| format!("cycle {number}"))?;
        }
        Ok::<_, anyhow::Error>(())
    });
    futures::future::try_join_all(workers).await.map(drop)
}
