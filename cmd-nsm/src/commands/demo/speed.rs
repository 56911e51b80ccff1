// SPDX-License-Identifier: Apache-2.0
//! What wires carry, beside the same devices made by hand.

use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::mesh::{Host, Node, Pod};
use anyhow::{Context, Result, ensure};

use super::facts::{Speed, Wire};
use super::plan::PLANS;
use super::progress;
use super::stage::Stage;

/// Measures each wire for a second, if `iperf3` is there.
pub(crate) fn measure(stage: &Stage, wires: &mut [Wire]) -> Result<()> {
    if Command::new("iperf3").arg("--version").output().is_err() {
        progress("install iperf3 to see what the wires carry", None);
        return Ok(());
    }
    for (plan, wire) in PLANS.iter().zip(wires) {
        let [near, far] = stage.pods(plan)?;
        // The last address: that of the newest family.
        let Some(to) = wire.ping.iter().rfind(|ping| ping.from == near.name()) else {
            continue;
        };
        match carried(near, far, to.to).and_then(|carried| Ok((carried, by_hand(stage, wire)?))) {
            Ok((wire_speed, by_hand)) => {
                progress(
                    &format!("wire {} carries {wire_speed:.1} Gbit/s", plan.number),
                    None,
                );
                wire.speed = Some(Speed {
                    wire: wire_speed,
                    by_hand,
                });
            }
            Err(error) => progress(&format!("wire {} is not measured: {error:#}", plan.number), None),
        }
    }
    Ok(())
}

/// Gigabits in a second from `near` to the address of `far`, by one TCP stream.
fn carried(near: &Pod, far: &Pod, to: IpAddr) -> Result<f64> {
    let _server = Server::start(far)?;
    let done = near
        .command("iperf3")
        .args(["--json", "--time", "1", "--client", &to.to_string()])
        .output()?;
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).context("iperf3 printed no JSON")?;
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits = bits.with_context(|| format!("iperf3 failed: {}", said["error"]))?;
    Ok(bits / 1e9)
}

/// What a device of the same kind carries that the programs have not made; WireGuard is not made by hand.
fn by_hand(stage: &Stage, wire: &Wire) -> Result<Option<f64>> {
    let mtu = wire.mtu.to_string();
    let [one, two] = [Pod::new("hand-1")?, Pod::new("hand-2")?];
    match wire.kind.as_str() {
        "kernel" => {
            let device = ["link", "add", "hand", "mtu", &mtu, "type", "veth"];
            let peer = ["peer", "name", "hand", "mtu", &mtu, "netns", "hand-2"];
            ip(&one, &[device, peer].concat())?;
        }
        "vxlan" => {
            let hosts = stage.nodes().map(Node::host);
            let [Some(first), Some(second)] = hosts else {
                return Ok(None);
            };
            vxlan(first, second, "hand-1", &mtu)?;
            vxlan(second, first, "hand-2", &mtu)?;
        }
        _ => return Ok(None),
    }
    for (pod, address) in [(&one, "10.99.0.1/24"), (&two, "10.99.0.2/24")] {
        ip(pod, &["addr", "add", address, "dev", "hand"])?;
        ip(pod, &["link", "set", "hand", "up"])?;
    }
    carried(&one, &two, IpAddr::from([10, 99, 0, 2])).map(Some)
}

/// One end, whose packets go by the host and whose device is in the pod.
fn vxlan(here: &Host, there: &Host, pod: &str, mtu: &str) -> Result<()> {
    let (local, remote) = (here.ip().to_string(), there.ip().to_string());
    let device = ["link", "add", "hand", "mtu", mtu, "netns", pod, "type", "vxlan"];
    let ends = ["id", "99", "local", &local, "remote", &remote, "dstport", "4790"];
    ip(here.pod(), &[&device[..], &ends].concat())
}

fn ip(pod: &Pod, arguments: &[&str]) -> Result<()> {
    let done = pod.command("ip").args(arguments).output()?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success(),
        "`ip {}` failed: {}",
        arguments.join(" "),
        told.trim()
    );
    Ok(())
}

/// An iperf3 that serves once.
struct Server {
    child: Child,
    /// Kept open: it prints more.
    printed: BufReader<ChildStdout>,
}

impl Server {
    /// Starts it and waits until it listens.
    fn start(pod: &Pod) -> Result<Self> {
        let mut child = pod
            .command("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "--",
                "iperf3",
                "--server",
                "--one-off",
                "--forceflush",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let printed = child.stdout.take().context("iperf3 has no output")?;
        let mut server = Self {
            child,
            printed: BufReader::new(printed),
        };
        let mut lines = server.printed.by_ref().lines();
        let listens = lines.any(|line| line.is_ok_and(|line| line.contains("listening")));
        ensure!(listens, "iperf3 does not listen");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
