// SPDX-License-Identifier: Apache-2.0
//! What dies under a wire that is in use, and for how long no ping is answered until a client of either kind has mended
//! it. What dies is ours or theirs; all else is ours.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Pod, Program};

use crate::Bench;
use crate::caller::{Granted, ID};
use crate::life::carries;
use crate::matrix::carries_to;
use crate::mesh::{Mesh, PATIENCE, stops, wait_for};
use crate::mix::{Hop, Mix};
use crate::outage::Outage;

/// Where the addresses of a wire are from: both endpoints give the same.
const PREFIX: &str = "172.16.0.0/16";

/// How many pings pass while a program is away over whose wire nothing has to change: two seconds of them.
const MEANWHILE: usize = 200;

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Manager,
    Forwarder,
    Endpoint,
    /// The endpoint lives, and its end of the wire is down.
    Wire,
    ManagerAndEndpoint,
    ForwarderAndEndpoint,
}

impl Loss {
    /// The programs that die, which are of one kind.
    fn hops(self) -> &'static [Hop] {
        match self {
            Self::Manager => &[Hop::Nsmgr],
            Self::Forwarder => &[Hop::Forwarder],
            Self::Endpoint | Self::Wire => &[Hop::Endpoint],
            Self::ManagerAndEndpoint => &[Hop::Nsmgr, Hop::Endpoint],
            Self::ForwarderAndEndpoint => &[Hop::Forwarder, Hop::Endpoint],
        }
    }

    /// What it is called in the document.
    fn name(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Forwarder => "forwarder",
            Self::Endpoint => "endpoint",
            Self::Wire => "endpoint's end of the wire",
            Self::ManagerAndEndpoint => "manager and endpoint",
            Self::ForwarderAndEndpoint => "forwarder and endpoint",
        }
    }

    /// Whether the wire has to move to another endpoint.
    fn moves(self) -> bool {
        !matches!(self, Self::Manager | Self::Forwarder)
    }
}

/// What is lost, whether it is theirs, and whether the client is.
#[derive(Clone, Copy)]
struct Case {
    loss: Loss,
    is_go: bool,
    client_is_go: bool,
}

impl Case {
    fn mix(self) -> Mix {
        let hops = self.loss.hops().iter().copied().filter(|_| self.is_go);
        let client = self.client_is_go.then_some(Hop::Client);
        hops.chain(client).fold(Mix::default(), Mix::turned)
    }
}

/// By what is theirs, so that meshes are used again.
const CASES: [(&str, Loss, bool, bool); 24] = [
    ("our_client_heals_our_manager", Loss::Manager, false, false),
    ("our_client_heals_our_forwarder", Loss::Forwarder, false, false),
    ("our_client_heals_our_endpoint", Loss::Endpoint, false, false),
    (
        "our_client_heals_the_wire_to_our_endpoint",
        Loss::Wire,
        false,
        false,
    ),
    (
        "our_client_heals_our_manager_and_endpoint",
        Loss::ManagerAndEndpoint,
        false,
        false,
    ),
    (
        "our_client_heals_our_forwarder_and_endpoint",
        Loss::ForwarderAndEndpoint,
        false,
        false,
    ),
    ("their_client_heals_our_manager", Loss::Manager, false, true),
    ("their_client_heals_our_forwarder", Loss::Forwarder, false, true),
    ("their_client_heals_our_endpoint", Loss::Endpoint, false, true),
    (
        "their_client_heals_the_wire_to_our_endpoint",
        Loss::Wire,
        false,
        true,
    ),
    (
        "their_client_heals_our_manager_and_endpoint",
        Loss::ManagerAndEndpoint,
        false,
        true,
    ),
    (
        "their_client_heals_our_forwarder_and_endpoint",
        Loss::ForwarderAndEndpoint,
        false,
        true,
    ),
    ("our_client_heals_their_manager", Loss::Manager, true, false),
    ("their_client_heals_their_manager", Loss::Manager, true, true),
    ("our_client_heals_their_forwarder", Loss::Forwarder, true, false),
    ("their_client_heals_their_forwarder", Loss::Forwarder, true, true),
    ("our_client_heals_their_endpoint", Loss::Endpoint, true, false),
    (
        "our_client_heals_the_wire_to_their_endpoint",
        Loss::Wire,
        true,
        false,
    ),
    ("their_client_heals_their_endpoint", Loss::Endpoint, true, true),
    (
        "their_client_heals_the_wire_to_their_endpoint",
        Loss::Wire,
        true,
        true,
    ),
    (
        "our_client_heals_their_manager_and_endpoint",
        Loss::ManagerAndEndpoint,
        true,
        false,
    ),
    (
        "their_client_heals_their_manager_and_endpoint",
        Loss::ManagerAndEndpoint,
        true,
        true,
    ),
    (
        "our_client_heals_their_forwarder_and_endpoint",
        Loss::ForwarderAndEndpoint,
        true,
        false,
    ),
    (
        "their_client_heals_their_forwarder_and_endpoint",
        Loss::ForwarderAndEndpoint,
        true,
        true,
    ),
];

