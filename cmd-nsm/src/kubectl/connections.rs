// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm connections`: the connections of all nodes.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::cluster::Cluster;
use crate::commands::connections::Table;
use crate::commands::output;

/// Show the connections of all nodes: client, endpoint, mechanism, addresses, state, expiry
#[derive(Args)]
pub(crate) struct Connections {
    /// Only those of this network service; may be repeated
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Only those of clients on this node
    #[arg(long)]
    node: Option<String>,
}

impl Connections {
    /// Shows.
    pub(crate) fn run(self, cluster: &Cluster, json: bool) -> Result<ExitCode> {
        let agents = cluster.agents(self.node.as_deref())?;
        let all = cluster.connections(&agents)?.into_iter().map(|(_, seen)| seen);
        // The manager of the endpoint's node knows a connection, too, by another id.
        let wanted = all
            .filter(|seen| seen.is_at_first_hop())
            .filter(|seen| self.service.is_empty() || self.service.contains(&seen.network_service));
        output::print(json, &Table(wanted.collect()))?;
        Ok(ExitCode::SUCCESS)
    }
}
