// SPDX-License-Identifier: Apache-2.0
//! Two nodes: the real programs in namespaces of their own, with a network between them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use nsm::mesh::Programs;

use crate::figure::Figure;

mod attach;
mod hand;
mod iperf;
mod stage;
mod traffic;

use stage::{Kind, Stage};

/// Two nodes: attach, throughput, round trips, memory
#[derive(Args)]
pub(crate) struct TwoNodes {
    /// Measure only this part, or these; all of them by default
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// How many wires of each kind are made and closed, by turns
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// How often each line carries what it can, by turns
    #[arg(long, default_value_t = 9)]
    turns: usize,
    /// How long each of these turns takes, seconds
    #[arg(long, default_value_t = 1)]
    seconds: usize,
    /// Where the program files are; beside this one by default
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Wires made one after the other
    Attach,
    /// Wires made at the same moment
    AtOnce,
    /// What wires carry
    Throughput,
    /// How long pings take
    Roundtrip,
    /// What many tunnels weigh
    Memory,
}

impl TwoNodes {
    /// Measures everything, or the parts that are wanted.
    pub(crate) async fn run(self) -> Result<Vec<Figure>> {
        let programs = match &self.programs {
            Some(folder) => Programs::in_folder(folder),
            None => Programs::beside_us()?,
        };
        let kinds = [Kind::Local, Kind::Vxlan, Kind::WireGuardUser];
        let mut figures = on_nodes(&programs, &kinds, async |stage| {
            let mut figures = self.attach(stage, &kinds).await?;
            if self.wants(Part::AtOnce) {
                say("100 at once");
                figures.extend(attach::at_once(stage).await?);
            }
            figures.extend(self.traffic(stage, &kinds).await?);
            Ok(figures)
        })
        .await?;
        match hand::no_wireguard()? {
            None => figures.extend(self.kernels_wireguard(&programs).await?),
            Some(why) => eprintln!("left out: WireGuard of the kernel, since it makes no such device: {why}"),
        }
        if self.wants(Part::Memory) {
            say("many tunnels");
            figures.extend(on_nodes(&programs, &[Kind::WireGuardUser], attach::many).await?);
        }
        Ok(figures)
    }

    async fn kernels_wireguard(&self, programs: &Programs) -> Result<Vec<Figure>> {
        let kinds = [Kind::Local, Kind::WireGuardKernel];
        on_nodes(programs, &kinds, async |stage| {
            let mut figures = self.attach(stage, &kinds).await?;
            // What local wires take has been told; here they are what others are compared with.
            figures.retain(|figure| figure.name != "remote_attach.local_p50_ms");
            figures.extend(self.traffic(stage, &[Kind::WireGuardKernel]).await?);
            Ok(figures)
        })
        .await
    }

    async fn attach(&self, stage: &Stage, kinds: &[Kind]) -> Result<Vec<Figure>> {
        if !self.wants(Part::Attach) {
            return Ok(Vec::new());
        }
        say("attach");
        attach::by_turns(stage, kinds, self.rounds).await
    }

    async fn traffic(&self, stage: &Stage, kinds: &[Kind]) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        if self.wants(Part::Throughput) || self.wants(Part::Roundtrip) {
            for kind in kinds.iter().copied() {
                say(&format!("traffic of {}", kind.name()));
                figures.extend(traffic::measure(stage, kind, self).await?);
            }
        }
        Ok(figures)
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Starts two nodes with wires of these kinds, measures, and ends them. When something fails their logs stay.
async fn on_nodes(
    programs: &Programs,
    kinds: &[Kind],
    measure: impl AsyncFnOnce(&Stage) -> Result<Vec<Figure>>,
) -> Result<Vec<Figure>> {
    let mut folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
    let path = folder.path().to_path_buf();
    let measured = async {
        let stage = Stage::start(programs, &path, kinds).await?;
        let figures = measure(&stage).await?;
        stage.end().await?;
        Ok(figures)
    };
    let measured: Result<_> = measured.await;
    folder.disable_cleanup(measured.is_err());
    measured.with_context(|| format!("the logs are in {}", path.display()))
}

fn say(what: &str) {
    eprintln!("measuring: {what}");
}
