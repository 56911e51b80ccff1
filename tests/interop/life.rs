// SPDX-License-Identifier: Apache-2.0
//! Every mixture of our programs and theirs on one node while time passes: identities are renewed, and programs die and
//! come back, under a client program that heals.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use nsm::mesh::{Pod, Program};
use nsm_api::connection::Connection;

use crate::Bench;
use crate::caller::{Granted, ID};
use crate::matrix::carries_to;
use crate::mesh::{Mesh, PATIENCE, stops, wait_for};
use crate::mix::{Hop, Mix};
use crate::table::Table;

/// How long an identity is valid here; it is renewed at half of that.
pub(crate) const SVID_LIFETIME: Duration = Duration::from_secs(20);

/// Which programs are theirs.
const MIXES: [&str; 32] = [
    "lives_go_nobody",
    "lives_go_client",
    "lives_go_nsmgr",
    "lives_go_client_nsmgr",
    "lives_go_forwarder",
    "lives_go_client_forwarder",
    "lives_go_nsmgr_forwarder",
    "lives_go_client_nsmgr_forwarder",
    "lives_go_registry",
    "lives_go_client_registry",
    "lives_go_nsmgr_registry",
    "lives_go_client_nsmgr_registry",
    "lives_go_forwarder_registry",
    "lives_go_client_forwarder_registry",
    "lives_go_nsmgr_forwarder_registry",
    "lives_go_client_nsmgr_forwarder_registry",
    "lives_go_endpoint",
    "lives_go_client_endpoint",
    "lives_go_nsmgr_endpoint",
    "lives_go_client_nsmgr_endpoint",
    "lives_go_forwarder_endpoint",
    "lives_go_client_forwarder_endpoint",
    "lives_go_nsmgr_forwarder_endpoint",
    "lives_go_client_nsmgr_forwarder_endpoint",
    "lives_go_registry_endpoint",
    "lives_go_client_registry_endpoint",
    "lives_go_nsmgr_registry_endpoint",
    "lives_go_client_nsmgr_registry_endpoint",
    "lives_go_forwarder_registry_endpoint",
    "lives_go_client_forwarder_registry_endpoint",
    "lives_go_nsmgr_forwarder_registry_endpoint",
    "lives_go_client_nsmgr_forwarder_registry_endpoint",
];

pub(crate) fn lives(bench: &Bench) -> Vec<Trial> {
    let row = |table: &mut Table, name: &str| table.lives_on(name, Mix::named(name));
    let test = |name: &'static str| {
        bench.beside(name, row, async move |bench| {
            bench.on_its_own(Mix::named(name), SVID_LIFETIME, lives_on).await
        })
    };
    MIXES.map(test).into()
}

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let test = |(name, mix)| bench.alone(name, mix, Duration::from_secs(3600), replaced);
    let tests = [
        (
            "each_program_is_replaced_by_theirs_and_back_under_our_client",
            Mix::default(),
        ),
        (
            "each_program_is_replaced_by_theirs_and_back_under_their_client",
            Mix::named("go_client"),
        ),
    ];
    tests.map(test).into()
}

/// Replaces each program by theirs, and back, under a client that keeps its wire.
pub(crate) async fn replaced(mesh: &mut Mesh) -> Result<()> {
    let client = mesh.client()?;
    carries(mesh, "nse", &mesh.far).await.context("at first")?;
    for is_go in [true, false] {
        for hop in [Hop::Registry, Hop::Nsmgr, Hop::Forwarder, Hop::Endpoint] {
            let after = || {
                format!(
                    "after the {} was replaced by {}",
                    hop.name(),
                    if is_go { "theirs" } else { "ours" }
                )
            };
            mesh.replace(hop, is_go).await.with_context(after)?;
            carries(mesh, "nse", &mesh.far).await.with_context(after)?;
            mesh.registers(&["forwarder", "nse"]).await.with_context(after)?;
        }
    }
    stops(client).await?;
    mesh.clean().await
}

