// SPDX-License-Identifier: Apache-2.0
//! Wires that come, stay and go.

use std::time::Duration;
use tokio::time::Instant;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::Attached;

use crate::Bench;
use crate::world::{PATIENCE, World, index, links, only_name, same};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("d7_the_first_ping_passes_within_10_ms", the_first_ping_passes),
        bench.test("d41_a_close_leaves_everything_as_it_was", a_close_leaves_nothing),
        bench.test(
            "d42_closing_twice_and_closing_the_unknown_succeeds",
            closing_twice,
        ),
        bench.test(
            "d42_closing_into_a_namespace_that_is_gone_succeeds",
            closing_into_nowhere,
        ),
        bench.test(
            "d31_a_refresh_without_a_change_writes_nothing",
            refreshing_writes_nothing,
        ),
        bench.test(
            "d34_an_interface_deleted_by_hand_is_back_after_a_refresh",
            a_deleted_interface_comes_back,
        ),
        bench.test("d46_fifty_interfaces_of_one_client", fifty_interfaces),
        bench.test("d46_two_hundred_connections_at_once", two_hundred_at_once),
        bench.test("two_requests_of_one_id_at_once_make_one_wire", one_id_at_once),
        bench.test("who_asks_again_by_an_id_and_no_path_gets_the_wire", one_id_of_two),
    ]
}

async fn the_first_ping_passes(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let mut least = Duration::MAX;
    for number in 0..5 {
        let attached = client
            .attach(&format!("d7-{number}"), "kernel://icmp-responder/nsm-1")
            .await?;
        least = least.min(attached.carried - attached.answered);
        client.close(attached.request).await?;
    }
    ensure!(
        least < Duration::from_millis(10),
        "the quickest first ping took {least:?}"
    );
    client.end().await;
    Ok(())
}

async fn a_close_leaves_nothing(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("d41-0", "kernel://icmp-responder/nsm-1").await?;
    let path = attached.request.connection.path.as_ref();
    ensure!(
        path.is_some_and(|path| path.path_segments.len() == 4),
        "the path is {path:?}"
    );
    same("the interface", only_name(&world.near)?, "nsm-1".to_string())?;
    client.close(attached.request).await?;
    world.clean().await?;
    same("what the manager knows", client.look("d41-0").await?, None)?;
    client.end().await;
    Ok(())
}

async fn closing_twice(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("d42-0", "kernel://icmp-responder/nsm-1").await?;
    client.close(attached.request.clone()).await?;
    client.close(attached.request.clone()).await?;
    // To the manager itself, past the client's own memory of it.
    let caller = world.caller("nsc").await?;
    caller.close(&world.nsmgr(), attached.request).await?;
    let unknown = caller.ask("nobody-has-asked-for-this", "kernel://icmp-responder")?;
    caller.close(&world.nsmgr(), unknown.clone()).await?;
    caller
        .close(&world.node.url("forwarder"), unknown.clone())
        .await?;
    caller.close(&world.node.url("nse"), unknown).await?;
    client.end().await;
    Ok(())
}

