// SPDX-License-Identifier: Apache-2.0
//! Beside the Go implementation: programs on its SDK and ours, of the same topology and with the same kind of
//! identities, asked by one client in this process, by turns.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::figure::Figure;

mod calls;
mod cpu;
mod files;
mod load;
mod memory;
mod mesh;
mod registry;
mod start;
mod taken;

use files::Files;
use mesh::{Kind, Mesh};

/// Beside the Go implementation: request, refresh, close, load, memory, start, registry
#[derive(Args)]
pub(crate) struct Go {
    /// Measure only this part, or these; all of them by default
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// How many connections are requested, refreshed and closed one after the other in each mesh, by turns
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// How many connections are kept at once
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// How many connections of ours come and go before its memory is looked at again
    #[arg(long, default_value_t = 10_000)]
    closed: usize,
    /// The program on the Go SDK; `interop/nsm-peer` beside the others by default
    #[arg(long, env = "NSM_GO_PEER")]
    peer: Option<PathBuf>,
    /// Where our program files are; beside this one by default
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// How long programs take until they are ready
    Start,
    /// Connections requested, refreshed and closed one after the other
    Calls,
    /// The same by 8 and by 64 callers at once, and the CPU time that requests take
    Load,
    /// What programs weigh before the first request, and with many connections
    Memory,
    /// What is left of many connections of ours that came and went
    Closed,
    /// A registry with many endpoints and watchers
    Registry,
}

impl Go {
    /// Measures everything, each part on meshes of its own.
    pub(crate) async fn run(self) -> Result<Vec<Figure>> {
        let files = Files::find(self.programs.as_deref(), self.peer.as_deref())?;
        let mut figures = Vec::new();
        if self.wants(Part::Start, "start") {
            figures.extend(start::by_turns(&files).await?);
        }
        if self.wants(Part::Calls, "request, refresh, close") {
            let measured = mesh::on([Kind::Go, Kind::Bare, Kind::Links], &files, async |meshes| {
                calls::by_turns(meshes, self.rounds).await
            });
            figures.extend(measured.await?);
        }
        if self.wants(Part::Load, "8 and 64 callers") {
            let measured = mesh::on([Kind::Go, Kind::Bare], &files, load::by_turns);
            figures.extend(measured.await?);
        }
        if self.wants(Part::Memory, "many connections") {
            let measured = mesh::on([Kind::Go, Kind::Bare], &files, async |meshes| {
                memory::many(meshes, self.connections).await
            });
            figures.extend(measured.await?);
        }
        if self.wants(Part::Closed, "connections that came and went") {
            let measured = mesh::on([Kind::Links], &files, async |[mesh]: [&Mesh; 1]| {
                memory::closed(mesh, self.closed).await
            });
            figures.extend(measured.await?);
        }
        if self.wants(Part::Registry, "registry") {
            let measured = mesh::on([Kind::GoOpen, Kind::Bare], &files, registry::by_turns);
            figures.extend(measured.await?);
        }
        Ok(figures)
    }

    /// Whether a part is wanted; says so if it is.
    fn wants(&self, part: Part, what: &str) -> bool {
        let wanted = self.only.is_empty() || self.only.contains(&part);
        if wanted {
            eprintln!("measuring: {what}");
        }
        wanted
    }
}
