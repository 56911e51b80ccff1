// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm path`: the hops of a pod's connections.

use std::fmt;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::cluster::Cluster;
use super::pod::Pod;
use crate::commands::output;
use crate::commands::path::Shown;
use crate::seen::Seen;

/// Show the hops of a pod's connections: how long each took, how the wire comes to managers, and addresses
#[derive(Args)]
pub(crate) struct Path {
    /// The client's pod
    pod: String,
    /// Only the connection to this network service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Paths(Vec<Shown>);

impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, shown) in self.0.iter().enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            write!(f, "{gap}{shown}")?;
        }
        Ok(())
    }
}

impl Path {
    /// Shows.
    pub(crate) fn run(self, cluster: &Cluster, json: bool) -> Result<ExitCode> {
        let pod = Pod::named(cluster, &self.pod)?;
        let seen = connections(cluster, &pod, self.service.as_deref())?;
        output::print(json, &Paths(seen.into_iter().map(Shown).collect()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The connections of a pod as the manager of its node tells of them, with how the wire comes to other nodes' managers.
pub(super) fn connections(cluster: &Cluster, pod: &Pod, service: Option<&str>) -> Result<Vec<Seen>> {
    let all = cluster.connections(&cluster.agents(None)?)?;
    let is_wanted = |seen: &Seen| service.is_none_or(|service| seen.network_service == service);
    let of_pod = all.into_iter().map(|(_, seen)| seen);
    let of_pod = of_pod.filter(|seen| pod.owns(seen) && is_wanted(seen));
    let (mut first, others): (Vec<_>, Vec<_>) = of_pod.partition(Seen::is_at_first_hop);
    for seen in &mut first {
        let (id, mechanism) = (seen.id.clone(), seen.mechanism.clone());
        seen.note(&id, &mechanism);
        for other in &others {
            // Their ids are those of hops, and no other path has the same.
            seen.note(&other.id, &other.mechanism);
        }
    }
    let (space, name) = (&pod.namespace, &pod.name);
    ensure!(
        !first.is_empty(),
        "the pod {name} has no such connection: `kubectl nsm explain -n {space} {name}` tells why"
    );
    Ok(first)
}
