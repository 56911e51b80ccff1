// SPDX-License-Identifier: Apache-2.0
//! `nsm monitor`: what becomes of connections, while one looks.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use crate::ask::{AskSettings, Asking};
use crate::seen::Seen;
use anyhow::Result;
use clap::Args;
use futures::StreamExt;
use nsm_api::connection::{ConnectionEvent, ConnectionEventType as Kind};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::output;

/// Show what becomes of the connections of a hop: a table that follows on a terminal, else a line for each change
///
/// Ends when the hop ends, with exit code 1, or after --time.
#[derive(Args)]
pub(crate) struct Monitor {
    /// Only those of this network service
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// How long to look; for ever by default
    #[arg(long, value_name = "DURATION")]
    time: Option<nsm_sdk::app::Duration>,
    /// A line for each change, also on a terminal
    #[arg(long)]
    lines: bool,
    /// A JSON object a line for each change
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ask: AskSettings,
}

/// One change.
#[derive(Deserialize, Serialize)]
pub(crate) struct Changed {
    /// `initial`, `update` or `delete`.
    event: String,
    at: String,
    connection: Seen,
}

impl Changed {
    /// A line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}  {:<7}  {}",
            self.at,
            self.event,
            self.connection.row().join("  ")
        )
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::InitialStateTransfer => "initial",
        Kind::Update => "update",
        Kind::Delete => "delete",
    }
}

impl Monitor {
    /// Looks.
    pub(crate) fn run(self) -> Result<ExitCode> {
        output::block_on(async {
            let asking = self.ask.start().await?;
            let until = self.time.map(|time| Instant::now() + time.0);
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                looked = self.look(&asking) => looked,
                () = over => Ok(ExitCode::SUCCESS),
            }
        })
    }

    async fn look(&self, asking: &Asking) -> Result<ExitCode> {
        let mut selector = super::selecting("");
        selector.network_services.clone_from(&self.service);
        let mut events = asking.monitor(selector).await?;
        let is_table = !self.json && !self.lines && std::io::stdout().is_terminal();
        let mut table = BTreeMap::new();
        while let Some(event) = events.next().await {
            let (kind, seen) = read(event?, asking);
            if kind == Kind::InitialStateTransfer {
                table.clear();
            }
            if !is_table {
                self.tell(kind, &seen, asking)?;
            }
            for seen in seen {
                match kind {
                    Kind::Delete => drop(table.remove(&seen.id)),
                    Kind::InitialStateTransfer | Kind::Update => drop(table.insert(seen.id.clone(), seen)),
                }
            }
            if is_table {
                draw(table.values())?;
            }
        }
        eprintln!("nsm: {} tells no more", self.ask.connect_to);
        Ok(ExitCode::FAILURE)
    }

    fn tell(&self, kind: Kind, seen: &[Seen], asking: &Asking) -> Result<()> {
        let at = humantime::format_rfc3339_millis(asking.component().now()).to_string();
        let mut out = std::io::stdout().lock();
        for seen in seen {
            let changed = Changed {
                event: word(kind).to_string(),
                at: at.clone(),
                connection: seen.clone(),
            };
            match self.json {
                true => writeln!(out, "{}", serde_json::to_string(&changed)?)?,
                false => writeln!(out, "{}", changed.line())?,
            }
        }
        Ok(out.flush()?)
    }
}

fn read(event: ConnectionEvent, asking: &Asking) -> (Kind, Vec<Seen>) {
    let (kind, now) = (event.r#type(), asking.component().now());
    let connections = event.connections.into_values();
    let mut seen: Vec<_> = connections.map(|connection| Seen::of(&connection, now)).collect();
    seen.sort_by(|one, other| one.id.cmp(&other.id));
    (kind, seen)
}

/// Draws the table in place of the one before.
fn draw<'s>(seen: impl Iterator<Item = &'s Seen>) -> Result<()> {
    let rows: Vec<_> = [Seen::heads()].into_iter().chain(seen.map(Seen::row)).collect();
    let mut out = std::io::stdout().lock();
    write!(out, "\x1b[H\x1b[2J{}", output::columns(&rows))?;
    Ok(out.flush()?)
}