async fn lives_on(mesh: &mut Mesh) -> Result<()> {
    let began = mesh.node.component().now();
    let client = mesh.client()?;
    carries(mesh, "nse", &mesh.far).await.context("at first")?;
    for hop in [Hop::Registry, Hop::Nsmgr, Hop::Forwarder, Hop::Endpoint] {
        let after = || format!("after a restart of the {}", hop.name());
        mesh.restart(hop).await.with_context(after)?;
        carries(mesh, "nse", &mesh.far).await.with_context(after)?;
        mesh.registers(&["forwarder", "nse"]).await.with_context(after)?;
    }
    endpoint_dies(mesh).await.context("when the endpoint died")?;
    let known = async || mesh.is_up(ID, "nse").await;
    renewed(began + SVID_LIFETIME, known)
        .await
        .context("after identities were renewed")?;
    carries(mesh, "nse", &mesh.far).await.context("in the end")?;
    stops(client).await?;
    mesh.clean().await
}

/// Waits until the wire to `endpoint` in `far` is up for all and carries pings.
pub(crate) async fn carries(mesh: &Mesh, endpoint: &str, far: &Pod) -> Result<Connection> {
    let known = mesh.is_up(ID, endpoint).await?;
    pings_pass(&mesh.near, far, &known).await?;
    Ok(known)
}

/// Waits until pings pass both ways over this connection.
pub(crate) async fn pings_pass(near: &Pod, far: &Pod, known: &Connection) -> Result<()> {
    let granted = Granted::of(known)?;
    let mut last = None;
    let done = wait_for(PATIENCE, "pings come back", async || {
        let carried = carries_to(near, far, &granted);
        Ok(carried.map_err(|error| last = Some(error)).ok())
    });
    done.await.map(drop).map_err(|error| last.unwrap_or(error))
}

/// Waits until each program on the way has given a token that lives longer than all that there were, which ended at
/// `last`: it can only have made that with an identity that was renewed. `known` looks at the connection.
pub(crate) async fn renewed(last: SystemTime, known: impl AsyncFn() -> Result<Connection>) -> Result<()> {
    let latest = last + Duration::from_secs(1);
    wait_for(2 * PATIENCE, "all tokens are newer", async || {
        let path = known().await?.path.context("it has no path")?;
        let is_new = |expires: Option<_>| {
            expires.is_some_and(|expires| SystemTime::try_from(expires).is_ok_and(|at| at > latest))
        };
        let mut segments = path.path_segments.into_iter();
        Ok(segments.all(|segment| is_new(segment.expires)).then_some(()))
    })
    .await
}

/// Has another endpoint in a pod of its own, lets the first one die with its end of the wire, and waits until the
/// client is with the other one; then the other one ends in order, and the client is with the first one again.
async fn endpoint_dies(mesh: &mut Mesh) -> Result<()> {
    let pod = Pod::new("far-2")?;
    // The service belongs to the one that has registered it.
    let variables = [("NSM_REGISTER_SERVICE", "false".to_string())];
    let (other, _): (Program, _) = mesh.node.start_endpoint("nse-2", &pod, &variables).await?;
    mesh.registers(&["forwarder", "nse", "nse-2"]).await?;
    mesh.endpoint.take().context("there is no endpoint")?.kill()?;
    unplug(&mesh.far).await?;
    carries(mesh, "nse-2", &pod)
        .await
        .context("it should be with the other one")?;
    mesh.start_endpoint().await?;
    stops(other).await?;
    mesh.registers(&["forwarder", "nse"]).await?;
    unplug(&pod).await?;
    carries(mesh, "nse", &mesh.far)
        .await
        .context("it should be with the first one again")?;
    Ok(())
}

/// Removes all links from a pod, as its end would; the forwarder may be doing so already.
pub(crate) async fn unplug(pod: &Pod) -> Result<()> {
    wait_for(PATIENCE, "the pod has no links", async || {
        let links = pod.ip(&["link", "show"])?;
        let names = links.as_array().into_iter().flatten();
        let mut names = names.filter_map(|link| link["ifname"].as_str().filter(|name| *name != "lo"));
        let Some(name) = names.next() else {
            return Ok(Some(()));
        };
        let _it_may_be_gone = pod.command("ip").args(["link", "del", name]).output()?;
        Ok(None)
    })
    .await
}
