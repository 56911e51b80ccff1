// SPDX-License-Identifier: Apache-2.0
//! The same devices as those of wires, between the same pods, made by hand: what they do is the floor.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use nsm::mesh::{Host, Pod, Program, Start};
use tokio::time::Instant;

use super::stage::{Kind, Stage};

/// The ports on which tunnels by hand listen; not those of wires.
const VXLAN_PORT: &str = "4790";
const WIREGUARD_PORT: &str = "41999";

/// How long `wireguard-go` may take to start.
const TO_START: Duration = Duration::from_secs(10);

/// A line by hand. Its devices go with the pods.
pub(crate) struct Hand {
    /// The address of the far end.
    pub(crate) to: Ipv4Addr,
    /// The processes that carry its packets, if the kernel does not.
    _programs: Vec<Program>,
}

/// One end.
struct End<'a> {
    host: &'a Host,
    pod: &'a Pod,
    address: Ipv4Addr,
}

/// The name of what is made by hand to compare such wires with, and of its devices.
pub(crate) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Local => "bare_veth",
        Kind::Vxlan => "bare_vxlan",
        Kind::WireGuardUser => "wireguard_go",
        Kind::WireGuardKernel => "bare_wireguard",
    }
}

/// Makes a line for packets of at most `mtu` bytes.
pub(crate) async fn make(stage: &Stage, kind: Kind, mtu: u64) -> Result<Hand> {
    let [one, two] = stage.hosts()?;
    let ends = [(one, stage.near(), 1), (two, stage.far(kind)?, 2)].map(|(host, pod, last)| End {
        host,
        pod,
        address: Ipv4Addr::new(10, 99, kind as u8, last),
    });
    let (device, mtu, mut programs) = (name(kind), mtu.to_string(), Vec::new());
    match kind {
        Kind::Local => veth(&ends, device, &mtu)?,
        Kind::Vxlan => vxlan(&ends, device, &mtu)?,
        Kind::WireGuardKernel => wireguard(&ends, device, &mtu)?,
        Kind::WireGuardUser => {
            for end in &ends {
                programs.push(wireguard_go(end, stage.folder()).await?);
            }
            connect(&ends, device, &mtu)?;
        }
    }
    for end in &ends {
        let address = format!("{}/24", end.address);
        shell(
            end.pod,
            &format!("ip addr add {address} dev {device}; ip link set {device} up"),
        )?;
    }
    Ok(Hand {
        to: ends[1].address,
        _programs: programs,
    })
}

/// Why the kernel makes no WireGuard devices, if it makes none.
pub(crate) fn no_wireguard() -> Result<Option<String>> {
    let pod = Pod::new("trial")?;
    let made = shell(&pod, "ip link add trial type wireguard");
    Ok(made.err().map(|error| format!("{error:#}")))
}

fn veth([one, two]: &[End<'_>; 2], device: &str, mtu: &str) -> Result<()> {
    let (near, far) = (one.pod, two.pod.name());
    let peer = format!("peer name {device} mtu {mtu} netns {far}");
    shell(near, &format!("ip link add {device} mtu {mtu} type veth {peer}")).map(drop)
}

/// The packets go by the hosts, and the devices are in the pods.
fn vxlan([one, two]: &[End<'_>; 2], device: &str, mtu: &str) -> Result<()> {
    for (here, there) in [(one, two), (two, one)] {
        let (pod, local, remote) = (here.pod.name(), here.host.ip(), there.host.ip());
        let tunnel = format!("id 99 local {local} remote {remote} dstport {VXLAN_PORT} nolearning");
        let line = format!("ip link add {device} mtu {mtu} netns {pod} type vxlan {tunnel}");
        shell(here.host.pod(), &line)?;
    }
    Ok(())
}

fn wireguard(ends: &[End<'_>; 2], device: &str, mtu: &str) -> Result<()> {
    for end in ends {
        let host = end.host.pod();
        shell(host, &format!("ip link add {} type wireguard", born(host)))?;
    }
    connect(ends, device, mtu)
}

/// Starts `wireguard-go` on a host, with a device of its own.
async fn wireguard_go(end: &End<'_>, folder: &Path) -> Result<Program> {
    let host = end.host.pod();
    let born = born(host);
    let what = Start {
        name: &format!("wireguard-go-{}", host.name()),
        file: Path::new("wireguard-go"),
        pod: Some(host),
        folder,
    };
    let mut program = Program::start(what, &["-f", &born], &[])?;
    let answers = async |_: &Program| shell(host, &format!("wg show {born}")).ok().map(drop);
    program
        .wait_for("it answered", Instant::now() + TO_START, answers)
        .await?;
    Ok(program)
}

/// Connects two WireGuard devices of the hosts and moves them to the pods.
fn connect([one, two]: &[End<'_>; 2], device: &str, mtu: &str) -> Result<()> {
    let keys = [secure(one.host.pod())?, secure(two.host.pod())?];
    for ((here, there), key) in [(one, two), (two, one)].into_iter().zip(keys.iter().rev()) {
        let (host, pod, remote) = (here.host.pod(), here.pod.name(), there.host.ip());
        let born = born(host);
        shell(
            host,
            &format!(
                "wg set {born} peer {key} allowed-ips 0.0.0.0/0 endpoint {remote}:{WIREGUARD_PORT}
                 ip link set {born} mtu {mtu}
                 ip link set {born} netns {pod} name {device}"
            ),
        )?;
    }
    Ok(())
}

/// Gives a device a key and a port; answers with its public key.
fn secure(host: &Pod) -> Result<String> {
    let born = born(host);
    let key = shell(
        host,
        &format!(
            "wg genkey | wg set {born} private-key /dev/stdin listen-port {WIREGUARD_PORT}
             wg show {born} public-key"
        ),
    )?;
    Ok(key.trim().to_string())
}

/// The name of a WireGuard device while it is on its host.
fn born(host: &Pod) -> String {
    format!("wg-{}", host.name())
}

/// Runs lines in a pod; answers with what they printed.
fn shell(pod: &Pod, lines: &str) -> Result<String> {
    let done = pod.command("sh").args(["-ec", lines]).output()?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`{lines}` failed: {}", told.trim());
    Ok(String::from_utf8(done.stdout)?)
}
