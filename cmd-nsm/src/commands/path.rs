// SPDX-License-Identifier: Apache-2.0
//! `nsm path`: the hops of one connection.

use std::fmt;
use std::process::ExitCode;

use crate::ask::AskSettings;
use crate::seen::Seen;
use anyhow::{Context, Result};
use clap::Args;
use nsm_api::connection::Connection;
use serde::Serialize;

use super::output;

/// Show the hops of a connection: how long each took, how the wire comes to it, its addresses and what it has carried
#[derive(Args)]
pub(crate) struct Path {
    /// The id of the connection, as any hop of its path knows it
    id: String,
    /// More hops to ask, such as the forwarder of the node or the manager of the other one: each tells the mechanism by
    /// which the wire comes to it; may be repeated
    #[arg(long, value_name = "URL")]
    also: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ask: AskSettings,
}

#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Shown(pub(crate) Seen);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = &self.0;
        writeln!(
            f,
            "{} of {} ({}) is {}, at {}",
            seen.id, seen.network_service, seen.payload, seen.state, seen.endpoint
        )?;
        writeln!(f, "client    {}", seen.client_addresses.join(" "))?;
        writeln!(f, "endpoint  {}\n", seen.endpoint_addresses.join(" "))?;
        let micros = |value: Option<u64>| value.map_or(String::new(), |value| format!("{value} us"));
        let heads = [
            "HOP",
            "MECHANISM",
            "REQUEST",
            "OF THAT OWN",
            "TOKEN",
            "ID",
            "METRICS",
        ];
        let mut rows = vec![heads.map(str::to_string).to_vec()];
        for hop in &seen.hops {
            let metrics = hop.metrics.iter();
            let metrics: Vec<_> = metrics.map(|(name, value)| format!("{name}={value}")).collect();
            rows.push(vec![
                hop.name.clone(),
                hop.mechanism.clone().unwrap_or_default(),
                micros(hop.request_us),
                micros(hop.own_us),
                hop.expires_in_s.map_or(String::new(), |left| format!("{left} s")),
                hop.id.clone(),
                metrics.join(" "),
            ]);
        }
        f.write_str(&output::columns(&rows))
    }
}

impl Path {
    /// Shows.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let seen = output::block_on(async {
            let asking = self.ask.start().await?;
            let now = asking.component().now();
            let (id, url) = (&self.id, &self.ask.connect_to);
            let found = asking.connections(super::selecting(id)).await?;
            let first = found.first().with_context(|| {
                format!("{url} has no connection {id}; `nsm connections` shows those it has")
            })?;
            let mut seen = Seen::of(first, now);
            note(&mut seen, first);
            for url in &self.also {
                let settings = AskSettings {
                    connect_to: url.clone(),
                    ..self.ask.clone()
                };
                let asking = settings.start_as(asking.component().clone(), asking.identity().clone());
                let client = super::selecting(&seen.client_id);
                for connection in asking.connections(client).await? {
                    note(&mut seen, &connection);
                }
            }
            Ok(seen)
        })?;
        output::print(self.json, &Shown(seen))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Notes how the wire comes to the hop that has told `connection`.
fn note(seen: &mut Seen, connection: &Connection) {
    if let Some(mechanism) = &connection.mechanism {
        seen.note(&connection.id, &mechanism.r#type);
    }
}
