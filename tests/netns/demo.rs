// SPDX-License-Identifier: Apache-2.0
//! The demo shows what it says, and is gone when it ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::Programs;
use serde_json::Value;

use crate::Bench;
use crate::world::same;

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let test = |name, run: fn() -> Result<()>| {
        bench.trial(name, async move |_| tokio::task::spawn_blocking(run).await?)
    };
    vec![
        test("the_demo_shows_four_wires_and_leaves_nothing", four_wires),
        test("the_demo_shows_the_other_wires_where_one_is_withheld", withheld),
        test("the_demo_needs_no_root", ordinary_user),
        test("a_demo_that_is_told_to_end_leaves_nothing", told_to_end),
    ]
}

fn four_wires() -> Result<()> {
    let facts = facts(&demo("exec \"$0\" demo --json --more=5")?.output()?)?;
    for key in ["first", "p50", "p99"] {
        let took = facts["attach_ms"][key].as_f64();
        ensure!(took.is_some_and(|took| took > 0.0), "{key}: {took:?}");
    }
    same("left behind", &facts["left_behind"], &Value::Array(Vec::new()))?;
    let memory = facts["rss_mib"].as_object().context("no memory")?;
    for name in [
        "nsmgr",
        "forwarder",
        "registry",
        "nsc-1",
        "nse-1",
        "nsmgr-2",
        "forwarder-2",
    ] {
        ensure!(memory.contains_key(name), "no memory of {name}: {memory:?}");
    }
    let wires = wires(&facts)?;
    let shape = |wire: &Value| {
        (
            wire["kind"].as_str().unwrap_or_default().to_string(),
            wire["path"].as_array().map_or(0, Vec::len),
            wire["ping"].as_array().map_or(0, Vec::len),
            wire["mtu"].as_u64().unwrap_or_default(),
        )
    };
    let is = |wire: &Value, kind: &str, hops, pings, mtu| {
        if wire["withheld"].is_string() {
            return Ok(());
        }
        same("wire", shape(wire), (kind.to_string(), hops, pings, mtu))
    };
    for wire in wires {
        is_compared(wire)?;
    }
    is(&wires[0], "kernel", 4, 2, 9000)?;
    is(&wires[1], "vxlan", 6, 2, 1446)?;
    is(&wires[2], "wireguard", 6, 2, 1440)?;
    is(&wires[3], "kernel", 4, 4, 9000)?;
    same(
        "in the tunnel",
        &wires[1]["tunnel"]["to"],
        &Value::from("10.77.0.2:4789"),
    )
}

/// What carries traffic stands beside the same made by hand, or is said to lack what.
fn is_compared(wire: &Value) -> Result<()> {
    let speed = &wire["speed"];
    if wire["withheld"].is_string() || (speed.is_null() && !is_installed("iperf3")) {
        return Ok(());
    }
    let ends = wire["ends"].as_array().into_iter().flatten();
    let is_by_program = ends.into_iter().any(|end| end["kind"] == "tun");
    let (hand, needed): (_, &[&str]) = match wire["kind"].as_str() {
        Some("kernel") => ("veth", &[]),
        Some("vxlan") => ("vxlan", &[]),
        _ if is_by_program => ("wireguard-go", &["wireguard-go", "wg"]),
        _ => ("wireguard", &["wg"]),
    };
    let missing: Vec<_> = needed.iter().filter(|program| !is_installed(program)).collect();
    if missing.is_empty() {
        same("what was made by hand", &speed["hand"], &Value::from(hand))?;
        let by_hand = speed["by_hand"].as_f64();
        ensure!(by_hand.is_some_and(|carried| carried > 0.0), "{speed}");
        return same("what lacks", &speed["not_compared"], &Value::Null);
    }
    let lacking = speed["not_compared"].as_str().unwrap_or_default();
    ensure!(
        missing.iter().all(|program| lacking.contains(**program)),
        "{speed}"
    );
    ensure!(lacking.contains("apt-get install"), "{speed}");
    same("what it carries", &speed["by_hand"], &Value::Null)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn withheld() -> Result<()> {
    let hidden = "mount -t tmpfs -o nodev none /dev/net && exec \"$0\" demo --json --more=1";
    let facts = facts(&demo(hidden)?.output()?)?;
    for wire in wires(&facts)? {
        // Where the kernel has WireGuard, nothing needs the device.
        let is_made = wire["ping"].as_array().is_some_and(|pings| !pings.is_empty());
        let why = wire["withheld"].as_str().unwrap_or_default();
        let names_it = wire["kind"] == "wireguard" && why.contains("/dev/net/tun");
        ensure!(is_made != names_it, "{wire}");
    }
    Ok(())
}

/// Somebody without privileges sees every wire that needs no more than a user namespace.
fn ordinary_user() -> Result<()> {
    let nobody = "mount --bind \"${0%/*}\" /mnt \
        && exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all \
            /mnt/nsm demo --json --more=1";
    let facts = facts(&demo(nobody)?.output()?)?;
    same("left behind", &facts["left_behind"], &Value::Array(Vec::new()))?;
    for wire in wires(&facts)? {
        let is_made = wire["ping"].as_array().is_some_and(|pings| !pings.is_empty());
        let may_be_withheld = wire["kind"] == "wireguard" && wire["withheld"].is_string();
        ensure!(is_made != may_be_withheld, "{wire}");
    }
    Ok(())
}

fn told_to_end() -> Result<()> {
    for (moment, code) in [("issuer is ready", 1), ("wire 2", 1), ("It is running", 0)] {
        let mut demo = demo("exec \"$0\" demo --keep")?
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut folder = None;
        let told = BufReader::new(demo.stderr.take().context("no output")?);
        for line in told.lines() {
            let line = line?;
            if let Some((_, path)) = line.split_once("in the folder ") {
                folder = Some(path.to_string());
            }
            if line.contains(moment) {
                let pid = rustix::process::Pid::from_child(&demo);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            }
        }
        let status = demo.wait()?;
        let folder = folder.context("the demo names no folder")?;
        ensure!(!std::path::Path::new(&folder).exists(), "{folder} is left");
        same(&format!("the exit code at `{moment}`"), status.code(), Some(code))?;
    }
    Ok(())
}

/// A shell line in which `$0` is `nsm`, in a mount namespace of its own; the demo makes the others.
fn demo(line: &str) -> Result<Command> {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", line])
        .arg(Programs::beside_us()?.file("nsm")?)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    Ok(command)
}

fn facts(done: &Output) -> Result<Value> {
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}: {told}", done.status);
    Ok(serde_json::from_slice(&done.stdout)?)
}

fn wires(facts: &Value) -> Result<&[Value; 4]> {
    let wires = facts["wires"].as_array().context("no wires")?;
    wires.as_slice().try_into().context("not four wires")
}
