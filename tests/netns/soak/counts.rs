// SPDX-License-Identifier: Apache-2.0
//! What can be counted of programs and of the kernel.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use nsm::mesh::{Program, Snapshot};
use nsm_sdk::registry::querycache::IDLE;
use tokio::net::TcpStream;

use crate::world::{PATIENCE, http_get, inside, wait_for};

/// What programs say when they begin to tell what they count.
const TELLING: &str = "telling Prometheus url=";

/// Everything that must be the same before and after.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counts {
    /// Of each program: its descriptors by their kinds, its tasks, and what is established there.
    programs: BTreeMap<String, u64>,
    /// Links, addresses, routes, rules and neighbours.
    kernel: Snapshot,
}

impl Counts {
    /// What there is now.
    async fn take(programs: &[&Program]) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for program in programs {
            let name = program.name();
            for (kind, count) in program.descriptors()? {
                counts.insert(format!("{kind} of {name}"), u64::try_from(count)?);
            }
            for (what, count) in held(program).await? {
                counts.insert(format!("{what} of {name}"), count);
            }
        }
        // Not on the thread on which our own calls run.
        let kernel = tokio::task::spawn_blocking(|| Snapshot::take(None)).await??;
        Ok(Self {
            programs: counts,
            kernel,
        })
    }

    /// What there is when nothing moves any more: two looks see the same, and nobody has a connection.
    pub(crate) async fn settled(programs: &[&Program]) -> Result<Self> {
        let mut last = None;
        wait_for(PATIENCE, "two looks see the same", async || {
            let now = Self::take(programs).await?;
            let before = last.replace(now.clone());
            let is_idle = now
                .programs
                .iter()
                .all(|(what, count)| !what.contains("\"networkservice\"") || *count == 0);
            Ok((is_idle && before.as_ref() == Some(&now)).then_some(now))
        })
        .await
    }

    /// Waits until there is what there was, no more and, but for tasks, no less. A manager may have looked up what it has
    /// not before, and follows that for a while.
    pub(crate) async fn are_there_again(&self, programs: &[&Program]) -> Result<()> {
        let mut now = None;
        let again = wait_for(IDLE + PATIENCE, "everything is as before", async || {
            let is = now.insert(Self::take(programs).await?);
            Ok(is.is_as(self).then_some(()))
        });
        let done = again.await;
        done.with_context(|| now.map_or_else(String::new, |now| self.differences(&now)))
    }

    /// As before; there may be fewer tasks, since what nobody has looked up for a while is not followed any more.
    fn is_as(&self, before: &Self) -> bool {
        let same = |((what, is), (before, was)): ((&String, &u64), (&String, &u64))| {
            what == before && (is == was || what.starts_with("nsm_tasks") && is < was)
        };
        self.kernel == before.kernel
            && self.programs.len() == before.programs.len()
            && self.programs.iter().zip(&before.programs).all(same)
    }

    fn differences(&self, now: &Self) -> String {
        let all = self.programs.keys().chain(now.programs.keys());
        let all: std::collections::BTreeSet<_> = all.collect();
        let changed = all.into_iter().filter_map(|what| {
            let (was, is) = (self.programs.get(what), now.programs.get(what));
            (was != is).then(|| format!("{what}: was {was:?}, is {is:?}"))
        });
        let more = now.kernel.since(&self.kernel).into_iter();
        let less = self.kernel.since(&now.kernel).into_iter();
        let kernel = more.map(|object| format!("new: {object}"));
        let kernel = kernel.chain(less.map(|object| format!("gone: {object}")));
        changed.chain(kernel).collect::<Vec<_>>().join("\n")
    }
}

/// Connects to a program from where it runs.
fn connect(program: &Program, address: &str) -> Result<TcpStream> {
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", program.pid()))?;
    let address = address.to_string();
    let stream = inside(netns, move || std::net::TcpStream::connect(address))?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream)?)
}

/// What a program tells Prometheus.
pub(crate) async fn metrics(program: &Program) -> Result<String> {
    let printed = program.printed();
    let url = printed
        .split_once(TELLING)
        .and_then(|(_, url)| url.split_whitespace().next());
    let url = url
        .with_context(|| format!("{} does not count", program.name()))?
        .trim_matches('"');
    let told = http_get(connect(program, url)?, "/metrics").await;
    let told = told.with_context(|| format!("{} at {url}", program.name()))?;
    ensure!(told.contains("\nnsm_tasks "), "{} tells {told}", program.name());
    Ok(told)
}

/// What is counted of what a program holds.
const HELD: [&str; 5] = [
    "nsm_tasks ",
    "nsm_held{",
    "nsm_connections{",
    "nsm_ipam_free{",
    "nsm_vxlan_identifiers ",
];

/// What a program says that it holds: tasks, connections and their states, registrations, free addresses, identifiers of
/// tunnels. The issuer counts nothing.
async fn held(program: &Program) -> Result<Vec<(String, u64)>> {
    if program.name() == "issuer" {
        return Ok(Vec::new());
    }
    let told = metrics(program).await?;
    let of_interest = told
        .lines()
        .filter(|line| HELD.iter().any(|what| line.starts_with(what)));
    of_interest
        .map(|line| {
            let (what, count) = line.rsplit_once(' ').context("no value")?;
            Ok((what.to_string(), count.parse().with_context(|| line.to_string())?))
        })
        .collect()
}
