// SPDX-License-Identifier: Apache-2.0
//! The programs of the mesh, each a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use super::Pod;

/// How long a program may take to end after SIGTERM before it is killed.
const TO_END: Duration = Duration::from_secs(20);

/// Where the program files are.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// Beside our own program file, or beside the directory of a test or benchmark.
    pub fn beside_us() -> Result<Self> {
        let us = std::env::current_exe().context("cannot find our own program file")?;
        let mut folder = us.parent().unwrap_or(Path::new("/"));
        if folder.ends_with("deps") || folder.ends_with("examples") {
            folder = folder.parent().unwrap_or(folder);
        }
        Ok(Self(folder.to_path_buf()))
    }

    /// In this directory.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The file of one program.
    pub fn file(&self, program: &str) -> Result<PathBuf> {
        let file = self.0.join(program);
        if !file.is_file() {
            bail!(
                "{} is not built: run `cargo build --workspace` with the same profile",
                file.display()
            );
        }
        Ok(file)
    }
}

/// A running program. It is ended when this is dropped, and killed by the kernel when we die.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// What it is called here; its output goes to `<folder>/<name>.log`.
    pub name: &'a str,
    /// The program file.
    pub file: &'a Path,
    /// The pod that it runs in, or none for the node itself.
    pub pod: Option<&'a Pod>,
    /// Where its log goes.
    pub folder: &'a Path,
}

impl Program {
    /// Starts a program with these arguments and variables, and no variables of ours.
    pub fn start(what: Start<'_>, arguments: &[&str], variables: &[(&str, String)]) -> Result<Self> {
        let log = what.folder.join(format!("{}.log", what.name));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = match what.pod {
            Some(pod) => pod.command("setpriv"),
            None => Command::new("setpriv"),
        };
        let child = command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(what.file)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", what.name))?;
        Ok(Self {
            name: what.name.to_string(),
            child,
            log,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `ready` answers something, or fails when the program ends first or `until` passes.
    pub async fn wait_for<T>(
        &mut self,
        what: &str,
        until: Instant,
        mut ready: impl AsyncFnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        loop {
            if let Some(answer) = ready(self).await {
                return Ok(answer);
            }
            if let Some(status) = self.ended()? {
                bail!(
                    "{} ended ({status}) before {what}; it printed:\n{}",
                    self.name,
                    self.printed()
                );
            }
            if Instant::now() >= until {
                bail!(
                    "{} took too long: {what} did not happen; it printed:\n{}",
                    self.name,
                    self.printed()
                );
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Its resident memory, KiB, and the part of it that is its own and not shared with program files.
    pub fn memory_kib(&self) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").trim().parse().ok()
        };
        Ok(Memory {
            resident: line("VmRSS:").context("no VmRSS in /proc")?,
            anonymous: line("RssAnon:").context("no RssAnon in /proc")?,
        })
    }

    /// How many file descriptors it holds, by kind (`socket`, `anon_inode`, a path …).
    pub fn descriptors(&self) -> Result<std::collections::BTreeMap<String, usize>> {
        let mut kinds = std::collections::BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.pid()))? {
            let Ok(target) = std::fs::read_link(entry?.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            let kind = target.split_once(':').map_or(target.as_ref(), |(kind, _)| kind);
            *kinds.entry(kind.to_string()).or_default() += 1;
        }
        Ok(kinds)
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Kills it, as `kill -9` does, and waits until it is gone.
    pub fn kill(mut self) -> Result<()> {
        self.signal(rustix::process::Signal::KILL);
        self.child.wait()?;
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _it_may_have_ended = rustix::process::kill_process(pid, signal);
    }

    /// Tells it to end, waits, and answers with its exit status; kills it when it takes too long.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.terminate();
        let until = Instant::now() + TO_END;
        while Instant::now() < until {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.signal(rustix::process::Signal::KILL);
        self.child.wait()?;
        bail!("{} did not end within {TO_END:?} and was killed", self.name)
    }
}

/// The memory of a process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All that is resident, KiB.
    pub resident: u64,
    /// What is its alone, KiB.
    pub anonymous: u64,
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(rustix::process::Signal::KILL);
            let _reaped = self.child.wait();
        }
    }
}