async fn closing_into_nowhere(world: &mut World) -> Result<()> {
    let pod = nsm::mesh::Pod::new("short")?;
    let client = nsm::mesh::Client::new(&world.node, "nsc", pod.path())?;
    let attached = client.attach("d42-gone", "kernel://icmp-responder/nsm-1").await?;
    drop(pod);
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn refreshing_writes_nothing(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let mut attached = client.attach("d31-0", "kernel://icmp-responder/nsm-1").await?;
    let before = (
        index(&world.near, "nsm-1")?,
        index(&world.far, &only_name(&world.far)?)?,
    );
    let log = world.node.folder().join("monitor.log");
    let mut monitor = world
        .near
        .command("ip")
        .args(["monitor", "link", "address", "route", "rule"])
        .stdout(std::fs::File::create(&log)?)
        .spawn()?;
    // The monitor has begun when it shows a change of ours.
    crate::world::wait_for(PATIENCE, "the monitor watches", async || {
        world
            .near
            .command("ip")
            .args(["link", "set", "lo", "mtu", "65535"])
            .status()?;
        world
            .near
            .command("ip")
            .args(["link", "set", "lo", "mtu", "65536"])
            .status()?;
        Ok((std::fs::metadata(&log)?.len() > 0).then_some(()))
    })
    .await?;
    for _ in 0..5 {
        attached = client.again(attached.request).await?;
    }
    let after = (
        index(&world.near, "nsm-1")?,
        index(&world.far, &only_name(&world.far)?)?,
    );
    monitor.kill()?;
    monitor.wait()?;
    let told = std::fs::read_to_string(&log)?;
    let about = told.lines().find(|line| line.contains("nsm-1"));
    same("what the kernel told about the wire", about, None)?;
    same("the indices", after, before)?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn a_deleted_interface_comes_back(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("d34-0", "kernel://icmp-responder/nsm-1").await?;
    let addresses = crate::world::addresses(&world.near, "nsm-1")?;
    let done = world.near.command("ip").args(["link", "del", "nsm-1"]).status()?;
    ensure!(done.success(), "the interface cannot be deleted");
    let attached = client.again(attached.request).await?;
    same(
        "the addresses",
        crate::world::addresses(&world.near, "nsm-1")?,
        addresses,
    )?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn fifty_interfaces(world: &mut World) -> Result<()> {
    let services: Vec<_> = (0..50).map(|number| format!("fifty-{number}")).collect();
    let endpoint = world.serve(&services.join(","), &[]).await?;
    let client = world.client()?;
    let asked = services.iter().enumerate().map(|(number, service)| {
        let url = format!("kernel://{service}/nsm-{number}");
        let client = &client;
        async move { client.attach(&format!("d46-{number}"), &url).await }
    });
    let attached: Vec<_> = futures::future::try_join_all(asked).await?;
    same("the interfaces of the client", links(&world.near)?.len(), 50)?;
    close_all(&client, attached).await?;
    client.end().await;
    crate::world::stops(endpoint).await
}

async fn two_hundred_at_once(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let began = Instant::now();
    let asked = (0..200).map(|number| {
        let client = &client;
        async move {
            let url = format!("kernel://icmp-responder/nsm-{number}");
            client.attach(&format!("many-{number}"), &url).await
        }
    });
    let attached: Vec<_> = futures::future::try_join_all(asked).await?;
    let took = began.elapsed();
    ensure!(took < PATIENCE, "two hundred connections took {took:?}");
    same("the interfaces of the client", links(&world.near)?.len(), 200)?;
    close_all(&client, attached).await?;
    client.end().await;
    Ok(())
}

async fn close_all(client: &nsm::mesh::Client, attached: Vec<Attached>) -> Result<()> {
    let closes = attached
        .into_iter()
        .map(|attached| client.close(attached.request));
    futures::future::try_join_all(closes).await.map(drop)
}

async fn one_id_at_once(world: &mut World) -> Result<()> {
    let client = world.quiet()?;
    let url = "kernel://icmp-responder/nsm-1";
    let (first, second) = tokio::join!(client.attach("same-0", url), client.attach("same-0", url));
    let (first, second) = (first.context("the first")?, second.context("the second")?);
    same("the interfaces of the client", links(&world.near)?.len(), 1)?;
    same("the interfaces of the endpoint", links(&world.far)?.len(), 1)?;
    let addresses = |attached: &Attached| attached.request.connection.ip_context().cloned();
    same("the addresses", addresses(&first), addresses(&second))?;
    client.close(first.request).await?;
    client.close(second.request).await?;
    client.end().await;
    Ok(())
}

async fn one_id_of_two(world: &mut World) -> Result<()> {
    let (one, other) = (world.client()?, world.client()?);
    let url = "kernel://icmp-responder/nsm-1";
    let first = one.attach("twice-0", url).await?;
    let second = other.attach("twice-0", url).await?;
    same("the interfaces of the client", links(&world.near)?.len(), 1)?;
    same("the interfaces of the endpoint", links(&world.far)?.len(), 1)?;
    one.close(first.request).await?;
    let second = other.again(second.request).await?;
    other.close(second.request).await?;
    one.end().await;
    other.end().await;
    Ok(())
}
