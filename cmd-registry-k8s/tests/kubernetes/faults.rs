// SPDX-License-Identifier: Apache-2.0
//! An API server that is killed, hangs, loses its etcd or its memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use libtest_mimic::Trial;
use nsm_sdk::core::NseRegistry;
use nsm_sdk_k8s::registry::HEALTH;
use rustix::process::Signal;
use tokio::time::Instant;
use tonic::Code;

use crate::Bench;
use crate::caller::{Caller, endpoint, next, offering};
use crate::control::{TO_START, signal_to};
use crate::world::{HOME, NSE, Registry, World, eventually};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("c107_a_killed_api_server_is_survived_in_what_was_known", killed),
        bench.test("an_api_server_that_hangs_is_an_outage_as_well", hanging),
        bench.test("etcd_that_is_killed_is_survived", without_etcd),
        bench.test(
            "c107_an_api_server_that_remembers_too_little_is_asked_for_everything",
            forgetful,
        ),
        bench.test(
            "a_registry_waits_for_an_api_server_and_ends_when_it_is_told_to",
            early,
        ),
    ]
}

/// Everything that must hold while nothing can be written.
async fn is_read_only(caller: &Caller, service: &str, name: &str) -> Result<()> {
    let refused = async || {
        caller
            .registers::<NseRegistry>(endpoint("new", service))
            .await
            .err()
    };
    let refused = eventually("a new endpoint is refused", refused).await?;
    ensure!(refused.code() == Code::Unavailable, "{refused}");
    ensure!(
        refused
            .text()
            .contains("the API server of Kubernetes cannot be reached"),
        "{refused}"
    );
    let is_told = async || (!caller.is_healthy(HEALTH).await).then_some(());
    eventually("health tells it", is_told).await?;
    ensure!(caller.is_healthy("").await, "look-ups are still served");
    ensure!(caller.names(service).await? == [name], "what was known is found");
    caller
        .registers::<NseRegistry>(endpoint(name, service))
        .await
        .context("an unchanged one may come back")?;
    Ok(())
}

async fn is_back(registry: &Registry, caller: &Caller, service: &str, name: &str) -> Result<()> {
    let is_told = async || caller.is_healthy(HEALTH).await.then_some(());
    eventually("health tells that it is back", is_told).await?;
    ensure!(
        registry.program.printed().contains("the API server is back"),
        "the log tells it"
    );
    caller
        .registers::<NseRegistry>(endpoint("z-new", service))
        .await?;
    ensure!(caller.names(service).await? == [name, "z-new"], "both are found");
    for name in [name, "z-new"] {
        caller.unregisters::<NseRegistry>(name).await?;
    }
    caller.sees(service, &[]).await
}

async fn killed(world: &mut World) -> Result<()> {
    let registry = world.registry(&[]).await?;
    let caller = world.caller(&registry, "nse")?;
    caller
        .registers::<NseRegistry>(endpoint("killed", "c107"))
        .await?;
    let mut watch = caller.opens::<NseRegistry>(offering("c107"), true).await?;
    ensure!(!next::<NseRegistry>(&mut watch).await?.1, "it is told");
    world.control.kill_api()?;
    is_read_only(&caller, "c107", "killed").await?;
    world.control.start_api().await?;
    is_back(&registry, &caller, "c107", "killed").await?;
    let mut told = Vec::new();
    while told.len() < 3 {
        let (entry, deleted) = next::<NseRegistry>(&mut watch).await?;
        told.push((entry.name, deleted));
    }
    let expected = [("z-new", false), ("killed", true), ("z-new", true)];
    ensure!(
        told.iter()
            .map(|(name, deleted)| (name.as_str(), *deleted))
            .eq(expected),
        "no flood: {told:?}"
    );
    Ok(())
}

async fn hanging(world: &mut World) -> Result<()> {
    let registry = world.registry(&[]).await?;
    let caller = world.caller(&registry, "nse")?;
    caller
        .registers::<NseRegistry>(endpoint("hanging", "hang"))
        .await?;
    world.control.signal_api(Signal::STOP)?;
    let done = is_read_only(&caller, "hang", "hanging").await;
    world.control.signal_api(Signal::CONT)?;
    done?;
    let is_told = async || caller.is_healthy(HEALTH).await.then_some(());
    eventually("health tells that it is back", is_told).await?;
    // What could not be answered in time may have been done all the same.
    let is_clean = async || {
        for name in ["hanging", "new"] {
            caller.unregisters::<NseRegistry>(name).await.ok()?;
        }
        caller.names("hang").await.ok()?.is_empty().then_some(())
    };
    eventually("nothing is left", is_clean).await
}

