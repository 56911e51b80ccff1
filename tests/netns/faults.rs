// SPDX-License-Identifier: Apache-2.0
//! Programs that are not there: who asks meanwhile is told which, and the mesh serves again when it is back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Attached, Client, Program};

use crate::Bench;
use crate::soak::{COUNTING, metrics};
use crate::world::{PATIENCE, World, index, links, only_link, prints, refused, same, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test(
            "programs_that_go_in_the_middle_of_a_request_leave_nothing",
            go_in_the_middle,
        ),
        bench.test("without_a_forwarder_requests_say_so", no_forwarder),
        bench.test(
            "with_a_forwarder_that_was_killed_requests_name_it",
            killed_forwarder,
        ),
        bench.alone_with(
            "a_forwarder_counts_what_one_that_was_killed_has_left",
            COUNTING,
            async |mut world| {
                counts_leftovers(&mut world).await?;
                world.end().await
            },
        ),
        bench.test(
            "with_an_endpoint_that_was_killed_requests_name_it",
            killed_endpoint,
        ),
        bench.test("without_a_manager_requests_say_so", no_manager),
        bench.test(
            "without_a_registry_wires_stay_and_it_is_filled_again",
            no_registry,
        ),
        bench.test(
            "an_endpoint_that_goes_under_a_wire_does_not_hinder_its_close",
            endpoint_goes,
        ),
        bench.test(
            "a_manager_short_of_descriptors_refuses_and_recovers",
            few_descriptors,
        ),
    ]
}

const URL: &str = "kernel://icmp-responder/nsm-1";

/// Asks until the mesh serves.
async fn attach_soon(client: &Client, id: &str) -> Result<Attached> {
    let mut last = None;
    let done = wait_for(PATIENCE, "a wire is made again", async || {
        match client.attach(id, URL).await {
            Ok(attached) => Ok(Some(attached)),
            Err(error) => {
                last = Some(error);
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(None)
            }
        }
    });
    done.await.with_context(|| format!("the last error was {last:?}"))
}

fn running(program: &mut Option<Program>) -> Result<Program> {
    program.take().context("the program does not run")
}

