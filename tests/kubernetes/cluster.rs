// SPDX-License-Identifier: Apache-2.0
//! The cluster that tests use, as kubectl and its nodes show it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The nodes of the cluster.
pub(crate) const NODES: [&str; 2] = ["node1", "node2"];

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The cluster that is running.
pub(crate) struct Cluster {
    program: PathBuf,
}

impl Cluster {
    /// The one that the environment names.
    pub(crate) fn of_environment() -> Option<Self> {
        let program = std::env::var_os("NSM_CLUSTER")?;
        Some(Self {
            program: program.into(),
        })
    }

    /// Runs kubectl. Returns what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments)
    }

    /// Runs a command on a node.
    pub(crate) fn on(&self, node: &str, command: &[&str]) -> Result<String> {
        self.run("on", &[&[node], command].concat())
    }

    fn run(&self, what: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        let told = command.arg(what).args(arguments).output();
        let told = told.with_context(|| format!("could not start {}", self.program.display()))?;
        if !told.status.success() {
            let (out, err) = (
                String::from_utf8_lossy(&told.stdout),
                String::from_utf8_lossy(&told.stderr),
            );
            bail!("{what} {}: {}\n{out}{err}", arguments.join(" "), told.status);
        }
        Ok(String::from_utf8_lossy(&told.stdout).into_owned())
    }

    /// Applies a folder of `deployments/`.
    pub(crate) fn apply(&self, folder: &str) -> Result<()> {
        self.kubectl(&["apply", "--kustomize", &deployments(folder)])
            .map(drop)
    }

    /// Deletes what a folder of `deployments/` describes, and waits until it is gone.
    pub(crate) fn delete(&self, folder: &str) -> Result<()> {
        self.kubectl(&["delete", "--wait", "--kustomize", &deployments(folder)])
            .map(drop)
    }

    /// Waits until a ping from a container named `app` is answered. Returns how long that took.
    pub(crate) fn await_ping(&self, namespace: &str, deployment: &str, to: &str) -> Result<Duration> {
        let pod = format!("deployment/{deployment}");
        let ping = [
            "exec",
            "--namespace",
            namespace,
            &pod,
            "--container",
            "app",
            "--",
            "ping",
            "-c1",
            "-W1",
            to,
        ];
        let began = now();
        self.eventually(&format!("{namespace}/{deployment} pings {to}"), || {
            self.kubectl(&ping).map(drop)
        })?;
        Ok(began.elapsed())
    }

    /// Tries until something succeeds.
    pub(crate) fn eventually<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let until = now() + PATIENCE;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(error) if now() > until => return Err(error.context(what.to_string())),
                Err(_) => sleep(PAUSE),
            }
        }
    }

    /// What people would look at when something is wrong.
    pub(crate) fn tell(&self) -> String {
        let looks: [&[&str]; 2] = [
            &["get", "pods", "--all-namespaces", "--output", "wide"],
            &[
                "get",
                "events",
                "--all-namespaces",
                "--field-selector",
                "type!=Normal",
            ],
        ];
        let mut told: Vec<_> = looks
            .iter()
            .map(|look| self.kubectl(look).unwrap_or_default())
            .collect();
        let pods = self
            .kubectl(&["get", "pods", "--all-namespaces", "--no-headers"])
            .unwrap_or_default();
        for pod in pods.lines() {
            let mut words = pod.split_whitespace();
            if let (Some(namespace), Some(name)) = (words.next(), words.next()) {
                let logs = [
                    "logs",
                    "--namespace",
                    namespace,
                    name,
                    "--all-containers",
                    "--tail=30",
                    "--prefix",
                ];
                told.push(self.kubectl(&logs).unwrap_or_default());
            }
        }
        told.join("\n")
    }
}

/// The path of a folder of `deployments/`.
fn deployments(folder: &str) -> String {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deployments");
    tree.join(folder).display().to_string()
}

#[allow(clippy::disallowed_methods, reason = "a real cluster lives in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
