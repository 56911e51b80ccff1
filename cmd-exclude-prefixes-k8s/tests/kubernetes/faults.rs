// SPDX-License-Identifier: Apache-2.0
//! An API server that is away.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::Bench;
use crate::world::{Running, SERVICES, World, node};

/// What is said once when the API server is away, and when it is back.
const AWAY: &str = "the API server cannot be reached";
const BACK: &str = "the API server is back";

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("an_outage_is_said_once_and_nothing_is_taken_back", killed),
        bench.test("an_api_server_that_hangs_is_an_outage_as_well", hanging),
        bench.test(
            "a_start_without_an_api_server_takes_nothing_back_and_waits",
            early,
        ),
    ]
}

async fn is_back(world: &World, running: &Running) -> Result<()> {
    running.prints(BACK).await?;
    // Not beside the other one: adjacent prefixes are written as one.
    world.applies("", node("after", &["192.168.10.0/24"])).await?;
    running
        .says(&[SERVICES, "192.168.8.0/24", "192.168.10.0/24"])
        .await?;
    for said in [AWAY, BACK] {
        let times = running.program.printed().matches(said).count();
        ensure!(times == 1, "{said:?} is said {times} times");
    }
    for name in ["before", "after"] {
        world.deletes("", node(name, &[])).await?;
    }
    running.says(&[SERVICES]).await
}

async fn begins(world: &mut World) -> Result<Running> {
    world.applies("", node("before", &["192.168.8.0/24"])).await?;
    let running = world.runs(&[])?;
    running.says(&[SERVICES, "192.168.8.0/24"]).await?;
    running.prints("ready").await?;
    Ok(running)
}

async fn killed(world: &mut World) -> Result<()> {
    let running = begins(world).await?;
    let inode = running.inode()?;
    world.control.kill_api()?;
    running.prints(AWAY).await?;
    world.control.start_api().await?;
    ensure!(running.inode()? == inode, "nothing was written meanwhile");
    is_back(world, &running).await
}

async fn hanging(world: &mut World) -> Result<()> {
    let running = begins(world).await?;
    world.control.signal_api(Signal::STOP)?;
    let said = running.prints(AWAY).await;
    world.control.signal_api(Signal::CONT)?;
    said?;
    is_back(world, &running).await
}

async fn early(world: &mut World) -> Result<()> {
    let first = begins(world).await?;
    let file = first.file.clone();
    first.program.stop().await?;
    world.control.kill_api()?;
    let own = ("NSM_EXCLUDED_PREFIXES", "203.0.113.0/24".to_string());
    let running = world.runs_on(file, &[own])?;
    let all = [SERVICES, "192.168.8.0/24", "203.0.113.0/24"];
    running.says(&all).await?;
    running.prints(AWAY).await?;
    world.control.start_api().await?;
    running.prints("ready").await?;
    running.says(&all).await?;
    world.deletes("", node("before", &[])).await?;
    running.says(&[SERVICES, "203.0.113.0/24"]).await
}