async fn no_forwarder(world: &mut World) -> Result<()> {
    stops(running(&mut world.node.forwarder)?).await?;
    let client = world.client()?;
    wait_for(PATIENCE, "the manager knows of no forwarder", async || {
        let done = client.attach("nof-0", URL).await;
        Ok(refused(done, "no-forwarder", &["nsmgr", "forwarder", "icmp-responder"]).ok())
    })
    .await?;
    world.node.start_forwarder().await?;
    let attached = attach_soon(&client, "nof-0").await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn killed_forwarder(world: &mut World) -> Result<()> {
    running(&mut world.node.forwarder)?.kill()?;
    let client = world.client()?;
    refused(
        client.attach("nof-1", URL).await,
        "peer-unreachable",
        &["nsmgr", "forwarder"],
    )?;
    world.node.start_forwarder().await?;
    let attached = attach_soon(&client, "nof-1").await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

/// What a program has removed of what its life before had left: half made, half removed, and unwanted.
async fn leftovers(program: &Program) -> Result<[Option<u64>; 3]> {
    let told = metrics(program).await?;
    Ok(["half-made", "half-removed", "unwanted"].map(|kind| {
        let start = format!("nsm_leftovers_removed_total{{kind=\"{kind}\"}} ");
        let mut told = told.lines().filter_map(|line| line.strip_prefix(&start));
        told.next().and_then(|told| told.parse().ok())
    }))
}

async fn counts_leftovers(world: &mut World) -> Result<()> {
    let forwarder = world.node.forwarder.as_ref().context("no forwarder")?;
    same("leftovers", leftovers(forwarder).await?, [Some(0); 3])?;
    let client = world.quiet()?;
    client.attach("kept", URL).await?;
    let (wire, mark) = (index(&world.near, "nsm-1")?, only_link(&world.near)?);
    let mark = mark["group"].as_str().context("it has no mark")?;
    running(&mut world.node.forwarder)?.kill()?;
    // As it leaves it when it dies before it has told the kernel all of an interface.
    let half = [
        "link", "add", "half", "group", mark, "type", "veth", "peer", "name", "other",
    ];
    prints(&world.near, "ip", &half)?;
    world.node.start_forwarder().await?;
    let forwarder = world.node.forwarder.as_ref().context("no forwarder")?;
    let removed = wait_for(PATIENCE, "what was left is removed", async || {
        Ok((links(&world.near)?.len() == 1).then_some(()))
    });
    removed.await?;
    same(
        "leftovers",
        leftovers(forwarder).await?,
        [Some(1), Some(0), Some(0)],
    )?;
    let attached = attach_soon(&client, "kept").await?;
    same("the wire", index(&world.near, "nsm-1")?, wire)?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn killed_endpoint(world: &mut World) -> Result<()> {
    running(&mut world.endpoint)?.kill()?;
    let client = world.client()?;
    refused(client.attach("noe-0", URL).await, "peer-unreachable", &["nse"])?;
    same("the client's interfaces", links(&world.near)?.len(), 0)?;
    world.start_endpoint().await?;
    let attached = attach_soon(&client, "noe-0").await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn no_manager(world: &mut World) -> Result<()> {
    running(&mut world.node.nsmgr)?.kill()?;
    let socket = world.node.folder().join("nsm.sock");
    ensure!(socket.exists(), "who is killed leaves its socket");
    let client = world.client()?;
    refused(
        client.attach("nom-0", URL).await,
        "peer-unreachable",
        &["nsm.sock"],
    )?;
    world.node.start_nsmgr().await?;
    let attached = attach_soon(&client, "nom-0").await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn no_registry(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("nor-0", URL).await?;
    let before = index(&world.near, "nsm-1")?;
    running(&mut world.node.registry)?.kill()?;
    let attached = client.again(attached.request).await?;
    same("the index", index(&world.near, "nsm-1")?, before)?;
    client.close(attached.request).await?;
    world.clean().await?;
    world.node.start_registry().await?;
    wait_for(PATIENCE, "everybody is registered again", async || {
        let all = world.endpoints().await?;
        let has = |name: &str| all.iter().any(|there| there.starts_with(name));
        Ok((has("nse") && has("forwarder")).then_some(()))
    })
    .await?;
    let attached = attach_soon(&client, "nor-1").await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn endpoint_goes(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("gone-0", URL).await?;
    running(&mut world.endpoint)?.kill()?;
    if let Err(error) = client.close(attached.request.clone()).await {
        ensure!(
            error.to_string().contains("errors during client close"),
            "{error:#}"
        );
    }
    world.clean().await?;
    client.close(attached.request).await?;
    client.end().await;
    world.start_endpoint().await
}

async fn few_descriptors(world: &mut World) -> Result<()> {
    let client = world.quiet()?;
    let first = client.attach("few-0", "kernel://icmp-responder/few-0").await?;
    let nsmgr = world.node.nsmgr.as_ref().context("the manager does not run")?;
    let pid = nsmgr.pid().to_string();
    let open: usize = nsmgr.descriptors()?.values().sum();
    let limit = |soft: usize| {
        let limit = format!("--nofile={soft}:");
        prints(&world.near, "prlimit", &["--pid", &pid, &limit])
    };
    limit(open + 4)?;
    let mut attached = vec![first];
    let mut refusals = 0;
    for number in 1..20 {
        let url = format!("kernel://icmp-responder/few-{number}");
        let id = format!("few-{number}");
        match tokio::time::timeout(PATIENCE, client.attach(&id, &url)).await? {
            Ok(done) => attached.push(done),
            Err(error) => {
                let error = error.to_string();
                let known = ["descriptor", "open files", "deadline"];
                ensure!(known.iter().any(|word| error.contains(word)), "{error}");
                refusals += 1;
                if refusals == 2 {
                    break;
                }
            }
        }
    }
    ensure!(refusals > 0, "the limit is not felt");
    limit(1024)?;
    let last = attach_soon(&client, "few-last").await?;
    attached.push(last);
    for attached in attached {
        client.close(attached.request).await?;
    }
    client.end().await;
    Ok(())
}

async fn go_in_the_middle(world: &mut World) -> Result<()> {
    for number in 0..6_u64 {
        let client = world.client()?;
        let id = format!("middle-{number}");
        let victim = match number % 3 {
            0 => running(&mut world.node.forwarder)?,
            1 => running(&mut world.endpoint)?,
            _ => running(&mut world.node.nsmgr)?,
        };
        let name = victim.name().to_string();
        let killing = async {
            tokio::time::sleep(Duration::from_millis(2 + 3 * number)).await;
            victim.kill()
        };
        let (done, killed) = tokio::join!(client.attach(&id, URL), killing);
        killed?;
        match name.as_str() {
            "forwarder" => drop(world.node.start_forwarder().await?),
            "nse" => world.start_endpoint().await?,
            _ => drop(world.node.start_nsmgr().await?),
        }
        let attached = match done {
            Ok(attached) if name != "nsmgr" => attached,
            // A manager knows of no connection of its life before until that is asked for again.
            _ => attach_soon(&client, &id).await?,
        };
        client.close(attached.request).await?;
        client.end().await;
        world
            .clean_within(PATIENCE)
            .await
            .with_context(|| format!("{name} was killed"))?;
    }
    Ok(())
}