/// Whose the programs are at which is closed while the registry is dead, and whose the client is. Where all is theirs
/// the close may fail: that is theirs, too.
const CLOSES: [(&str, bool, bool); 3] = [
    ("without_a_registry_our_client_closes_at_ours", false, false),
    ("without_a_registry_their_client_closes_at_ours", false, true),
    ("without_a_registry_our_client_closes_at_theirs", true, false),
];

/// How often their manager may lose its forwarder: while that one tries to register again, its socket is passed anew
/// each second, and a close that comes in between is sent to the one before.
const TRIES: usize = 5;

/// What our client says when its manager could not close.
const UNCLOSED: &str = "not closed; it goes when its tokens expire";

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let heals = CASES.map(|(name, loss, is_go, client_is_go)| {
        let case = Case {
            loss,
            is_go,
            client_is_go,
        };
        bench.trial(name, async move |bench| {
            let mut silence = Duration::ZERO;
            let run = async |mesh: &mut Mesh| -> Result<()> {
                silence = heals(mesh, case).await?;
                Ok(())
            };
            bench.on(case.mix(), run).await?;
            println!("{name}: no ping was answered for {silence:?}");
            let mut table = bench.table.lock().await;
            table.healed(name, [client_is_go, is_go], loss.name(), silence);
            Ok(())
        })
    });
    let closes = CLOSES.map(|(name, is_go, client_is_go)| {
        let theirs = [Hop::Registry, Hop::Nsmgr, Hop::Forwarder, Hop::Endpoint];
        let theirs = theirs.into_iter().filter(|_| is_go);
        let mix = theirs
            .chain(client_is_go.then_some(Hop::Client))
            .fold(Mix::default(), Mix::turned);
        bench.trial(name, async move |bench| {
            for _ in 0..TRIES {
                match bench.on(mix, closes).await {
                    Err(error) if is_go && format!("{error:#}").contains(UNCLOSED) => {
                        println!("{name}: once more: {error:#}")
                    }
                    done => return done,
                }
            }
            bail!("their manager has lost its forwarder {TRIES} times")
        })
    });
    heals.into_iter().chain(closes).collect()
}

/// Answers for how long no ping was answered.
async fn heals(mesh: &mut Mesh, case: Case) -> Result<Duration> {
    let client = mesh.client()?;
    carries(mesh, "nse", &mesh.far).await.context("at first")?;
    let silence = if case.loss.moves() {
        let (other, pod) = other(mesh).await?;
        let silence = moves(mesh, case.loss, &pod).await?;
        stops(client).await?;
        stops(other).await?;
        if case.loss != Loss::Wire {
            mesh.start_endpoint().await?;
        }
        silence
    } else {
        let silence = stays(mesh, case).await?;
        stops(client).await?;
        silence
    };
    mesh.registers(&["forwarder", "nse"]).await?;
    mesh.clean().await?;
    Ok(silence)
}

