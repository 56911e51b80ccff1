// SPDX-License-Identifier: Apache-2.0
//! Wires that come and go for long: everything that can be counted is as before.
//!
//! `NSM_SOAK_CYCLES` says how many; `NSM_PROGRAMS` where programs are that were built for release.

mod counts;
mod remote;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Client, Program};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::Bench;
use crate::world::{PATIENCE, World, prints, says, stops, wait_for};
pub(crate) use counts::{Counts, metrics};

/// Every program counts, at an address of its own.
pub(crate) const COUNTING: &[(&str, &str)] = &[
    ("NSM_PROMETHEUS", "true"),
    ("NSM_PROMETHEUS_LISTEN_ON", "127.0.0.1:0"),
];

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let alone = bench.alone_with("d70_soak", COUNTING, async |mut world| {
        soak(&mut world).await?;
        world.end().await
    });
    std::iter::once(alone).chain(remote::tests(bench)).collect()
}

/// How many wires come and go, unless told otherwise.
pub(crate) const CYCLES: usize = 500;

/// How many at a time.
const AT_A_TIME: usize = 16;

/// Of so many wires one has policy routes.
const ONE_OF: usize = 4;

/// What a program's memory may have grown by after the first tenth, per cent.
const GROWTH: u64 = 5;

/// Pairs of addresses of both families for the wires that there are at a time, and for as many that the client excludes
/// because it had them a moment ago: when addresses are not given back, there are none any more after a while.
const PLAIN: &str = "172.16.1.0/26,fd00:1::/122";
const WITH_POLICIES: &str = "172.16.2.0/28,fd00:2::/124";

const POLICIES: &str = "
- proto: 6
  dstport: 6666
  routes:
    - prefix: 172.16.4.0/24
- proto: 17
  dstport: 6667-6670
  routes:
    - prefix: fd00:4::/64
";

/// The two endpoints: one gives addresses, the other policy routes as well.
struct Endpoints {
    policies: Program,
    /// Where their files are.
    folder: TempDir,
}

impl Endpoints {
    async fn start(world: &mut World) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("policies.yaml");
        std::fs::write(&file, POLICIES)?;
        stops(world.endpoint.take().context("no endpoint")?).await?;
        let variables = [("NSM_CIDR_PREFIX", PLAIN.to_string())];
        let (mut plain, _) = world.node.start_endpoint("nse", &world.far, &variables).await?;
        says(&mut plain, "INFO ready").await?;
        world.endpoint = Some(plain);
        let file = file.display().to_string();
        let variables = [
            ("NSM_CIDR_PREFIX", WITH_POLICIES),
            ("NSM_PBR_CONFIG_PATH", file.as_str()),
        ];
        let policies = world.serve("policies", &variables).await?;
        Ok(Self { policies, folder })
    }
}

fn service(worker: usize) -> &'static str {
    match worker % ONE_OF {
        0 => "policies",
        _ => "icmp-responder",
    }
}

impl Endpoints {
    /// All programs but the client, which is in this process.
    fn and_all<'a>(&'a self, world: &'a World) -> Vec<&'a Program> {
        let programs = world.node.programs().chain(&world.endpoint);
        programs.chain([&self.policies]).collect()
    }
}

fn threads(programs: &[&Program]) -> Result<BTreeMap<String, u64>> {
    let of = |program: &&Program| {
        let threads = std::fs::read_dir(format!("/proc/{}/task", program.pid()))?.count();
        Ok((program.name().to_string(), u64::try_from(threads)?))
    };
    programs.iter().map(of).collect()
}

fn memory(programs: &[&Program]) -> Result<BTreeMap<String, u64>> {
    let of = |program: &&Program| Ok((program.name().to_string(), program.memory_kib()?.resident));
    programs.iter().map(of).collect()
}

async fn soak(world: &mut World) -> Result<()> {
    let cycles = cycles(CYCLES)?;
    let endpoints = Endpoints::start(world).await?;
    let client = world.quiet()?;
    policies_are_there(world, &client).await?;
    cycle_among(&client, cycles / 10, service).await?;
    world.clean().await?;
    let programs = endpoints.and_all(world);
    let before = Counts::settled(&programs).await?;
    let (threads_before, warm) = (threads(&programs)?, memory(&programs)?);
    let began = Instant::now();
    cycle_among(&client, cycles, service).await?;
    let took = began.elapsed();
    world.clean().await?;
    before.are_there_again(&programs).await?;
    // Threads that wait for work end by themselves after a while, and may have been there before.
    wait_for(PATIENCE, "there are no more threads than before", async || {
        let now = threads(&programs)?;
        let fewer = |(program, is): (&String, &u64)| threads_before.get(program).is_some_and(|was| is <= was);
        Ok(now.iter().all(fewer).then_some(()))
    })
    .await?;
    let settled = began.elapsed().saturating_sub(took);
    println!("{cycles} cycles took {took:?}, and everything was as before {settled:?} later");
    for (program, is) in memory(&programs)? {
        let was = warm.get(&program).copied().unwrap_or_default();
        println!("{program}: {was} KiB before, {is} KiB after {cycles} cycles");
        ensure!(
            is <= was + was * GROWTH / 100,
            "{program} grew from {was} KiB to {is} KiB"
        );
    }
    client.end().await;
    stops(endpoints.policies).await?;
    drop(endpoints.folder);
    Ok(())
}

/// The rules of both families that are to come and go.
async fn policies_are_there(world: &World, client: &Client) -> Result<()> {
    let attached = client.attach("soak-policies", "kernel://policies/nsm-1").await?;
    for (family, words) in [("-4", "dport 6666"), ("-6", "dport 6667-6670")] {
        let rules = prints(&world.near, "ip", &[family, "rule", "show"])?;
        ensure!(rules.contains(words), "no {words:?} in {rules}");
    }
    client.close(attached.request).await.map(drop)
}

/// How many wires are to come and go: so many, unless told otherwise.
pub(crate) fn cycles(usual: usize) -> Result<usize> {
    match std::env::var("NSM_SOAK_CYCLES") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("NSM_SOAK_CYCLES is {text:?}")),
        Err(_) => Ok(usual),
    }
}

/// Makes and closes wires.
pub(crate) async fn cycle(client: &Client, cycles: usize) -> Result<()> {
    cycle_among(client, cycles, |_| "icmp-responder").await
}

/// The same, each worker those of its service.
async fn cycle_among(client: &Client, cycles: usize, service: fn(usize) -> &'static str) -> Result<()> {
    let workers = (0..AT_A_TIME).map(|worker| async move {
        for number in (worker..cycles).step_by(AT_A_TIME) {
            let url = format!("kernel://{}/nsm-{worker}", service(worker));
            let attached = client.attach(&format!("soak-{number}"), &url).await;
            let attached = attached.with_context(|| format!("cycle {number}"))?;
            client
                .close(attached.request)
                .await
                .with_context(|| format!("cycle {number}"))?;
        }
        Ok::<_, anyhow::Error>(())
    });
    futures::future::try_join_all(workers).await.map(drop)
}
