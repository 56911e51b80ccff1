// SPDX-License-Identifier: Apache-2.0
//! `nsm ping`: the data path of one connection, step by step, as far as this machine sees it.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::ask::AskSettings;
use crate::mesh::Pinger;
use crate::seen::Seen;
use anyhow::{Context, Result, bail};
use clap::Args;
use nsm_api::mechanism::{VXLAN, WIREGUARD, key};
use serde::Serialize;
use tokio::time::Instant;

use super::output;

/// Look at the data path of a connection step by step: its state, the client's interface, the way to the endpoint, and
/// the way of its tunnel
///
/// Needs the rights to enter the client's network namespace. The exit code is 1 when a step fails.
#[derive(Args)]
pub(crate) struct Ping {
    /// The id of the connection, as any hop of its path knows it
    id: String,
    /// The client's network namespace, when it is not found among the processes of this machine
    #[arg(long, value_name = "FILE")]
    netns: Option<PathBuf>,
    /// More hops to ask, such as the manager of the other node, who knows the tunnel; may be repeated
    #[arg(long, value_name = "URL")]
    also: Vec<String>,
    /// How many pings each way gets
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// How long an answer may take
    #[arg(long, default_value = "1s")]
    wait: nsm_sdk::app::Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ask: AskSettings,
}

/// One step of the data path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Step {
    step: String,
    /// Whether it works; nothing when this machine cannot tell.
    works: Option<bool>,
    found: String,
    pub(crate) round_trip_us: Option<u64>,
}

