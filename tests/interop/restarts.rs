// SPDX-License-Identifier: Apache-2.0
//! Two nodes of ours, of theirs, and mixed ones, whose programs die and come back under a client that heals.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use nsm::mesh::Program;

use crate::Bench;
use crate::apart::{Apart, on_two_nodes, theirs};
use crate::caller::ID;
use crate::life::pings_pass;
use crate::mesh::{choose, client, is_as, is_up, registers, stops};
use crate::mix::Hop;

/// Which managers and forwarders are theirs.
const MIXES: [&str; 6] = [
    "restarts_go_nobody",
    "restarts_go_nsmgr1_forwarder1",
    "restarts_go_nsmgr2_forwarder2",
    "restarts_go_nsmgr1_nsmgr2",
    "restarts_go_forwarder1_forwarder2",
    "restarts_go_nsmgr1_forwarder1_nsmgr2_forwarder2",
];

/// What is killed, and on which node.
#[derive(Clone, Copy)]
pub(crate) struct Victim(Hop, u8);

pub(crate) const VICTIMS: [Victim; 6] = [
    Victim(Hop::Registry, 1),
    Victim(Hop::Nsmgr, 1),
    Victim(Hop::Forwarder, 1),
    Victim(Hop::Nsmgr, 2),
    Victim(Hop::Forwarder, 2),
    Victim(Hop::Endpoint, 2),
];

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let test = |name: &'static str| {
        bench.trial(name, async move |bench| {
            on_two_nodes(bench, name, "ETHERNET", async |apart| restarts(apart, name).await).await
        })
    };
    MIXES.map(test).into()
}

async fn restarts(apart: &mut Apart, name: &str) -> Result<()> {
    let client = client(&apart.first, &apart.near, &[])?;
    carries_apart(apart).await.context("at first")?;
    for victim in VICTIMS {
        let after = || format!("after a restart of the {victim}");
        dies_and_comes_back(apart, name, victim)
            .await
            .with_context(after)?;
        carries_apart(apart).await.with_context(after)?;
        let all = ["forwarder", "forwarder-2", "nse"];
        registers(&apart.first, &all).await.with_context(after)?;
    }
    stops(client).await?;
    is_as(&apart.before).await
}

/// Kills a program, and starts one of its kind in its place.
async fn dies_and_comes_back(apart: &mut Apart, name: &str, victim: Victim) -> Result<()> {
    let [nsmgr1, forwarder1, nsmgr2, forwarder2] = theirs(name);
    let (nsmgr, forwarder) = match victim.1 {
        1 => (nsmgr1, forwarder1),
        _ => (nsmgr2, forwarder2),
    };
    take(apart, victim)?.kill()?;
    let files = apart.first.programs_folder();
    choose(files, Hop::Nsmgr, nsmgr)?;
    choose(files, Hop::Forwarder, forwarder)?;
    start(apart, victim, "ETHERNET").await
}

/// Takes a program out, to be ended.
pub(crate) fn take(apart: &mut Apart, Victim(hop, number): Victim) -> Result<Program> {
    let node = match number {
        1 => &mut apart.first,
        _ => &mut apart.second,
    };
    let program = match hop {
        Hop::Nsmgr => node.nsmgr.take(),
        Hop::Forwarder => node.forwarder.take(),
        Hop::Endpoint => apart.endpoint.take(),
        _ => node.registry.take(),
    };
    program.context("there is nothing to end")
}

/// Starts what was taken out.
pub(crate) async fn start(apart: &mut Apart, Victim(hop, number): Victim, payload: &str) -> Result<()> {
    let node = match number {
        1 => &mut apart.first,
        _ => &mut apart.second,
    };
    match hop {
        Hop::Nsmgr => node.start_nsmgr().await.map(drop),
        Hop::Forwarder => node.start_forwarder().await.map(drop),
        Hop::Endpoint => {
            let variables = [("NSM_PAYLOAD", payload.to_string())];
            let (endpoint, _) = node.start_endpoint("nse", &apart.far, &variables).await?;
            apart.endpoint = Some(endpoint);
            Ok(())
        }
        _ => node.start_registry().await.map(drop),
    }
}

/// From now on every program is theirs, or ours, when it is started.
pub(crate) fn choose_all(files: &Path, is_theirs: bool) -> Result<()> {
    Hop::ALL
        .into_iter()
        .try_for_each(|hop| choose(files, hop, is_theirs))
}

/// Waits until the wire is up for all and carries pings.
pub(crate) async fn carries_apart(apart: &Apart) -> Result<()> {
    let programs = ["nsm", "forwarder", "nsm-2", "forwarder-2", "nse"].map(|program| (program, false));
    let known = is_up(&apart.first, &apart.near, &programs, ID).await?;
    pings_pass(&apart.near, &apart.far, &known).await
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(hop, number) = self;
        write!(f, "{} of node {number}", hop.name())
    }
}
