// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm ping`: the data path of a pod's connections, as the managers and the pod itself see it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;

use super::cluster::Cluster;
use super::path::connections;
use super::pod::Pod;
use crate::commands::output;
use crate::commands::ping::{Step, Steps};
use crate::seen::Seen;

/// Look at the data path of a pod's connections: what managers know of them, the interface in the pod, and whether the
/// endpoint answers over it
///
/// The client in the pod pings, so nothing else has to be there. The exit code is 1 when a step fails.
#[derive(Args)]
pub(crate) struct Ping {
    /// The client's pod
    pod: String,
    /// Only the connection to this network service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

/// A wire as the client sees it from inside of its pod.
#[derive(Deserialize)]
struct Look {
    network_service: String,
    endpoint: String,
    interface: String,
    pulse: String,
    round_trip_us: Option<u64>,
}

impl Ping {
    /// Looks.
    pub(crate) fn run(self, cluster: &Cluster, json: bool) -> Result<ExitCode> {
        let pod = Pod::named(cluster, &self.pod)?;
        let mut steps = Vec::new();
        for seen in connections(cluster, &pod, self.service.as_deref())? {
            steps.extend(hops(&seen));
        }
        match looks(cluster, &pod) {
            Ok(looks) => {
                let wanted = |look: &&Look| {
                    self.service
                        .as_ref()
                        .is_none_or(|name| *name == look.network_service)
                };
                steps.extend(looks.iter().filter(wanted).flat_map(Look::steps));
            }
            Err(error) => steps.push(Step::new("client", None, format!("{error:#}"))),
        }
        let steps = Steps(steps);
        output::print(json, &steps)?;
        Ok(steps.code())
    }
}

/// What managers say: the state, and each hop with the time that its last request took.
fn hops(seen: &Seen) -> Vec<Step> {
    let found = format!("{} at {} is {}", seen.network_service, seen.endpoint, seen.state);
    let mut steps = vec![Step::new("connection", Some(seen.state == "up"), found)];
    for hop in &seen.hops {
        let is_alive = hop.expires_in_s.map(|left| left > 0);
        let took = hop
            .request_us
            .map_or(String::new(), |took| format!(", took {took} us"));
        let by = hop
            .mechanism
            .as_ref()
            .map_or(String::new(), |mechanism| format!(", by {mechanism}"));
        let found = match hop.expires_in_s {
            Some(left) => format!("promises {left} s more{by}{took}"),
            None => format!("promises nothing{by}{took}"),
        };
        steps.push(Step::new(format!("hop {}", hop.name), is_alive, found));
    }
    steps
}

/// What the client in the pod says of its wires.
fn looks(cluster: &Cluster, pod: &Pod) -> Result<Vec<Look>> {
    let client = pod
        .client
        .as_deref()
        .context("the pod has no client that could look")?;
    let exec = [
        "exec",
        "--namespace",
        &pod.namespace,
        &pod.name,
        "--container",
        client,
        "--",
        "/bin/nsc",
        "--look",
    ];
    let told = cluster
        .text(&exec)
        .context("the client in the pod cannot be asked")?;
    serde_json::from_str(&told).context("the client in the pod tells nothing: it is of another version")
}

impl Look {
    fn steps(&self) -> Vec<Step> {
        let interface = self.pulse != "gone" && !self.endpoint.is_empty();
        let found = match interface {
            true => format!("the pod has {} to {}", self.interface, self.endpoint),
            false => format!("the pod has no wire to {}", self.network_service),
        };
        let answers = match self.pulse.as_str() {
            "alive" => Some(true),
            "silent" | "gone" => Some(false),
            _ => None,
        };
        let heard = match self.round_trip_us {
            Some(took) => format!("answers in {took} us"),
            None => format!("is {}", self.pulse),
        };
        let mut ping = Step::new(format!("ping over {}", self.interface), answers, heard);
        ping.round_trip_us = self.round_trip_us;
        vec![
            Step::new(format!("interface {}", self.interface), Some(interface), found),
            ping,
        ]
    }
}
