// SPDX-License-Identifier: Apache-2.0
//! The story of a mesh in Kubernetes, told by the commands that people type.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{self, Cluster, Kubernetes};
use crate::kubernetes;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(50);

const MESH: &str = "nsm-system";
const HOME: &str = "ns-annotation";
const SHOP: &str = "deployment/shop";

/// A line of shell that prints the address of the endpoint.
const PEER: &str = "ip -4 route show dev nsm-1 | { read peer others; echo $peer; }";

/// Tells it on a cluster of its own.
///
/// Errors: what did not come out as it should.
pub(super) fn run() -> Result<()> {
    println!("building the programs and their images");
    let archives = cluster::images_for_development()?;
    println!("starting a Kubernetes of two nodes on this machine, and giving each the images");
    kubernetes::with_cluster("demo", Kubernetes::default(), &archives, |cluster| {
        let story = Story {
            program: cluster::program()?,
            cluster,
            began: now(),
        };
        story.apply()?;
        story.annotate()?;
        story.kill_the_mesh()?;
        story.kill_the_endpoint()?;
        story.delete()
    })
}

struct Story<'a> {
    program: PathBuf,
    cluster: &'a Cluster,
    began: Instant,
}

impl Story<'_> {
    fn apply(&self) -> Result<()> {
        self.chapter("One command makes a mesh");
        let began = now();
        self.shown(&["apply", "-k", "deployments/overlays/dev"])?;
        for workload in [
            "daemonset/issuer",
            "daemonset/nsmgr",
            "daemonset/forwarder",
            "deployment/registry-k8s",
            "deployment/admission-webhook-k8s",
        ] {
            self.rolled_out(MESH, workload)?;
        }
        self.fact(&format!(
            "everything is ready after {:.1} s",
            began.elapsed().as_secs_f64()
        ));
        self.shown(&["get", "pods", "-n", MESH, "-o", "wide"]).map(drop)
    }

    fn annotate(&self) -> Result<()> {
        self.chapter("An annotation gives a workload a wire");
        self.shown(&["apply", "-k", "deployments/examples/annotation"])?;
        self.rolled_out(HOME, "deployment/nse-kernel")?;
        let waits = "trap exit TERM; sleep 1000000 & wait";
        self.shown(&[
            "create",
            "deployment",
            "shop",
            "-n",
            HOME,
            "--image=busybox:1.37",
            "--",
            "sh",
            "-c",
            waits,
        ])?;
        self.rolled_out(HOME, SHOP)?;
        let began = now();
        let annotation = "networkservicemesh.io=kernel://annotation/nsm-1";
        self.shown(&["annotate", SHOP, "-n", HOME, annotation])?;
        self.rolled_out(HOME, SHOP)?;
        self.eventually("the shop pings the endpoint", || self.ping())?;
        let took = began.elapsed().as_secs_f64();
        self.fact(&format!(
            "its pod was made again and pings the endpoint after {took:.1} s"
        ));
        self.shown(&[
            "exec", "-n", HOME, SHOP, "--", "ip", "-4", "address", "show", "nsm-1",
        ])?;
        let peer = self.shell(PEER)?;
        self.shown(&["exec", "-n", HOME, SHOP, "--", "ping", "-c3", peer.trim()])?;
        self.shown(&["get", "netsvc,nse", "-n", MESH]).map(drop)
    }

    fn kill_the_mesh(&self) -> Result<()> {
        self.chapter("The mesh dies, and no packet is lost");
        self.shell(&format!(
            "ping -q -i 0.01 $({PEER}) </dev/null >/tmp/pings 2>&1 & echo $! >/tmp/ping"
        ))?;
        for app in ["nsmgr", "forwarder", "registry"] {
            self.shown(&["delete", "pods", "-n", MESH, "-l", &format!("app={app}")])?;
        }
        for workload in [
            "daemonset/nsmgr",
            "daemonset/forwarder",
            "deployment/registry-k8s",
        ] {
            self.rolled_out(MESH, workload)?;
        }
        self.shell("kill -INT $(cat /tmp/ping)")?;
        let told = self.eventually("the pings end", || {
            let told = self.shell("cat /tmp/pings")?;
            ensure!(told.contains("packets received"), "they go on: {told}");
            Ok(told)
        })?;
        let (sent, received) = counts(&told).with_context(|| format!("this is not how pings end: {told}"))?;
        self.fact(&format!(
            "{received} of {sent} pings were answered meanwhile, a hundred a second"
        ));
        // The last one may have been under way.
        ensure!(
            received + 1 >= sent,
            "pings were lost: {received} of {sent} were answered"
        );
        Ok(())
    }

    fn kill_the_endpoint(&self) -> Result<()> {
        self.chapter("The endpoint dies, and the wire heals");
        let began = now();
        self.shown(&["delete", "pods", "-n", HOME, "-l", "app=nse-kernel"])?;
        self.rolled_out(HOME, "deployment/nse-kernel")?;
        self.eventually("the shop pings an endpoint again", || self.ping())?;
        let took = began.elapsed().as_secs_f64();
        self.fact(&format!(
            "the shop pings the new one, {took:.1} s after the command"
        ));
        Ok(())
    }

    fn delete(&self) -> Result<()> {
        self.chapter("Two commands remove everything");
        self.shown(&["delete", "-k", "deployments/examples/annotation"])?;
        self.shown(&["delete", "-k", "deployments/overlays/dev"])?;
        for node in ["node1", "node2"] {
            let links = self.run("on", &[node, "ip", "-brief", "link", "show"])?;
            let known = ["lo", "eth0", "pods"];
            let name = |link: &str| link.split([' ', '@']).next().unwrap_or_default().to_string();
            let left: Vec<_> = links
                .lines()
                .map(name)
                .filter(|name| !known.contains(&name.as_str()))
                .collect();
            ensure!(left.is_empty(), "{node} still has the devices {left:?}");
            let find = [
                node,
                "find",
                "/var/lib/networkservicemesh",
                "/run/spire",
                "-type",
                "s",
            ];
            let sockets = self.run("on", &find)?;
            ensure!(sockets.is_empty(), "{node} still has the sockets {sockets}");
        }
        self.fact("left behind: nothing, no device and no socket on either node");
        Ok(())
    }

    fn ping(&self) -> Result<String> {
        self.shell(&format!("ping -c1 -W1 $({PEER})"))
    }

    /// Runs a line of shell in the shop.
    fn shell(&self, line: &str) -> Result<String> {
        self.kubectl(&["exec", "-n", HOME, SHOP, "--", "sh", "-c", line])
    }

    fn rolled_out(&self, namespace: &str, workload: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", "--timeout=120s", "-n", namespace, workload])
            .map(drop)
    }

    /// Runs kubectl, and shows what people would see.
    fn shown(&self, arguments: &[&str]) -> Result<String> {
        println!("  $ kubectl {}", arguments.join(" "));
        let told = self.kubectl(arguments)?;
        for line in told.lines() {
            println!("    {line}");
        }
        Ok(told)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments)
    }

    fn run(&self, what: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg(what).args(arguments).envs(self.cluster.variables());
        let told = command.current_dir(crate::root()).output();
        let told = told.with_context(|| format!("could not start {}", self.program.display()))?;
        let [out, err] = [&told.stdout, &told.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        let line = arguments.join(" ");
        ensure!(
            told.status.success(),
            "{what} {line}: {}\n{out}{err}",
            told.status
        );
        Ok(out)
    }

    fn eventually<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let until = now() + PATIENCE;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(error) if now() > until => return Err(error.context(what.to_string())),
                Err(_) => pause(),
            }
        }
    }

    fn chapter(&self, title: &str) {
        println!("\n{:6.1} s  {title}\n", self.began.elapsed().as_secs_f64());
    }

    fn fact(&self, text: &str) {
        println!("  → {text}");
    }
}

/// How many pings were sent, and how many answered.
fn counts(told: &str) -> Option<(u64, u64)> {
    let line = told.lines().find(|line| line.contains(" packets received"))?;
    let mut parts = line.split(", ");
    let sent = parts.next()?.strip_suffix(" packets transmitted")?;
    let received = parts.next()?.strip_suffix(" packets received")?;
    Some((sent.parse().ok()?, received.parse().ok()?))
}

#[allow(clippy::disallowed_methods, reason = "a real cluster lives in real time")]
fn now() -> Instant {
    Instant::now()
}

/// The pause between two looks, in a program without a runtime.
#[allow(clippy::disallowed_methods, reason = "no task waits meanwhile")]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_ping_are_understood() {
        let told = "\n--- 10.0.0.1 ping statistics ---\n12 packets transmitted, 11 packets received, 8% packet loss\n";
        assert_eq!(counts(told), Some((12, 11)));
        assert_eq!(counts("PING 10.0.0.1"), None);
    }
}