impl Step {
    /// A step that works or not, or of which that cannot be told.
    pub(crate) fn new(step: impl Into<String>, works: Option<bool>, found: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            works,
            found: found.into(),
            round_trip_us: None,
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Steps(pub(crate) Vec<Step>);

impl Steps {
    /// 1 when a step fails.
    pub(crate) fn code(&self) -> ExitCode {
        match self.0.iter().all(|step| step.works != Some(false)) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |step: &Step| {
            let sign = match step.works {
                Some(true) => "+",
                Some(false) => "-",
                None => "?",
            };
            vec![format!("{sign} {}", step.step), step.found.clone()]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        f.write_str(&output::columns(&rows))
    }
}

impl Ping {
    /// Looks.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let all = output::block_on(self.seen())?;
        let first = all
            .first()
            .with_context(|| format!("{} has no connection {}", self.ask.connect_to, self.id))?;
        let mut steps = vec![Step::new(
            "connection",
            Some(first.state == "up"),
            format!(
                "{} at {} is {}",
                first.network_service, first.endpoint, first.state
            ),
        )];
        steps.extend(self.wire(first));
        for seen in &all {
            steps.extend(self.tunnel(seen));
        }
        let steps = Steps(steps);
        output::print(self.json, &steps)?;
        Ok(steps.code())
    }

    /// The connection as each hop tells of it that was asked.
    async fn seen(&self) -> Result<Vec<Seen>> {
        let asking = self.ask.start().await?;
        let now = asking.component().now();
        let mut selector = super::selecting(&self.id);
        let mut seen = Vec::new();
        for url in [&self.ask.connect_to].into_iter().chain(&self.also) {
            let settings = AskSettings {
                connect_to: url.clone(),
                ..self.ask.clone()
            };
            let hop = settings.start_as(asking.component().clone(), asking.identity().clone());
            let found = hop.connections(selector.clone()).await?;
            seen.extend(found.iter().map(|connection| Seen::of(connection, now)));
            if let Some(first) = seen.first() {
                selector = super::selecting(&first.client_id);
            }
        }
        Ok(seen)
    }

    /// The client's end of the wire, and what comes back over it.
    fn wire(&self, seen: &Seen) -> Vec<Step> {
        let netns = match self.netns.clone().map_or_else(|| namespace(seen), Ok) {
            Ok(netns) => netns,
            Err(error) => return vec![Step::new("client", None, format!("{error:#}"))],
        };
        let mut steps = Vec::new();
        let name = seen
            .parameters
            .get(key::INTERFACE_NAME)
            .map_or("", String::as_str);
        match interfaces(&netns) {
            Ok(all) if name.is_empty() || all.iter().any(|interface| interface == name) => {
                let found = format!("{} has interfaces {}", netns.display(), all.join(", "));
                steps.push(Step::new("interface", Some(true), found));
            }
            Ok(all) => {
                let found = format!("there is no interface {name}, only {}", all.join(", "));
                steps.push(Step::new("interface", Some(false), found));
            }
            Err(error) => steps.push(Step::new("interface", None, format!("{error:#}"))),
        }
        let addresses = seen.endpoint_addresses.iter();
        for address in addresses.filter_map(|address| address.split('/').next()) {
            steps.push(self.ping(&netns, "endpoint", address));
        }
        steps
    }

    /// The way of packets between the nodes, when the hop that tells of the connection gets it by a tunnel.
    fn tunnel(&self, seen: &Seen) -> Vec<Step> {
        if !matches!(seen.mechanism.as_str(), VXLAN | WIREGUARD) {
            return Vec::new();
        }
        let ends = [key::SRC_IP, key::DST_IP].map(|key| seen.parameters.get(key));
        let own = Path::new("/proc/self/ns/net");
        ends.into_iter()
            .flatten()
            .map(|end| self.ping(own, &format!("{} end", seen.mechanism), end))
            .collect()
    }

    fn ping(&self, netns: &Path, what: &str, address: &str) -> Step {
        let step = format!("{what} {address}");
        let Ok(address) = address.parse::<IpAddr>() else {
            return Step::new(step, None, "that is no address");
        };
        let pinger = match address {
            IpAddr::V4(_) => Pinger::new(netns),
            IpAddr::V6(_) => Pinger::v6(netns),
        };
        let pinger = match pinger {
            Ok(pinger) => pinger,
            Err(error) => return Step::new(step, None, format!("{error:#}")),
        };
        let (mut answers, mut sum) = (0, Duration::ZERO);
        for number in 1..=self.count {
            if let Ok(took) = pinger.once(address, number, Instant::now() + self.wait.0) {
                (answers, sum) = (answers + 1, sum + took);
            }
        }
        let mean = sum.checked_div(answers).map(|mean| mean.as_micros());
        let round_trip_us = mean.and_then(|mean| u64::try_from(mean).ok());
        let found = match round_trip_us {
            Some(mean) => format!("{answers} of {} answered, {mean} us", self.count),
            None => format!("none of {} answered", self.count),
        };
        Step {
            round_trip_us,
            ..Step::new(step, Some(answers > 0), found)
        }
    }
}

/// The namespace in which the wire ends, by a process of this machine that is in it.
fn namespace(seen: &Seen) -> Result<PathBuf> {
    let parameter = |key: &str| seen.parameters.get(key).map_or("", String::as_str);
    let url = parameter(key::INODE_URL);
    let inode = url
        .strip_prefix("inode://")
        .and_then(|rest| rest.rsplit('/').next());
    let inode = inode.unwrap_or(parameter(key::NETNS_INODE));
    let Ok(inode) = inode.parse::<u64>() else {
        bail!("the connection does not tell its namespace ({url}); name it by --netns");
    };
    for entry in fs::read_dir("/proc")?.flatten() {
        let netns = entry.path().join("ns/net");
        if fs::metadata(&netns).is_ok_and(|found| found.ino() == inode) {
            return Ok(netns);
        }
    }
    bail!("no process that we may look at is in the client's namespace {inode}; name it by --netns")
}

/// The interfaces of a namespace.
fn interfaces(netns: &Path) -> Result<Vec<String>> {
    let file = fs::File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    let reading = std::thread::spawn(move || -> Result<String> {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))
            .context("we may not enter the client's namespace: CAP_SYS_ADMIN is missing")?;
        Ok(fs::read_to_string("/proc/thread-self/net/dev")?)
    });
    let Ok(text) = reading.join() else {
        bail!("the thread that looks at the namespace panicked");
    };
    let text = text?;
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_string()).collect())
}
