// SPDX-License-Identifier: Apache-2.0
//! What does not mix, and what those are told who try.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Client, Program};
use tokio::time::Instant;

use crate::Bench;
use crate::apart::{Apart, on_two_nodes};
use crate::caller::{ID, told};
use crate::mesh::{Mesh, PATIENCE, SERVICE, client};
use crate::mix::Mix;

/// How long a refusal may take that needs no waiting.
const SOON: Duration = Duration::from_secs(5);

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let mut trials = vec![bench.test(
        "a_client_that_loses_descriptors_is_told_which_never_came",
        Mix::named("go_client"),
        no_descriptor,
    )];
    for (name, theirs) in [
        (
            "our_forwarder_and_one_without_its_tunnels_refuse",
            "go_forwarder2",
        ),
        ("a_forwarder_without_our_tunnels_is_refused", "go_forwarder1"),
    ] {
        trials.push(bench.trial(name, async move |bench| {
            on_two_nodes(bench, theirs, "IP", no_tunnel).await
        }));
    }
    trials
}

/// Programs of theirs lose descriptors when they log less than they do by themselves.
async fn no_descriptor(mesh: &mut Mesh) -> Result<()> {
    let variables = [("NSM_LOG_LEVEL", "WARN".to_string())];
    let mut program = client(&mesh.node, &mesh.near, &variables)?;
    let until = Instant::now() + PATIENCE;
    // Its own deadline may end before the answer comes that says why; then it asks again.
    let is_told = async |program: &Program| {
        let refused = told(program, "refused");
        let words = "timeout in recvfd waiting for inode://";
        refused
            .iter()
            .any(|line| line.to_string().contains(words))
            .then_some(())
    };
    program
        .wait_for("it was told which file never came", until, is_told)
        .await?;
    program.kill()
}

/// IP goes by WireGuard between our forwarders, which theirs do not have here.
async fn no_tunnel(apart: &mut Apart) -> Result<()> {
    let client = Client::new(&apart.first, "nsc", apart.near.path())?;
    let began = Instant::now();
    let refused = client
        .attach(ID, SERVICE)
        .await
        .err()
        .context("it was not refused")?;
    let words = "cannot support any of the requested mechanism";
    ensure!(format!("{refused:#}").contains(words), "it was told {refused:#}");
    ensure!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    client.end().await;
    Ok(())
}
