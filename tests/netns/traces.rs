// SPDX-License-Identifier: Apache-2.0
//! What a collector of OpenTelemetry hears of a mesh, and what becomes of the mesh when it hears nothing.

use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm_tests::collector::{Collector, Heard, REQUEST, attribute};
use tokio::time::Instant;

use crate::Bench;
use crate::remote::Apart;
use crate::world::{PATIENCE, World, same, says, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.telling("one_trace_has_a_span_of_every_hop", one_node),
        bench.telling("a_request_that_fails_is_seen_where_it_failed", fails),
        bench.telling("a_collector_that_is_gone_hangs_or_comes_late_harms_nothing", away),
        bench.telling_apart("one_trace_has_a_span_of_every_hop_of_two_nodes", two_nodes),
    ]
}

const URL: &str = "kernel://icmp-responder/nsm-1";

/// Variables by which programs tell a collector on this socket.
fn telling(socket: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("TELEMETRY", "true".to_string()),
        (
            "NSM_OPEN_TELEMETRY_ENDPOINT",
            format!("unix://{}", socket.display()),
        ),
        ("NSM_METRICS_EXPORT_INTERVAL", "200ms".to_string()),
    ]
}

impl Bench {
    /// A test with a node of its own, which tells a collector on the socket that the test gets.
    fn telling<F>(&self, name: &'static str, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut World, &Path) -> Result<()> + Send + 'static,
    {
        self.trial(name, async move |shared| {
            if let Some(world) = shared.take() {
                world.end().await.context("the node before could not be ended")?;
            }
            let folder = tempfile::tempdir()?;
            let socket = folder.path().join("collector.sock");
            let mut world = World::with(telling(&socket))
                .await
                .context("cannot start a node")?;
            match run(&mut world, &socket).await {
                Ok(()) => world.end().await,
                Err(error) => Err(error.context(world.keep())),
            }
        })
    }

    /// The same with two nodes.
    fn telling_apart<F>(&self, name: &'static str, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut Apart, &Path) -> Result<()> + Send + 'static,
    {
        self.trial(name, async move |shared| {
            if let Some(world) = shared.take() {
                world.end().await.context("the node before could not be ended")?;
            }
            let folder = tempfile::tempdir()?;
            let socket = folder.path().join("collector.sock");
            let apart = Apart::with("ETHERNET", false, telling(&socket)).await;
            let mut apart = apart.context("cannot start two nodes")?;
            match run(&mut apart, &socket).await {
                Ok(()) => apart.end().await,
                Err(error) => Err(error.context(apart.keep())),
            }
        })
    }
}

/// Waits until the collector has heard what is looked for.
async fn hears<T>(collector: &Collector, what: &str, mut look: impl FnMut(&Heard) -> Option<T>) -> Result<T> {
    let found = wait_for(PATIENCE, what, async || Ok(look(&collector.heard()))).await;
    found.with_context(|| {
        let heard = collector.heard();
        let spans = heard
            .spans
            .iter()
            .map(|(name, span)| (name, &span.name, span.kind()));
        format!("it heard {:?} and {:?}", spans.collect::<Vec<_>>(), heard.counts)
    })
}

async fn one_node(world: &mut World, socket: &Path) -> Result<()> {
    let collector = Collector::listen(socket)?;
    let mut nsc = world.nsc(URL, &[])?;
    says(&mut nsc, "INFO ready").await?;
    let hops = hears(&collector, "a request was seen on its whole way", |heard| {
        heard.hops("nsc", "nse")
    });
    same(
        "the hops",
        hops.await?,
        ["nsmgr", "forwarder", "nse"].map(String::from).to_vec(),
    )?;
    let looked_up = hears(&collector, "a look-up was seen in the same trace", |heard| {
        let find = heard.spans.iter().find(|(name, span)| {
            name == "registry" && span.name.ends_with("/Find") && !span.parent_span_id.is_empty()
        })?;
        heard
            .spans
            .iter()
            .find(|(_, span)| span.span_id == find.1.parent_span_id)
            .map(|(name, _)| name.clone())
    });
    println!("looked up by {}", looked_up.await?);
    hears(&collector, "all programs told what they count", |heard| {
        let all = ["nsc", "nsmgr", "forwarder", "nse", "registry"];
        let tells = |name: &&str| {
            // A client serves nobody.
            let counted = if *name == "nsc" {
                "nsm_tasks"
            } else {
                "nsm_calls_total"
            };
            heard
                .counts
                .get(*name)
                .is_some_and(|counts| counts.contains(counted))
        };
        all.iter().all(tells).then_some(())
    })
    .await?;
    println!("{}", collector.heard().drawn("nsc"));
    // The last words: the close, which the programs told when they ended.
    stops(nsc).await?;
    let closed = "networkservice.NetworkService/Close";
    hears(&collector, "the close was seen", |heard| {
        heard
            .spans
            .iter()
            .find(|(name, span)| name == "nsc" && span.name == closed)
            .map(drop)
    })
    .await?;
    world.clean().await
}

async fn two_nodes(apart: &mut Apart, socket: &Path) -> Result<()> {
    let collector = Collector::listen(socket)?;
    let variables = [
        ("NSM_CONNECT_TO", apart.first.url("nsm")),
        ("NSM_NETWORK_SERVICES", URL.to_string()),
    ];
    let mut nsc = apart.first.launch("nsc", "nsc", Some(&apart.near), &variables)?;
    says(&mut nsc, "INFO ready").await?;
    let hops = hears(&collector, "a request was seen on its whole way", |heard| {
        heard.hops("nsc", "nse")
    });
    let wanted = ["nsmgr", "forwarder", "nsmgr-2", "forwarder-2", "nse"];
    same("the hops", hops.await?, wanted.map(String::from).to_vec())?;
    println!("{}", collector.heard().drawn("nsc"));
    stops(nsc).await?;
    apart.clean().await
}

async fn fails(world: &mut World, socket: &Path) -> Result<()> {
    let collector = Collector::listen(socket)?;
    let mut nsc = world.nsc("kernel://nothing-like-it/nsm-1", &[])?;
    let reason = hears(&collector, "the failure was seen", |heard| {
        let mut failed = heard
            .spans
            .iter()
            .filter(|(name, span)| name == "nsmgr" && span.name == REQUEST && span.status.is_some());
        failed.find_map(|(_, span)| attribute(&span.attributes, "nsm.reason").map(str::to_string))
    });
    same("the reason", reason.await?.as_str(), "no-service")?;
    says(&mut nsc, "no-service").await?;
    stops(nsc).await?;
    world.clean().await
}

async fn away(world: &mut World, socket: &Path) -> Result<()> {
    // Nobody is there.
    let mut nsc = world.nsc(URL, &[])?;
    says(&mut nsc, "INFO ready").await?;
    says(&mut nsc, "the collector does not take what it is told").await?;
    // It comes late, and hears what has waited.
    let collector = Collector::listen(socket)?;
    let hops = hears(&collector, "what has waited was told", |heard| {
        heard.hops("nsc", "nse")
    });
    same("how many hops", hops.await?.len(), 3)?;
    stops(nsc).await?;
    // It hangs: it accepts, and answers nothing.
    drop(collector);
    std::fs::remove_file(socket)?;
    let hangs = UnixListener::bind(socket)?;
    let began = Instant::now();
    let mut nsc = world.nsc(URL, &[])?;
    says(&mut nsc, "INFO ready").await?;
    ensure!(began.elapsed() < PATIENCE / 2, "it took {:?}", began.elapsed());
    let began = Instant::now();
    let status = nsc.stop().await?;
    ensure!(status.success(), "nsc ended with {status}");
    ensure!(
        began.elapsed().as_secs() < 5,
        "it took {:?} to end",
        began.elapsed()
    );
    // The others end within a second when nothing hangs.
    drop(hangs);
    std::fs::remove_file(socket)?;
    let collector = Collector::listen(socket)?;
    world.clean().await?;
    hears(&collector, "the others tell again", |heard| {
        (heard.counts.len() >= 4).then_some(())
    })
    .await
}
