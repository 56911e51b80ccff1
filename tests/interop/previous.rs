// SPDX-License-Identifier: Apache-2.0
//! Programs of an earlier commit among ours, in the place of theirs, in every mixture, and each replaced by the other
//! kind under a client.
//!
//! `NSM_PREVIOUS_PROGRAMS` names the folder with them, as `cargo xtask test previous` builds them. With it these tests
//! are the only ones; without it they are not there.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm_api::connection::Connection;

use crate::Bench;
use crate::apart::{self, Apart, on_two_nodes};
use crate::life::{carries, replaced};
use crate::matrix::MIXES;
use crate::mesh::{Mesh, PATIENCE, client, is_as, registers, stops, wait_for};
use crate::mix::Mix;
use crate::restarts::{VICTIMS, carries_apart, choose_all, start, take};

/// Names the folder.
const PROGRAMS: &str = "NSM_PREVIOUS_PROGRAMS";

/// How long a token is valid that the client signs: it asks again after a third of that.
const TOKEN_LIFETIME: &str = "6s";

/// How long an identity is valid, which is longer than a test takes.
const SVID_LIFETIME: Duration = Duration::from_secs(3600);

/// All is ours at first.
const PAIR: &str = "previous_nobody";

/// Where the programs of the earlier commit are, if they take the place of those on the Go SDK.
pub(crate) fn folder() -> Option<PathBuf> {
    std::env::var_os(PROGRAMS).map(PathBuf::from)
}

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    if folder().is_none() {
        return Vec::new();
    }
    let named = |name: &&&str| **name != "go_nobody";
    let mixes = MIXES.iter().filter(named).map(|name| {
        let name = name.replacen("go", "previous", 1);
        let mix = Mix::named(&name);
        bench.test(name, mix, works)
    });
    let mut trials: Vec<_> = mixes.collect();
    for (name, mix) in [
        (
            "each_program_is_replaced_by_the_previous_and_back",
            Mix::default(),
        ),
        (
            "each_program_is_replaced_by_the_previous_and_back_under_a_previous_client",
            Mix::named("previous_client"),
        ),
    ] {
        trials.push(bench.alone(name, mix, SVID_LIFETIME, replaced));
    }
    for (tunnel, payload) in [("vxlan", "ETHERNET"), ("wireguard", "IP")] {
        let pairs = apart::PAIRS.iter().filter(|name| !name.ends_with("_nobody"));
        trials.extend(pairs.map(|name| {
            let name = name.replacen("vxlan_go", &format!("{tunnel}_previous"), 1);
            let pair = name.clone();
            bench.trial(name, async move |bench| {
                on_two_nodes(bench, &pair, payload, apart::works).await
            })
        }));
        let name = format!("each_program_of_two_nodes_is_replaced_and_back_under_{tunnel}");
        trials.push(bench.trial(name, async move |bench| {
            on_two_nodes(bench, PAIR, payload, async |apart| updated(apart, payload).await).await
        }));
    }
    trials
}

/// The client program gets a wire that carries pings, asks for it again, and closes it.
async fn works(mesh: &mut Mesh) -> Result<()> {
    let variables = [("NSM_MAX_TOKEN_LIFETIME", TOKEN_LIFETIME.to_string())];
    let client = client(&mesh.node, &mesh.near, &variables)?;
    let known = carries(mesh, "nse", &mesh.far).await?;
    let before = asked_until(&known)?;
    wait_for(PATIENCE, "the client has asked again", async || {
        let known = carries(mesh, "nse", &mesh.far).await?;
        Ok((asked_until(&known)? > before).then_some(()))
    })
    .await?;
    stops(client).await?;
    mesh.clean().await
}

/// Until when the client wants its wire.
fn asked_until(connection: &Connection) -> Result<SystemTime> {
    let path = connection.path.as_ref().context("it has no path")?;
    let first = path.path_segments.first().context("its path is empty")?;
    Ok(first.expires.context("it has no end")?.try_into()?)
}

/// Each program of two nodes is ended in order and replaced by the previous one, and then by ours again, under a client
/// that keeps its wire.
async fn updated(apart: &mut Apart, payload: &str) -> Result<()> {
    let client = client(&apart.first, &apart.near, &[])?;
    carries_apart(apart, PAIR, "nse", &apart.far)
        .await
        .context("at first")?;
    for is_previous in [true, false] {
        for victim in VICTIMS {
            let after = || format!("after the {victim} was replaced (by the previous one: {is_previous})");
            let ended = take(apart, victim)?.stop().await;
            // How those end that are there in the second round was judged when they were new.
            if is_previous {
                ensure!(ended.with_context(after)?.success(), "{victim} failed at its end");
            }
            choose_all(apart.first.programs_folder(), is_previous)?;
            start(apart, victim, payload).await.with_context(after)?;
            carries_apart(apart, PAIR, "nse", &apart.far)
                .await
                .with_context(after)?;
            let all = ["forwarder", "forwarder-2", "nse"];
            registers(&apart.first, &all).await.with_context(after)?;
        }
    }
    stops(client).await?;
    is_as(&apart.before).await
}
