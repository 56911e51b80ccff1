// SPDX-License-Identifier: Apache-2.0
//! `nsm connections`: what connections a hop has.

use std::fmt;
use std::process::ExitCode;

use crate::ask::AskSettings;
use crate::seen::Seen;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::output;

/// Show the connections of a manager, a forwarder or an endpoint: client, endpoint, mechanism, addresses, state, expiry
#[derive(Args)]
pub(crate) struct Connections {
    /// Only those of this network service
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ask: AskSettings,
}

#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Table(pub(crate) Vec<Seen>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = [Seen::heads()]
            .into_iter()
            .chain(self.0.iter().map(Seen::row))
            .collect();
        f.write_str(&output::columns(&rows))
    }
}

impl Connections {
    /// Shows.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut selector = super::selecting("");
        selector.network_services.clone_from(&self.service);
        let seen = output::block_on(async {
            let asking = self.ask.start().await?;
            let now = asking.component().now();
            let connections = asking.connections(selector).await?;
            Ok(connections
                .iter()
                .map(|connection| Seen::of(connection, now))
                .collect())
        })?;
        output::print(self.json, &Table(seen))?;
        Ok(ExitCode::SUCCESS)
    }
}
