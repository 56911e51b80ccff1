// SPDX-License-Identifier: Apache-2.0
//! The devices of wires, made by hand: what they carry is what there is to reach.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::mesh::{Host, Node, Pod, Program, Start};

use super::facts::Wire;
use super::stage::Stage;

/// The ports on which tunnels by hand listen; not those of wires.
const VXLAN_PORT: &str = "4790";
const WIREGUARD_PORT: &str = "41999";

/// How long `wireguard-go` may take to start.
const TO_START: Duration = Duration::from_secs(10);

/// Two pods with a device in each, joined without our programs.
pub(crate) struct Hand {
    /// What it is: `veth`, `vxlan`, `wireguard`, or `wireguard-go` where the kernel has none.
    pub(crate) name: &'static str,
    pub(crate) near: Pod,
    pub(crate) far: Pod,
    /// Where the far end is.
    pub(crate) to: IpAddr,
    /// The processes that carry its packets, if the kernel does not.
    programs: Vec<Program>,
}

impl Hand {
    /// Makes what is to be compared with this wire; or answers what this machine lacks for it, and the remedy.
    pub(crate) async fn make(stage: &Stage, wire: &Wire) -> Result<Result<Self, String>> {
        let name = match wire.kind.as_str() {
            "kernel" => "veth",
            "vxlan" => "vxlan",
            _ if wire.ends.iter().any(|end| end.kind == "wireguard") => "wireguard",
            _ => "wireguard-go",
        };
        if let Some(lacking) = lacking(name) {
            return Ok(Err(lacking));
        }
        let mut hand = Self {
            name,
            near: Pod::new("hand-1")?,
            far: Pod::new("hand-2")?,
            to: Ipv4Addr::new(10, 99, 0, 2).into(),
            programs: Vec::new(),
        };
        let mtu = wire.mtu.to_string();
        match name {
            "veth" => {
                let peer = format!("peer name hand mtu {mtu} netns {}", hand.far.name());
                shell(
                    &hand.near,
                    &format!("ip link add hand mtu {mtu} type veth {peer}"),
                )?;
            }
            "vxlan" => hand.vxlan(stage, &mtu)?,
            _ => hand.wireguard(stage, &mtu).await?,
        }
        for (pod, last) in [(&hand.near, 1), (&hand.far, 2)] {
            let lines = format!("ip addr add 10.99.0.{last}/24 dev hand; ip link set hand up");
            shell(pod, &lines)?;
        }
        Ok(Ok(hand))
    }

    /// The packets go by the hosts, and the devices are in the pods.
    fn vxlan(&self, stage: &Stage, mtu: &str) -> Result<()> {
        let [one, two] = hosts(stage)?;
        for (here, there, pod) in [(one, two, &self.near), (two, one, &self.far)] {
            let (pod, local, remote) = (pod.name(), here.ip(), there.ip());
            let ends = format!("local {local} remote {remote} dstport {VXLAN_PORT}");
            let line = format!("ip link add hand mtu {mtu} netns {pod} type vxlan id 99 {ends}");
            shell(here.pod(), &line)?;
        }
        Ok(())
    }

    /// The devices are made on the hosts and moved to the pods, so that encrypted packets go by the hosts.
    async fn wireguard(&mut self, stage: &Stage, mtu: &str) -> Result<()> {
        let hosts = hosts(stage)?;
        let mut keys = Vec::new();
        for host in hosts {
            let born = born(host);
            if self.name == "wireguard" {
                shell(host.pod(), &format!("ip link add {born} type wireguard"))?;
            } else {
                self.programs
                    .push(wireguard_go(host, stage.first.folder()).await?);
            }
            let lines = format!(
                "wg genkey | wg set {born} private-key /dev/stdin listen-port {WIREGUARD_PORT}
                 wg show {born} public-key"
            );
            keys.push(shell(host.pod(), &lines)?.trim().to_string());
        }
        let others = hosts.iter().zip(&keys).rev();
        for ((here, pod), (there, key)) in hosts.iter().zip([&self.near, &self.far]).zip(others) {
            let (born, pod, remote) = (born(here), pod.name(), there.ip());
            let peer = format!("peer {key} allowed-ips 0.0.0.0/0 endpoint {remote}:{WIREGUARD_PORT}");
            let lines = format!(
                "wg set {born} {peer}
                 ip link set {born} mtu {mtu}
                 ip link set {born} netns {pod} name hand"
            );
            shell(here.pod(), &lines)?;
        }
        Ok(())
    }
}

/// What is not installed that makes such a device, and how it comes.
fn lacking(name: &str) -> Option<String> {
    let needed: &[(&str, &str)] = match name {
        "wireguard" => &[("wg", "wireguard-tools")],
        "wireguard-go" => &[("wireguard-go", "wireguard-go"), ("wg", "wireguard-tools")],
        _ => &[],
    };
    let is_missing = |(program, _): &&(&str, &str)| Command::new(program).arg("--version").output().is_err();
    let (programs, packages): (Vec<_>, Vec<_>) = needed.iter().filter(is_missing).copied().unzip();
    (!programs.is_empty()).then(|| {
        format!(
            "{} not found: on Debian and Ubuntu `apt-get install {}`",
            programs.join(" and "),
            packages.join(" ")
        )
    })
}

fn hosts(stage: &Stage) -> Result<[&Host; 2]> {
    let [one, two] = stage.nodes().map(Node::host);
    Ok([
        one.context("a node without a host")?,
        two.context("a node without a host")?,
    ])
}

/// Starts `wireguard-go` on a host, with a device of its own.
async fn wireguard_go(host: &Host, folder: &Path) -> Result<Program> {
    let born = born(host);
    let what = Start {
        name: &format!("wireguard-go-{}", host.pod().name()),
        file: Path::new("wireguard-go"),
        pod: Some(host.pod()),
        folder,
    };
    let mut program = Program::start(what, &["-f", &born], &[])?;
    let answers = async |_: &Program| shell(host.pod(), &format!("wg show {born}")).ok().map(drop);
    program
        .wait_for("it answered", Instant::now() + TO_START, answers)
        .await?;
    Ok(program)
}

/// The name of a WireGuard device while it is on its host.
fn born(host: &Host) -> String {
    format!("hand-{}", host.pod().name())
}

/// Runs lines in a namespace; answers with what they printed.
fn shell(pod: &Pod, lines: &str) -> Result<String> {
    let done = pod.command("sh").args(["-ec", lines]).output()?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`{lines}` failed: {}", told.trim());
    Ok(String::from_utf8(done.stdout)?)
}
