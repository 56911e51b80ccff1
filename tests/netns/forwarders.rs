// SPDX-License-Identifier: Apache-2.0
//! A node with two forwarders, of which one dies.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Client, Pinger, Program};
use nsm_api::connection::PathSegment;
use tokio::time::Instant;

use crate::Bench;
use crate::world::{PATIENCE, World, index, links, prints, same, says, stops};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![bench.test(
        "c59_when_a_forwarder_dies_the_other_takes_its_wires_over",
        other_takes_over,
    )]
}

/// Starts the other forwarder, whose interfaces have a mark of their own. Its identity is that of the first, as that of
/// pods with one service account is: a hop is replaced by one of its kind only.
async fn start_other(world: &World) -> Result<Program> {
    let name = "forwarder-b";
    let (state, identity) = (
        world.node.folder().join(name),
        world.node.folder().join("identity/forwarder.sock"),
    );
    let variables = [
        ("NSM_LISTEN_ON", world.node.url(name)),
        ("NSM_CONNECT_TO", world.nsmgr()),
        ("NSM_STATE_DIR", state.display().to_string()),
        ("NSM_LINK_GROUP", "77".to_string()),
        ("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", identity.display())),
    ];
    let mut program = world.node.launch(name, "forwarder", None, &variables)?;
    says(&mut program, "INFO ready").await?;
    Ok(program)
}

/// The path of the client's connection as the manager knows it.
async fn path(client: &Client) -> Result<Vec<PathSegment>> {
    let known = client.look("nsc-0").await?.context("it is not known")?;
    Ok(known.path.context("it has no path")?.path_segments)
}

async fn other_takes_over(world: &mut World) -> Result<()> {
    let mut nsc = world.nsc(
        "kernel://icmp-responder/nsm-1",
        &[("NSM_LIVENESS_CHECK_ENABLED", "false")],
    )?;
    says(&mut nsc, "INFO ready").await?;
    let client = world.quiet()?;
    let before = path(&client).await?;
    let other = start_other(world).await?;
    world.node.forwarder.take().context("no forwarder")?.kill()?;
    says(&mut nsc, "healed_ms").await?;
    let now = path(&client).await?;
    same("the forwarder", now[2].name.as_str(), "forwarder-b")?;
    same(
        "the endpoint's segment",
        (&now[3].name, &now[3].id),
        (&before[3].name, &before[3].id),
    )?;
    carries(world)?;
    // The first one comes back, and leaves alone what is the other's now.
    let wire = index(&world.near, "nsm-1")?;
    world.node.start_forwarder().await?;
    same("the wire", index(&world.near, "nsm-1")?, wire)?;
    carries(world)?;
    stops(nsc).await?;
    same("wires of the endpoint", links(&world.far)?.len(), 0)?;
    client.end().await;
    stops(other).await?;
    world.clean().await
}

/// Checks that the only wire carries pings.
fn carries(world: &World) -> Result<()> {
    same("wires of the client", links(&world.near)?.len(), 1)?;
    same("wires of the endpoint", links(&world.far)?.len(), 1)?;
    let route = prints(&world.near, "ip", &["-4", "route", "show", "dev", "nsm-1"])?;
    let to = route.split([' ', '/']).next().context("no route")?;
    let to: Ipv4Addr = to.parse().with_context(|| format!("the route is {route}"))?;
    let took = Pinger::new(world.near.path())?.once(to, 1, Instant::now() + PATIENCE)?;
    ensure!(took < PATIENCE, "the ping took {took:?}");
    Ok(())
}
