// SPDX-License-Identifier: Apache-2.0
//! The cluster that tests and benchmarks use, as kubectl and its nodes show it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub mod pings;

/// The nodes of the cluster.
pub const NODES: [&str; 2] = ["node1", "node2"];

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The cluster that is running.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
}

impl Cluster {
    /// The one that the environment names.
    pub fn of_environment() -> Option<Self> {
        let program = std::env::var_os("NSM_CLUSTER")?;
        Some(Self {
            program: program.into(),
        })
    }

    /// Runs kubectl. Returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments)
    }

    /// Runs a command on a node.
    pub fn on(&self, node: &str, command: &[&str]) -> Result<String> {
        self.run("on", &[&[node], command].concat())
    }

    /// Sends a signal to the process of a host (a node, or `control`) whose command line has this in it.
    pub fn signal(&self, host: &str, command: &str, signal: &str) -> Result<()> {
        let line = format!(
            r#"for process in /proc/[0-9]*; do
                 [ "$process" = "/proc/$$" ] && continue
                 case "$(tr '\0' ' ' <$process/cmdline 2>/dev/null)" in
                   *"{command} "*) kill -{signal} "${{process#/proc/}}"; exit ;;
                 esac
               done
               exit 1"#
        );
        self.on(host, &["sh", "-c", &line]).map(drop)
    }

    fn run(&self, what: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        let told = command.arg(what).args(arguments).output();
        let told = told.with_context(|| format!("could not start {}", self.program.display()))?;
        printed(what, arguments, &told).map(|[out, _]| out)
    }

    /// Runs kubectl with a text to read. Returns all that it printed.
    fn feed(&self, arguments: &[&str], text: &str) -> Result<String> {
        let mut child = Command::new(&self.program)
            .arg("kubectl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", self.program.display()))?;
        let mut input = child.stdin.take().context("it is piped")?;
        input.write_all(text.as_bytes())?;
        drop(input);
        printed("kubectl", arguments, &child.wait_with_output()?).map(|both| both.concat())
    }

    /// Applies an object. Returns what kubectl says about it, warnings among it.
    pub fn apply_object(&self, object: &Value) -> Result<String> {
        self.feed(&["apply", "--filename", "-"], &object.to_string())
    }

    /// Makes an object. Returns what became of it, as the API server tells.
    pub fn create_object(&self, object: &Value) -> Result<Value> {
        let create = ["create", "--filename", "-", "--output", "json"];
        let told = self.feed(&create, &object.to_string())?;
        serde_json::from_str(&told).with_context(|| format!("this is no object: {told}"))
    }

    /// Waits until a workload of a namespace has all its pods.
    pub fn rolled_out(&self, namespace: &str, workload: &str) -> Result<()> {
        let status = [
            "rollout",
            "status",
            "--timeout=120s",
            "--namespace",
            namespace,
            workload,
        ];
        self.kubectl(&status).map(drop)
    }

    /// Runs a line of shell in a container named `app`. Returns what it printed.
    pub fn shell(&self, namespace: &str, pod: &str, line: &str) -> Result<String> {
        let exec = [
            "exec",
            "--namespace",
            namespace,
            pod,
            "--container",
            "app",
            "--",
            "sh",
            "-c",
            line,
        ];
        self.kubectl(&exec)
    }

    /// Applies a folder of `deployments/`.
    pub fn apply(&self, folder: &str) -> Result<()> {
        self.kubectl(&["apply", "--kustomize", &deployments(folder)])
            .map(drop)
    }

    /// Deletes what a folder of `deployments/` describes, and waits until it is gone.
    pub fn delete(&self, folder: &str) -> Result<()> {
        self.kubectl(&["delete", "--wait", "--kustomize", &deployments(folder)])
            .map(drop)
    }

    /// Waits until a ping from a container named `app` is answered. Returns how long that took.
    pub fn await_ping(&self, namespace: &str, pod: &str, to: &str) -> Result<Duration> {
        self.await_shell(namespace, pod, &format!("ping -c1 -W1 {to}"))
    }

    /// Waits until whoever is at the other end of a wire answers a ping. Returns how long that took.
    pub fn await_peer(&self, namespace: &str, pod: &str, interface: &str) -> Result<Duration> {
        self.await_shell(namespace, pod, &format!("ping -c1 -W1 $({})", peer(interface)))
    }

    /// Waits until a line of shell succeeds in a container named `app`. Returns how long that took.
    pub fn await_shell(&self, namespace: &str, pod: &str, line: &str) -> Result<Duration> {
        let began = now();
        self.eventually(&format!("{namespace}/{pod}: {line}"), || {
            self.shell(namespace, pod, line)
        })?;
        Ok(began.elapsed())
    }

    /// Tries until something succeeds.
    pub fn eventually<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let until = now() + PATIENCE;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(error) if now() > until => return Err(error.context(what.to_string())),
                Err(_) => pause(),
            }
        }
    }

    /// Looks until something holds. Returns how long that took.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
        let began = now();
        self.eventually(what, || {
            ensure!(holds()?, "it does not hold");
            Ok(())
        })?;
        Ok(began.elapsed())
    }

    /// What people would look at when something is wrong.
    pub fn tell(&self) -> String {
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

/// A line of shell that prints the address at the other end of a wire.
pub fn peer(interface: &str) -> String {
    format!("ip -4 route show dev {interface} | {{ read peer others; echo $peer; }}")
}

/// What a command printed, and what it complained of.
fn printed(what: &str, arguments: &[&str], told: &Output) -> Result<[String; 2]> {
    let [out, err] = [&told.stdout, &told.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    ensure!(
        told.status.success(),
        "{what} {}: {}\n{out}{err}",
        arguments.join(" "),
        told.status
    );
    Ok([out, err])
}

/// The path of a folder of `deployments/`.
fn deployments(folder: &str) -> String {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deployments");
    tree.join(folder).display().to_string()
}

/// The time.
#[allow(clippy::disallowed_methods, reason = "a real cluster lives in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day, by which containers tell when they said something.
#[allow(clippy::disallowed_methods, reason = "a real cluster lives in real time")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The pause between two looks, in a program without a runtime.
#[allow(clippy::disallowed_methods, reason = "no task waits meanwhile")]
fn pause() {
    std::thread::sleep(PAUSE);
}
