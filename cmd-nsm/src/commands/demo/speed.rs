// SPDX-License-Identifier: Apache-2.0
//! What wires carry, beside the same devices made by hand.

use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::mesh::Pod;
use anyhow::{Context, Result, ensure};

use super::facts::{Speed, Wire};
use super::hand::Hand;
use super::plan::PLANS;
use super::progress;
use super::stage::Stage;

/// Measures each wire for a second, and the same device made by hand, if `iperf3` is there.
pub(crate) async fn measure(stage: &Stage, wires: &mut [Wire]) -> Result<()> {
    if Command::new("iperf3").arg("--version").output().is_err() {
        let remedy =
            "iperf3 not found: on Debian and Ubuntu `apt-get install iperf3` shows what the wires carry";
        progress(remedy, None);
        return Ok(());
    }
    for (plan, wire) in PLANS.iter().zip(wires) {
        let [near, far] = stage.pods(plan)?;
        // The last address: that of the newest family.
        let Some(to) = wire.ping.iter().rfind(|ping| ping.from == near.name()) else {
            continue;
        };
        match speed(stage, wire, [near, far], to.to).await {
            Ok(speed) => {
                let line = format!("wire {} carries {:.1} Gbit/s", plan.number, speed.wire);
                progress(&line, None);
                wire.speed = Some(speed);
            }
            Err(error) => progress(&format!("wire {} is not measured: {error:#}", plan.number), None),
        }
    }
    Ok(())
}

async fn speed(stage: &Stage, wire: &Wire, [near, far]: [&Pod; 2], to: IpAddr) -> Result<Speed> {
    let measured = Speed {
        wire: carried(near, far, to)?,
        ..Speed::default()
    };
    Ok(match compared(stage, wire).await {
        Ok((by_hand, hand)) => Speed {
            by_hand: Some(by_hand),
            hand: Some(hand),
            ..measured
        },
        Err(error) => Speed {
            not_compared: Some(format!("{error:#}")),
            ..measured
        },
    })
}

/// What the same device made by hand carries, and its name.
async fn compared(stage: &Stage, wire: &Wire) -> Result<(f64, String)> {
    let hand = Hand::make(stage, wire).await?.map_err(anyhow::Error::msg)?;
    Ok((carried(&hand.near, &hand.far, hand.to)?, hand.name.to_string()))
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
