// SPDX-License-Identifier: Apache-2.0
//! Two nodes: the real programs in namespaces of their own, with a network between them.

use std::path::PathBuf;

use anyhow::Result;
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
        let mut figures = self.nodes(&programs, &kinds).await?;
        match hand::no_wireguard()? {
            None => {
                let kernels = self
                    .nodes(&programs, &[Kind::Local, Kind::WireGuardKernel])
                    .await?;
                // Local wires are made here as well, to compare; what they take is told once.
                figures.extend(
                    kernels
                        .into_iter()
                        .filter(|figure| !figure.name.contains(".local_")),
                );
            }
            Some(why) => eprintln!("left out: WireGuard of the kernel, since it makes no such device: {why}"),
        }
        if self.wants(Part::Memory) {
            say("many tunnels");
            let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
            let stage = Stage::start(&programs, folder.path(), &[Kind::WireGuardUser]).await?;
            figures.extend(attach::many(&stage).await?);
            stage.end().await?;
        }
        Ok(figures)
    }

    /// Measures all but memory, on two nodes with wires of these kinds.
    async fn nodes(&self, programs: &Programs, kinds: &[Kind]) -> Result<Vec<Figure>> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let stage = Stage::start(programs, folder.path(), kinds).await?;
        let mut figures = Vec::new();
        if self.wants(Part::Attach) {
            say("attach");
            figures.extend(attach::by_turns(&stage, kinds, self.rounds).await?);
        }
        if self.wants(Part::AtOnce) && kinds.contains(&Kind::WireGuardUser) {
            say("100 at once");
            figures.extend(attach::at_once(&stage).await?);
        }
        if self.wants(Part::Throughput) || self.wants(Part::Roundtrip) {
            let told = |kind: &Kind| *kind != Kind::Local || kinds.contains(&Kind::Vxlan);
            for kind in kinds.iter().copied().filter(told) {
                say(&format!("traffic of {}", kind.name()));
                figures.extend(traffic::measure(&stage, kind, self).await?);
            }
        }
        stage.end().await?;
        Ok(figures)
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

fn say(what: &str) {
    eprintln!("measuring: {what}");
}
