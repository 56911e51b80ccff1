// SPDX-License-Identifier: Apache-2.0
//! What the parts of an attach cost bare: calls over mutual TLS, tokens, a veth pair.
//!
//! They are measured by turns with what they are compared with, for the same program on the same machine takes a
//! third more or less a minute later.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nsm::mesh::Node;
use nsm_sdk::core::Component;
use nsm_sdk::identity::jwt::verify_es256;
use nsm_sdk::identity::{Credentials, Identity, Tokens};
use tokio::time::Instant;

use crate::figure::{Figure, Times, median};

mod hops;
mod tls;

pub(crate) use hops::FloorServer;
use hops::{HOPS, Hops};

/// Does what is done bare.
pub(crate) struct Floor {
    hops: Hops,
    identity: Identity,
    veth_program: PathBuf,
}

/// How long it took.
#[derive(Default)]
pub(crate) struct Taken {
    hops: Vec<Duration>,
    token: Vec<Duration>,
    /// The medians of the turns.
    veth_ms: Vec<f64>,
}

impl Taken {
    /// The hops alone, milliseconds.
    pub(crate) fn hops_ms(&self) -> f64 {
        Times::new(self.hops.clone()).p50_ms()
    }

    fn token_ms(&self) -> f64 {
        Times::new(self.token.clone()).p50_ms()
    }

    fn veth_ms(&self) -> f64 {
        median(self.veth_ms.clone())
    }

    /// Hops, a token signed and verified at each, and one veth pair with its addresses, milliseconds.
    pub(crate) fn attach_ms(&self) -> f64 {
        self.hops_ms() + HOPS as f64 * self.token_ms() + self.veth_ms()
    }

    /// The parts of an attach.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let figure = |name: &str, ms| Figure::new(name, ms, "ms", self.hops.len());
        vec![
            figure("floor.hops_p50_ms", self.hops_ms()),
            figure("floor.token_p50_ms", self.token_ms()),
            figure("floor.veth_p50_ms", self.veth_ms()),
            figure("floor.attach_ms", self.attach_ms()),
        ]
    }
}

impl Floor {
    /// Beside the node whose identities are used.
    pub(crate) async fn start(node: &Node) -> Result<Self> {
        Ok(Self {
            hops: Hops::start(node).await?,
            identity: node.identity().clone(),
            veth_program: node.programs_folder().join("veth-floor"),
        })
    }

    /// One turn: all that an attach needs, so many times.
    pub(crate) async fn attaches(&mut self, rounds: usize, taken: &mut Taken) -> Result<()> {
        self.calls(rounds, taken).await?;
        for _ in 0..rounds {
            taken.token.push(token(&self.identity)?);
        }
        taken.veth_ms.push(self.veth_ms(rounds)?);
        Ok(())
    }

    /// One turn: the hops alone, so many times.
    pub(crate) async fn calls(&mut self, rounds: usize, taken: &mut Taken) -> Result<()> {
        for _ in 0..WARM_UP {
            self.hops.call().await?;
        }
        for _ in 0..rounds {
            taken.hops.push(self.hops.call().await?);
        }
        Ok(())
    }

    /// The median of a veth pair with addresses and routes, by netlink alone, in a process of its own; milliseconds.
    fn veth_ms(&self, rounds: usize) -> Result<f64> {
        let file = &self.veth_program;
        let done = Command::new(file)
            .arg(rounds.to_string())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", file.display()))?;
        anyhow::ensure!(done.status.success(), "{} failed", file.display());
        let printed = String::from_utf8(done.stdout)?;
        let line = printed.lines().find(|line| line.starts_with("floor:"));
        let micros = line.and_then(|line| {
            line.split_once("p50")?
                .1
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        });
        Ok(micros.with_context(|| format!("no floor in {printed}"))? / 1e3)
    }

    /// Ends the servers.
    pub(crate) async fn end(self) -> Result<()> {
        self.hops.end().await
    }
}

/// Calls of a turn that do not count, for another program had the CPU before.
pub(crate) const WARM_UP: usize = 2;

/// A token signed by one side and verified by the other.
fn token(identity: &Identity) -> Result<Duration> {
    let component = Component::new("floor");
    let Credentials { svid, .. } = identity.current();
    let leaf = svid.certificates.first().context("an SVID has a certificate")?;
    let fresh = Tokens::new(Duration::from_secs(600));
    let began = Instant::now();
    let token = fresh.issue(&svid, None, component.now())?;
    anyhow::ensure!(verify_es256(&token.token, leaf), "our own token does not verify");
    Ok(began.elapsed())
}