/// A program in the middle dies, and its wire does not: it is neither left nor, under a manager, touched.
async fn stays(mesh: &mut Mesh, case: Case) -> Result<Duration> {
    let known = mesh.is_up(ID, "nse").await?;
    let granted = Granted::of(&known)?;
    let links = carries_to(&mesh.near, &mesh.far, &granted)?;
    let outage = Outage::watch(&mesh.near)?;
    let hop = *case.loss.hops().first().context("nobody dies")?;
    mesh.take(hop)?.kill()?;
    let before = outage.answered();
    wait_for(PATIENCE, "pings pass meanwhile", async || {
        Ok((outage.answered() >= before + MEANWHILE).then_some(()))
    })
    .await?;
    mesh.start(hop).await?;
    carries(mesh, "nse", &mesh.far)
        .await
        .context("after it is back")?;
    mesh.registers(&["forwarder", "nse"]).await?;
    let silence = outage.end()?;
    let now = carries_to(&mesh.near, &mesh.far, &granted)?;
    let is_kept = case.loss == Loss::Manager || !case.is_go;
    ensure!(
        !is_kept || now == links,
        "the wire was made anew: {links:?}, {now:?}"
    );
    Ok(silence)
}

/// Another endpoint, which gives the same addresses.
async fn other(mesh: &Mesh) -> Result<(Program, Pod)> {
    let pod = Pod::new("far-2")?;
    let variables = [
        // The service belongs to the one that has registered it.
        ("NSM_REGISTER_SERVICE", "false".to_string()),
        ("NSM_CIDR_PREFIX", PREFIX.to_string()),
    ];
    let (program, _) = mesh.node.start_endpoint("nse-2", &pod, &variables).await?;
    mesh.registers(&["forwarder", "nse", "nse-2"]).await?;
    Ok((program, pod))
}

/// The wire to the first endpoint is lost, and leads to the one in `pod` then.
async fn moves(mesh: &mut Mesh, loss: Loss, pod: &Pod) -> Result<Duration> {
    let outage = Outage::watch(&mesh.near)?;
    breaks(mesh, loss).await?;
    carries(mesh, "nse-2", pod)
        .await
        .context("it should have moved")?;
    outage.end()
}

async fn breaks(mesh: &mut Mesh, loss: Loss) -> Result<()> {
    let end = only_name(&mesh.far)?;
    if loss == Loss::Wire {
        let down = mesh
            .far
            .command("ip")
            .args(["link", "set", &end, "down"])
            .status()?;
        ensure!(down.success(), "{end} cannot be set down: {down}");
        return Ok(());
    }
    let hops = loss.hops();
    for hop in hops {
        mesh.take(*hop)?.kill()?;
    }
    // As with the end of the endpoint's pod; the forwarder may be removing it.
    let _it_may_be_gone = mesh.far.command("ip").args(["link", "del", &end]).output()?;
    for hop in hops.iter().filter(|hop| **hop != Hop::Endpoint) {
        mesh.start(*hop).await?;
    }
    Ok(())
}

/// The name of the only link of a pod.
fn only_name(pod: &Pod) -> Result<String> {
    let links = pod.ip(&["link", "show"])?;
    let names = links.as_array().into_iter().flatten();
    let mut names = names.filter_map(|link| link["ifname"].as_str().filter(|name| *name != "lo"));
    let name = names.next().context("there is no link")?;
    Ok(name.to_string())
}

/// The registry dies, and the client ends: everybody on the way is told.
async fn closes(mesh: &mut Mesh) -> Result<()> {
    let client = mesh.client()?;
    carries(mesh, "nse", &mesh.far).await.context("at first")?;
    mesh.take(Hop::Registry)?.kill()?;
    stops(client).await?;
    if mesh.log("nsc")?.contains(UNCLOSED) {
        bail!("the client was told of an error: {UNCLOSED}");
    }
    mesh.clean().await.context("without a registry")?;
    mesh.start(Hop::Registry).await?;
    mesh.registers(&["forwarder", "nse"]).await
}
