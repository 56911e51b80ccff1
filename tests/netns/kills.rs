// SPDX-License-Identifier: Apache-2.0
//! Wires that come and go while programs are killed at any moment: in the end all works, and nothing is left.
//!
//! `NSM_SOAK_CYCLES` says how many; `NSM_PROGRAMS` where programs are that were built for release.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libtest_mimic::Trial;
use nsm::mesh::{Attached, Client, Program};
use rand::Rng;
use tokio::time::{Instant, sleep};

use crate::Bench;
use crate::soak::cycles;
use crate::world::{PATIENCE, World};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![bench.alone_with(
        "soak_under_kill_9",
        &[("NSM_MAX_TOKEN_LIFETIME", LIFETIME)],
        async |mut world| {
            soak(&mut world).await?;
            world.end().await
        },
    )]
}

/// How long what nobody closes is kept at most by programs that live.
const LIFETIME: &str = "20s";
const EXPIRED: Duration = Duration::from_secs(20);

/// How long a forwarder keeps what it made before it was killed, for whoever asks for it again. A wire of which its manager
/// has died as well, and whose client has closed it meanwhile, is removed only then.
const KEPT: Duration = Duration::from_secs(11 * 60);

/// How many wires come and go, unless told otherwise.
const CYCLES: usize = 100;

/// How many wires at a time.
const AT_A_TIME: usize = 8;

/// How long a program lives between two deaths, milliseconds.
const LIVES: std::ops::Range<u64> = 50..500;

/// What happened.
#[derive(Default)]
struct Counts {
    made: Cell<usize>,
    refused: Cell<usize>,
    killed: Cell<usize>,
}

fn count(counter: &Cell<usize>) {
    counter.set(counter.get() + 1);
}

async fn soak(world: &mut World) -> Result<()> {
    let (client, counts) = (world.quiet()?, Counts::default());
    let cycles = cycles(CYCLES)?;
    let work = (0..AT_A_TIME).map(|worker| work(&client, worker, cycles, &counts));
    tokio::select! {
        done = futures::future::try_join_all(work) => drop(done?),
        died = kills(world, &counts) => died?,
    }
    let Counts {
        made,
        refused,
        killed,
    } = &counts;
    println!(
        "{} wires were made while {} programs were killed; {} calls were refused meanwhile",
        made.get(),
        killed.get(),
        refused.get()
    );
    start_all(world).await?;
    let attached = persist(&client, "last", "kernel://icmp-responder/last", &counts).await?;
    client.close(attached.request).await?;
    client.end().await;
    world.clean_within(KEPT + PATIENCE).await
}

/// Makes and closes wires, one after the other.
async fn work(client: &Client, worker: usize, cycles: usize, counts: &Counts) -> Result<()> {
    for number in (worker..cycles).step_by(AT_A_TIME) {
        let url = format!("kernel://icmp-responder/nsm-{worker}");
        let attached = persist(client, &format!("kill-{number}"), &url, counts).await?;
        count(&counts.made);
        if client.close(attached.request).await.is_err() {
            count(&counts.refused);
        }
    }
    Ok(())
}

/// Asks for a wire until it is there.
async fn persist(client: &Client, id: &str, url: &str, counts: &Counts) -> Result<Attached> {
    let until = Instant::now() + PATIENCE + EXPIRED;
    loop {
        match client.attach(id, url).await {
            Ok(attached) => return Ok(attached),
            Err(error) if Instant::now() > until => return Err(error.context(id.to_string())),
            Err(_) => {
                count(&counts.refused);
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Kills programs, one after the other, and starts them again.
async fn kills(world: &mut World, counts: &Counts) -> Result<()> {
    loop {
        let (pause, victim) = {
            let mut random = rand::rng();
            (random.random_range(LIVES), random.random_range(0..4))
        };
        sleep(Duration::from_millis(pause)).await;
        kill(match victim {
            0 => &mut world.node.registry,
            1 => &mut world.node.nsmgr,
            2 => &mut world.node.forwarder,
            _ => &mut world.endpoint,
        })?;
        count(&counts.killed);
        start_all(world).await?;
    }
}

fn kill(program: &mut Option<Program>) -> Result<()> {
    let Some(mut program) = program.take() else {
        return Ok(());
    };
    if let Some(status) = program.ended()? {
        bail!("{} has ended by itself: {status}", program.name());
    }
    program.kill()
}

/// Starts what does not run.
async fn start_all(world: &mut World) -> Result<()> {
    if world.node.registry.is_none() {
        world.node.start_registry().await.context("the registry")?;
    }
    if world.node.nsmgr.is_none() {
        world.node.start_nsmgr().await.context("the manager")?;
    }
    if world.node.forwarder.is_none() {
        world.node.start_forwarder().await.context("the forwarder")?;
    }
    if world.endpoint.is_none() {
        world.start_endpoint().await.context("the endpoint")?;
    }
    Ok(())
}
