// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm monitor`: what becomes of the connections of all nodes, while one looks.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, ExitCode, Stdio};
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result};
use clap::Args;

use super::cluster::{Agent, Cluster};
use crate::commands::monitor::Changed;

/// Show what becomes of the connections of all nodes: a line for each change
///
/// Ends when the agents end, with exit code 1, or after --time.
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
}

/// Agents that tell, ended when dropped.
struct Telling(Vec<Child>);

impl Monitor {
    /// Looks.
    pub(crate) fn run(self, cluster: &Cluster, json: bool) -> Result<ExitCode> {
        let (told, lines) = channel();
        let mut telling = Telling(Vec::new());
        for agent in cluster.agents(self.node.as_deref())? {
            let mut child = self.start(cluster, &agent)?;
            let out = child.stdout.take().context("it is piped")?;
            let told = told.clone();
            std::thread::spawn(move || read(out, &agent.node, &told));
            telling.0.push(child);
        }
        drop(told);
        let mut out = std::io::stdout().lock();
        for (node, changed) in lines {
            match json {
                true => writeln!(out, "{}", serde_json::to_string(&changed)?)?,
                false => writeln!(out, "{node}  {}", changed.line())?,
            }
            out.flush()?;
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

/// Passes on what an agent tells, until it ends or nobody reads.
fn read(out: ChildStdout, node: &str, told: &Sender<(String, Changed)>) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let Ok(changed) = serde_json::from_str(&line) else {
            continue;
        };
        if told.send((node.to_string(), changed)).is_err() {
            return;
        }
    }
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