async fn without_etcd(world: &mut World) -> Result<()> {
    let registry = world.registry(&[]).await?;
    let caller = world.caller(&registry, "nse")?;
    caller.registers::<NseRegistry>(endpoint("etcd", "etcd")).await?;
    world.control.kill_etcd()?;
    let refused = async || {
        caller
            .registers::<NseRegistry>(endpoint("new", "etcd"))
            .await
            .err()
    };
    let refused = eventually("a new endpoint is refused", refused).await?;
    ensure!(refused.code() == Code::Unavailable, "{refused}");
    ensure!(caller.names("etcd").await? == ["etcd"], "what was known is found");
    world.control.start_etcd()?;
    let written = async || {
        caller
            .registers::<NseRegistry>(endpoint("z-new", "etcd"))
            .await
            .ok()
    };
    eventually("what is new is written again", written).await?;
    for name in ["etcd", "z-new", "new"] {
        let gone = async || caller.unregisters::<NseRegistry>(name).await.ok();
        eventually("it is unregistered", gone).await?;
    }
    caller.sees("etcd", &[]).await
}

async fn forgetful(world: &mut World) -> Result<()> {
    let registry = world.registry(&[]).await?;
    let caller = world.caller(&registry, "nse")?;
    for name in ["same", "gone"] {
        caller.registers::<NseRegistry>(endpoint(name, "410")).await?;
    }
    caller.sees("410", &["gone", "same"]).await?;
    let mut watch = caller.opens::<NseRegistry>(offering("410"), true).await?;
    for _ in 0..2 {
        ensure!(!next::<NseRegistry>(&mut watch).await?.1, "it is told");
    }
    // While its API server is away everything changes through another one, so that its own begins to remember later.
    let (aside, client) = world.control.aside().await?;
    world.control.kill_api()?;
    let objects = world.objects_by(&client, NSE, HOME);
    objects.delete("gone", &DeleteParams::default()).await?;
    let mut come = objects.get("same").await?;
    come.metadata = ObjectMeta {
        name: Some("come".into()),
        ..ObjectMeta::default()
    };
    come.data["spec"]["name"] = "come".into();
    objects.create(&PostParams::default(), &come).await?;
    world.control.start_api().await?;
    drop(aside);
    caller.sees("410", &["come", "same"]).await?;
    let mut told = Vec::new();
    while told.len() < 2 {
        let (entry, deleted) = next::<NseRegistry>(&mut watch).await?;
        told.push((entry.name, deleted));
    }
    told.sort();
    ensure!(
        told == [("come".to_string(), false), ("gone".to_string(), true)],
        "only what differs: {told:?}"
    );
    ensure!(
        registry.program.printed().contains("remembers too little"),
        "that was what happened"
    );
    for name in ["come", "same"] {
        caller.unregisters::<NseRegistry>(name).await?;
    }
    Ok(())
}

async fn early(world: &mut World) -> Result<()> {
    world.control.kill_api()?;
    let starting = tokio::time::timeout(Duration::from_secs(3), world.registry(&[])).await;
    ensure!(starting.is_err(), "it serves before it knows anything");
    world.control.start_api().await?;
    let mut registry = world.registry(&[]).await?;
    let caller = world.caller(&registry, "nse")?;
    let mut watch = caller.opens::<NseRegistry>(offering("early"), true).await?;
    caller
        .registers::<NseRegistry>(endpoint("early", "early"))
        .await?;
    ensure!(!next::<NseRegistry>(&mut watch).await?.1, "it is told");
    signal_to(&registry.program, Signal::TERM)?;
    let until = Instant::now() + TO_START;
    let status = loop {
        if let Some(status) = registry.program.ended()? {
            break status;
        }
        ensure!(
            Instant::now() < until,
            "it does not end: {}",
            registry.program.printed()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    ensure!(status.success(), "{status}: {}", registry.program.printed());
    ensure!(
        world.stored(NSE, "early").await?.is_some(),
        "what is registered outlives it"
    );
    let again = world.registry(&[]).await?;
    let caller = world.caller(&again, "nse")?;
    ensure!(
        caller.names("early").await? == ["early"],
        "and is found by the next"
    );
    caller.unregisters::<NseRegistry>("early").await?;
    Ok(())
}
