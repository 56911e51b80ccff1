// SPDX-License-Identifier: Apache-2.0
//! Suppliers that are killed, and an API server that is away.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::join;
use libtest_mimic::Trial;
use nsm_sdk::networkservice::supply::SUPPLIED;
use serde_json::json;

use crate::Bench;
use crate::world::{TEMPLATE, World};

const SOON: Duration = Duration::from_secs(4);
const PATIENT: Duration = Duration::from_secs(60);

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test(
            "one_that_is_killed_between_create_and_register_finds_its_pod",
            killed,
        ),
        bench.test(
            "what_ended_or_never_registered_while_nobody_looked_is_removed",
            orphans,
        ),
        bench.test("without_an_api_server_clients_are_told", without_api),
    ]
}

async fn killed(world: &mut World) -> Result<()> {
    let first = world.supplies("killed", TEMPLATE).await?;
    world.asks(&first, "killed", "n1", SOON).await?;
    let pods = world.has("killed", 1).await?;
    first.program.kill()?;
    let next = world.supplies("killed", TEMPLATE).await?;
    let registers = async {
        tokio::task::yield_now().await;
        world.registers("killed", "n1").await
    };
    let (told, registered) = join(world.asks(&next, "killed", "n1", PATIENT), registers).await;
    registered?;
    let told = told?;
    ensure!(told.reason() == SUPPLIED, "{told}");
    let after = world.pods("killed").await?;
    ensure!(
        after.len() == 1 && after[0].metadata.uid == pods[0].metadata.uid,
        "it is the same pod"
    );
    world.becomes(&pods[0], json!({ "phase": "Succeeded" })).await?;
    world.has("killed", 0).await.map(drop)
}

async fn orphans(world: &mut World) -> Result<()> {
    let template = TEMPLATE.replace(
        "nse-icmp-responder-{{ index .Labels \"nodeName\" }}",
        "orphan-{{ uuid }}",
    );
    let first = world.supplies("orphans", &template).await?;
    for node in ["n1", "n2"] {
        world
            .asks(&first, "orphans", node, Duration::from_secs(1))
            .await?;
    }
    let pods = world.has("orphans", 2).await?;
    first.program.kill()?;
    world.becomes(&pods[0], json!({ "phase": "Succeeded" })).await?;
    let file = world.file("orphans.yaml", &template)?;
    let _again = world.launches("orphans", &file, &[("NSM_START_TIMEOUT", "3s")])?;
    world.has("orphans", 0).await.map(drop)
}

async fn without_api(world: &mut World) -> Result<()> {
    let supplier = world.supplies("without", TEMPLATE).await?;
    world.control.kill_api()?;
    let told = world
        .asks(&supplier, "without", "n1", Duration::from_secs(20))
        .await;
    world.control.start_api().await?;
    let told = told?;
    ensure!(told.reason() == "api-server-unreachable", "{told}");
    Ok(())
}
