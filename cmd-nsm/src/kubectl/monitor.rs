// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm monitor`: what becomes of the connections of all nodes, while one looks.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::Args;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::cluster::{Agent, Cluster};
use crate::commands::output;
use crate::live::{self, Told};

/// How many changes wait to be printed until agents have to wait.
const WAITING: usize = 256;

/// Show what becomes of the connections of all nodes: a table that follows on a terminal, else a line for each change
///
/// The table has as many rows as the terminal has room for, of connections that are not up first, and tells since when
/// each is in its state (UTC): "before" is when this command began, where it was so already. "unheard" are those of a
/// node whose agent tells no more. Ends when the agents end, with exit code 1, after --time, or by a signal.
#[derive(Args)]
pub(crate) struct Monitor {
    /// Only those of this network service; may be repeated
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Only those that this node's manager knows
    #[arg(long)]
    node: Option<String>,
    /// How long to look; for ever by default
    #[arg(long, value_name = "DURATION")]
    time: Option<nsm_sdk::app::Duration>,
    /// A line for each change, also on a terminal
    #[arg(long)]
    lines: bool,
}

/// Agents that tell, ended when dropped.
struct Telling(Vec<Child>);

impl Monitor {
    /// Looks.
    pub(crate) fn run(self, cluster: &Cluster, json: bool) -> Result<ExitCode> {
        let (told, mut changes) = channel(WAITING);
        let mut telling = Telling(Vec::new());
        for agent in cluster.agents(self.node.as_deref())? {
            let mut child = self.start(cluster, &agent)?;
            let out = child.stdout.take().context("it is piped")?;
            let told = told.clone();
            std::thread::spawn(move || read(out, &agent.node, &told));
            telling.0.push(child);
        }
        drop(told);
        if live::is_wanted(json || self.lines) {
            let told = futures::stream::poll_fn(|cx| changes.poll_recv(cx));
            let told = futures::StreamExt::map(told, Ok);
            if let Some(code) = output::block_on(live::follow(told))? {
                return Ok(code);
            }
        } else {
            print(changes, json)?;
        }
        Ok(match self.time {
            Some(_) => ExitCode::SUCCESS,
            None => ExitCode::FAILURE,
        })
    }

    fn start(&self, cluster: &Cluster, agent: &Agent) -> Result<Child> {
        let mut all = cluster.at(agent);
        all.extend(["monitor".to_string(), "--json".to_string()]);
        for service in &self.service {
            all.push(format!("--service={service}"));
        }
        all.extend(self.time.map(|time| format!("--time={time}")));
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let child = cluster.kubectl(&all).stdout(Stdio::piped()).spawn();
        child.context("cannot run kubectl")
    }
}

fn print(mut changes: Receiver<Told>, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    while let Some(told) = changes.blocking_recv() {
        match told {
            Told::Changed(_, changed) if json => writeln!(out, "{}", serde_json::to_string(&*changed)?)?,
            Told::Changed(node, changed) => writeln!(out, "{node}  {}", changed.line())?,
            Told::Silent(_) => {}
        }
        out.flush()?;
    }
    Ok(())
}

/// Passes on what an agent tells, until it ends or nobody reads.
fn read(out: ChildStdout, node: &str, told: &Sender<Told>) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let Ok(changed) = serde_json::from_str(&line) else {
            continue;
        };
        if told
            .blocking_send(Told::Changed(node.to_string(), Box::new(changed)))
            .is_err()
        {
            return;
        }
    }
    // Whoever reads no more has no rows either.
    let _nobody = told.blocking_send(Told::Silent(node.to_string()));
}

impl Drop for Telling {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended cannot be ended.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
