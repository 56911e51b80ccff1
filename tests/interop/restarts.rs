// SPDX-License-Identifier: Apache-2.0
//! Every mixture of managers and forwarders of two nodes while time passes: identities are renewed, and programs die and
//! come back, under a client program that heals.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use nsm::mesh::{Pod, Program};
use nsm_api::connection::Connection;

use crate::Bench;
use crate::apart::{Apart, on_nodes, theirs};
use crate::caller::ID;
use crate::life::{SVID_LIFETIME, pings_pass, renewed, unplug};
use crate::mesh::{choose, client, is_as, is_up, registers, stops};
use crate::mix::Hop;
use crate::table::Table;

/// Which managers and forwarders are theirs.
const PAIRS: [&str; 16] = [
    "restarts_go_nobody",
    "restarts_go_nsmgr1",
    "restarts_go_forwarder1",
    "restarts_go_nsmgr1_forwarder1",
    "restarts_go_nsmgr2",
    "restarts_go_nsmgr1_nsmgr2",
    "restarts_go_forwarder1_nsmgr2",
    "restarts_go_nsmgr1_forwarder1_nsmgr2",
    "restarts_go_forwarder2",
    "restarts_go_nsmgr1_forwarder2",
    "restarts_go_forwarder1_forwarder2",
    "restarts_go_nsmgr1_forwarder1_forwarder2",
    "restarts_go_nsmgr2_forwarder2",
    "restarts_go_nsmgr1_nsmgr2_forwarder2",
    "restarts_go_forwarder1_nsmgr2_forwarder2",
    "restarts_go_nsmgr1_forwarder1_nsmgr2_forwarder2",
];

/// What the service carries.
const PAYLOAD: &str = "ETHERNET";

/// What is registered.
const ALL: [&str; 3] = ["forwarder", "forwarder-2", "nse"];

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
    let row = |table: &mut Table, name: &str| table.lives_on_apart(name, theirs(name));
    let test = |name: &'static str| {
        bench.beside(name, row, async move |bench| {
            let start = Apart::new(name, PAYLOAD, Some(SVID_LIFETIME));
            on_nodes(bench, Box::pin(start), async |apart| lives_on(apart, name).await).await
        })
    };
    PAIRS.map(test).into()
}

async fn lives_on(apart: &mut Apart, name: &str) -> Result<()> {
    let began = apart.first.component().now();
    let client = client(&apart.first, &apart.near, &[])?;
    carries_apart(apart, name, "nse", &apart.far)
        .await
        .context("at first")?;
    for victim in VICTIMS {
        let after = || format!("after a restart of the {victim}");
        dies_and_comes_back(apart, name, victim)
            .await
            .with_context(after)?;
        carries_apart(apart, name, "nse", &apart.far)
            .await
            .with_context(after)?;
        registers(&apart.first, &ALL).await.with_context(after)?;
    }
    endpoint_dies(apart, name)
        .await
        .context("when the endpoint died")?;
    renewed(began + SVID_LIFETIME, async || knows(apart, name, "nse").await)
        .await
        .context("after identities were renewed")?;
    carries_apart(apart, name, "nse", &apart.far)
        .await
        .context("in the end")?;
    stops(client).await?;
    is_as(&apart.before).await
}

/// Has another endpoint in a pod of its own, lets the first one die with its end of the wire, and waits until the
/// client is with the other one; then the other one ends in order, and the client is with the first one again.
async fn endpoint_dies(apart: &mut Apart, name: &str) -> Result<()> {
    let pod = Pod::new("far-2")?;
    let variables = [
        ("NSM_PAYLOAD", PAYLOAD.to_string()),
        ("NSM_REGISTER_SERVICE", "false".to_string()),
    ];
    let (other, _) = apart.second.start_endpoint("nse-2", &pod, &variables).await?;
    registers(&apart.first, &["forwarder", "forwarder-2", "nse", "nse-2"]).await?;
    let first = Victim(Hop::Endpoint, 2);
    take(apart, first)?.kill()?;
    unplug(&apart.far).await?;
    carries_apart(apart, name, "nse-2", &pod)
        .await
        .context("it should be with the other one")?;
    start(apart, first, PAYLOAD).await?;
    stops(other).await?;
    registers(&apart.first, &ALL).await?;
    unplug(&pod).await?;
    carries_apart(apart, name, "nse", &apart.far)
        .await
        .context("it should be with the first one again")
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
    start(apart, victim, PAYLOAD).await
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

/// Waits until the wire to `endpoint` in `far` is up for all and carries pings, with the managers and forwarders of the
/// test `name`.
pub(crate) async fn carries_apart(apart: &Apart, name: &str, endpoint: &str, far: &Pod) -> Result<()> {
    let known = knows(apart, name, endpoint).await?;
    pings_pass(&apart.near, far, &known).await
}

/// Waits until the wire to `endpoint` is up for all; answers with what the first manager knows.
async fn knows(apart: &Apart, name: &str, endpoint: &str) -> Result<Connection> {
    let [nsmgr1, forwarder1, nsmgr2, forwarder2] = theirs(name);
    let programs = [
        ("nsm", nsmgr1),
        ("forwarder", forwarder1),
        ("nsm-2", nsmgr2),
        ("forwarder-2", forwarder2),
        (endpoint, false),
    ];
    is_up(&apart.first, &apart.near, &programs, ID).await
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(hop, number) = self;
        write!(f, "{} of node {number}", hop.name())
    }
}
