// SPDX-License-Identifier: Apache-2.0
//! `nsm demo`: two nodes, four wires, and what they take.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::mesh::{self, Snapshot};
use anyhow::{Result, bail};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

mod facts;
mod hand;
mod look;
mod measure;
mod picture;
mod plan;
mod speed;
mod stage;
mod wire;

use facts::Facts;
use plan::PLANS;
use stage::Stage;
use wire::Shown;

/// Show wires between pods of two nodes on this machine: made, measured, removed
///
/// Makes namespaces of its own (two nodes, a network between them, and a pod for each end of four wires), starts the
/// real programs in them, asks for a wire of each kind, pings through them both ways, asks many times more, and
/// removes everything. Nothing outside is touched, and no root is needed. What the machine withholds is named. Exit
/// code 0 only if every ping was answered, nothing was left, and every wire was there that the machine allows.
#[derive(Args)]
pub(crate) struct Demo {
    /// Leave it running, say how to look inside, and clean up on Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the facts as one JSON document instead of pictures
    #[arg(long)]
    json: bool,
    /// How many more wires of the first kind to ask for, one after the other; a fifth of it of each other kind
    #[arg(long, default_value_t = 100)]
    more: u32,
    /// What the network between the nodes carries in one packet, bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=9000))]
    mtu: u32,
    /// The level at which the programs log, into files that are shown when something fails
    #[arg(long, default_value = "INFO")]
    log_level: String,
}

impl Demo {
    /// Shows it.
    pub(crate) fn run(self) -> Result<ExitCode> {
        if let Some(code) = mesh::enter()? {
            return Ok(code);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut end = Signals::new()?;
            let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
            progress(
                &format!("logs and sockets are in the folder {}", folder.path().display()),
                None,
            );
            let before = Snapshot::take(None)?;
            let shown = Box::pin(self.show(folder.path(), &mut end)).await;
            let path = folder.path().to_path_buf();
            folder.close()?;
            let mut facts = shown?;
            facts
                .left_behind
                .extend(Snapshot::take(Some(&path))?.since(&before));
            facts.left_behind.extend(
                facts
                    .running
                    .iter()
                    .filter(|(_, pid)| is_running(*pid))
                    .map(|(name, pid)| format!("process {name} ({pid})")),
            );
            // What has been printed is not repeated, and a script gets one document.
            if !self.keep {
                self.print(&facts)?;
            }
            if self.json {
                eprintln!("{}", facts.left());
            } else {
                println!("{}", facts.left());
            }
            Ok(ExitCode::from(u8::from(!facts.is_good())))
        })
    }

    /// Makes everything, waits if it is to be kept, and removes it.
    async fn show(&self, folder: &Path, end: &mut Signals) -> Result<Facts> {
        let (stage, shown, mut facts) = end.or(Box::pin(self.make(folder))).await?;
        if self.keep {
            self.print(&facts)?;
            stage.say_how_to_look_inside(&shown);
            end.wait().await;
            progress("everything is being removed", None);
        }
        end.or(async {
            for shown in shown {
                shown.close().await?;
            }
            facts.left_behind = stage.left_of_wires().await?;
            stage.end().await?;
            progress("everything is closed", None);
            Ok(facts)
        })
        .await
    }

    /// Starts the nodes, makes the wires, and measures them.
    async fn make(&self, folder: &Path) -> Result<(Stage, Vec<Shown>, Facts)> {
        let stage = Stage::build(folder, self.mtu, &self.log_level).await?;
        let mut facts = Facts {
            underlay_mtu: self.mtu,
            ..Facts::default()
        };
        let mut shown = Vec::new();
        for plan in &PLANS {
            let (wire, running) = wire::make(&stage, plan).await?;
            facts.wires.push(wire);
            shown.extend(running);
        }
        measure::repeat(&stage, &mut facts.wires, self.more).await?;
        let programs = stage.programs().chain(shown.iter().flat_map(Shown::programs));
        for program in programs {
            facts.rss_mib.insert(
                program.name().to_string(),
                program.memory_kib()?.resident as f64 / 1024.0,
            );
            facts.running.push((program.name().to_string(), program.pid()));
        }
        speed::measure(&stage, &mut facts.wires).await?;
        facts.sum_up();
        Ok((stage, shown, facts))
    }

    fn print(&self, facts: &Facts) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(facts)?);
        } else {
            print!("{facts}");
        }
        Ok(())
    }
}

/// What tells us to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The work, unless we are told to end before it is done; what it has made goes with it.
    async fn or<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.wait() => bail!("told to end; everything is removed"),
        }
    }
}

/// Tells on the way what is done.
fn progress(what: &str, took: Option<Duration>) {
    match took {
        None => eprintln!("  {what}"),
        Some(took) => eprintln!("  {what:<52} {:>9.1} ms", took.as_secs_f64() * 1e3),
    }
}

fn is_running(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
