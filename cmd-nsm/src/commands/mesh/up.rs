// SPDX-License-Identifier: Apache-2.0
//! Starts a mesh that outlives the command.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tokio::time::Instant;

use super::{ask, keeper};

/// How long all programs may take to start.
const TO_START: Duration = Duration::from_secs(120);

/// The pause between two looks whether the mesh is there.
const PAUSE: Duration = Duration::from_millis(5);

/// The log of the mesh itself, in its folder.
pub(super) const LOG: &str = "mesh.log";

/// Start a mesh and leave it running
///
/// Each node has a manager and a forwarder; the first one has the registry as well. They are joined by a network of
/// their own. The command returns when all of them are ready.
#[derive(Args)]
pub(super) struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(super) nodes: u8,
    /// What the network between the nodes carries in one packet, bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=9000))]
    pub(super) mtu: u32,
    /// The level at which the programs log
    #[arg(long, default_value = "INFO")]
    pub(super) log_level: String,
    /// Stay here until Ctrl-C or `nsm mesh down`
    #[arg(long)]
    foreground: bool,
}

impl Up {
    /// Starts it, or becomes it.
    pub(super) fn run(self) -> Result<ExitCode> {
        let folder = ask::folder()?;
        if !crate::mesh::is_inside() {
            ensure!(
                !ask::is_up()?,
                "a mesh is running in {} already: end it by `nsm mesh down`, or name another folder by NSM_MESH",
                folder.display()
            );
            prepare(&folder)?;
        }
        if self.foreground {
            return keeper::run(self, &folder);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.start(&folder))
    }

    /// Starts this program again, in a session of its own, and waits until it answers.
    async fn start(&self, folder: &Path) -> Result<ExitCode> {
        let began = Instant::now();
        let log = std::fs::File::create(folder.join(LOG))?;
        let mut keeper = Command::new("setsid")
            .arg(std::env::current_exe().context("cannot find our own program file")?)
            .args(["mesh", "up", "--foreground"])
            .args(["--nodes", &self.nodes.to_string(), "--mtu", &self.mtu.to_string()])
            .args(["--log-level", &self.log_level])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start setsid: install the package util-linux")?;
        while !ask::is_up()? {
            let ended = keeper.try_wait()?;
            if ended.is_some() || began.elapsed() > TO_START {
                let _it_may_have_ended = keeper.kill();
                let told = std::fs::read_to_string(folder.join(LOG)).unwrap_or_default();
                bail!("the mesh did not start; it told:\n{told}");
            }
            tokio::time::sleep(PAUSE).await;
        }
        println!(
            "a mesh of {} node{} is up after {:.2} s; its logs are in {}",
            self.nodes,
            if self.nodes == 1 { "" } else { "s" },
            began.elapsed().as_secs_f64(),
            folder.display()
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// An empty folder that nobody else may look into. What a mesh that was killed has left there goes.
fn prepare(folder: &Path) -> Result<()> {
    if folder.join(LOG).exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let is_empty = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => true,
    };
    ensure!(
        is_empty,
        "{} has something in it that is no mesh's: name another folder by NSM_MESH",
        folder.display()
    );
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    // Whoever comes next knows by it that the folder is ours.
    std::fs::write(folder.join(LOG), "")?;
    Ok(())
}
