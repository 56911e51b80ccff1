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

/// What can be counted of each program: its threads, its descriptors by their kinds, and what is registered.
#[derive(Debug)]
struct Counts(BTreeMap<String, usize>);

impl Counts {
    async fn take(world: &World) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for program in world.node.programs().chain(&world.endpoint) {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", program.pid()))?.count();
            counts.insert(format!("threads of {}", program.name()), tasks);
            for (kind, count) in program.descriptors()? {
                counts.insert(format!("{kind} of {}", program.name()), count);
            }
        }
        for endpoint in world.endpoints().await? {
            *counts.entry(format!("endpoints {endpoint}")).or_default() += 1;
        }
        Ok(Self(counts))
    }

    /// What there is more of than there was, as it is and as it was. Less is no leak: what the last of the wires before
    /// used for a moment may have been counted.
    fn more_than(&self, before: &Self) -> BTreeMap<&str, (usize, usize)> {
        let was = |what| before.0.get(what).copied().unwrap_or_default();
        let counts = self.0.iter().map(|(what, is)| (what.as_str(), (*is, was(what))));
        counts.filter(|(_, (is, was))| is > was).collect()
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
    let settled = wait_for(PATIENCE, "there is no more than before", async || {
        now = Counts::take(world).await?;
        Ok(now.more_than(&before).is_empty().then_some(()))
    });
    if settled.await.is_err() {
        same("what there is more of", now.more_than(&before), BTreeMap::new())?;
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
