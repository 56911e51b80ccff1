// SPDX-License-Identifier: Apache-2.0
//! `nsm monitor`: what becomes of connections, while one looks.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use futures::{Stream, TryStreamExt, stream};
use nsm_api::connection::{ConnectionEvent, ConnectionEventType as Kind};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::output;
use crate::ask::{AskSettings, Asking};
use crate::live::{self, Told};
use crate::seen::Seen;

/// Show what becomes of the connections of a hop: a table that follows on a terminal, else a line for each change
///
/// The table has as many rows as the terminal has room for, of connections that are not up first, and tells since when
/// each is in its state (UTC): "before" is when this command began, where it was so already. Ends when the hop ends, with
/// exit code 1, after --time, or by a signal.
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
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Changed {
    /// `initial`, `update` or `delete`.
    pub(crate) event: String,
    /// When it was told, RFC 3339.
    pub(crate) at: String,
    pub(crate) connection: Seen,
}

impl Changed {
    /// Whether it was so before anybody looked.
    pub(crate) fn is_initial(&self) -> bool {
        self.event == word(Kind::InitialStateTransfer)
    }

    /// Whether the connection is no more.
    pub(crate) fn is_delete(&self) -> bool {
        self.event == word(Kind::Delete)
    }

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
        let events = asking.monitor(selector).await?;
        let mut changes = events
            .map_ok(|event| stream::iter(read(event, asking).into_iter().map(Ok::<_, anyhow::Error>)))
            .map_err(anyhow::Error::from)
            .try_flatten();
        if live::is_wanted(self.json || self.lines) {
            let told = changes.map_ok(|changed| Told::Changed(String::new(), Box::new(changed)));
            if let Some(code) = live::follow(told).await? {
                return Ok(code);
            }
        } else {
            self.print(&mut changes).await?;
        }
        eprintln!("nsm: {} tells no more", self.ask.connect_to);
        Ok(ExitCode::FAILURE)
    }

    async fn print(&self, changes: &mut (impl Stream<Item = Result<Changed>> + Unpin)) -> Result<()> {
        while let Some(changed) = changes.try_next().await? {
            let line = match self.json {
                true => serde_json::to_string(&changed)?,
                false => changed.line(),
            };
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()?;
        }
        Ok(())
    }
}

fn read(event: ConnectionEvent, asking: &Asking) -> Vec<Changed> {
    let (kind, now) = (event.r#type(), asking.component().now());
    let at = humantime::format_rfc3339_millis(now).to_string();
    let connections = event.connections.into_values();
    let mut seen: Vec<_> = connections.map(|connection| Seen::of(&connection, now)).collect();
    seen.sort_by(|one, other| one.id.cmp(&other.id));
    let changed = |connection| Changed {
        event: word(kind).to_string(),
        at: at.clone(),
        connection,
    };
    seen.into_iter().map(changed).collect()
}
