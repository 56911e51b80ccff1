// SPDX-License-Identifier: Apache-2.0
//! What happens to a mesh in the life of its cluster: wires carry packets through all of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nsm_tests::kubectl::pings::{Count, Pings};
use nsm_tests::kubectl::{Cluster, NODES, now};

use crate::annotation::{HOME, MESH, client, is_ready};
use crate::standstill::Standstill;

/// How long the API server is away. Nodes that it does not hear of for 40 seconds are given up.
const AWAY: Duration = Duration::from_secs(20);

/// How its command begins, behind the folder.
pub(crate) const API_SERVER: &str = "/kube kube-apiserver";

/// The object of an endpoint is deleted by hand under a wire: no packet is lost, and new clients find it again.
pub(crate) fn object_is_deleted(cluster: &Cluster) -> Result<()> {
    cluster.apply_object(&client("steady"))?;
    is_ready(cluster, "pod/steady")?;
    let pings = Pings::start(cluster, HOME, "pod/steady")?;
    let endpoints = ["get", "nse", "--namespace", MESH, "--output", "name"];
    let found = cluster.kubectl(&endpoints)?;
    let object = found.lines().find(|name| name.contains("nse-kernel"));
    let object = object.with_context(|| format!("no endpoint among {found}"))?;
    cluster.kubectl(&["delete", "--namespace", MESH, object, "--wait"])?;
    let took = cluster.until("the endpoint is registered again", || {
        Ok(cluster.kubectl(&endpoints)?.contains("nse-kernel"))
    })?;
    println!(
        "a deleted endpoint was registered again after {:.2} s",
        took.as_secs_f64()
    );
    cluster.apply_object(&client("later"))?;
    cluster.await_peer(HOME, "pod/later", "nsm-1")?;
    nothing_lost("while the object of the endpoint was deleted", pings.stop()?)?;
    cluster
        .kubectl(&["delete", "pod/later", "--namespace", HOME, "--wait"])
        .map(drop)
}

/// The API server stops answering: wires carry packets, and when it is back new ones are made.
pub(crate) fn no_api_server(cluster: &Cluster) -> Result<()> {
    let pings = Pings::start(cluster, HOME, "pod/steady")?;
    cluster.signal("control", API_SERVER, "STOP")?;
    let (back, stopped) = (now() + AWAY, now());
    let asked = || cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=1s"]);
    while now() < back {
        ensure!(asked().is_err(), "the API server answers");
    }
    cluster.signal("control", API_SERVER, "CONT")?;
    cluster.eventually("the API server answers again", asked)?;
    println!(
        "the API server was away for {:.1} s",
        stopped.elapsed().as_secs_f64()
    );
    nothing_lost("while the API server was away", pings.stop()?)?;
    cluster.apply_object(&client("later"))?;
    cluster.await_peer(HOME, "pod/later", "nsm-1")?;
    cluster
        .kubectl(&["delete", "pod/later", "--namespace", HOME, "--wait"])
        .map(drop)
}

/// A client under whose wire a workload is replaced: its namespace, its pod, and the container that asks for the wire.
type Client = (&'static str, &'static str, &'static str);

/// On one node.
const NEAR: Client = (HOME, "pod/steady", "cmd-nsc");

/// Between nodes, by VXLAN.
const FAR: Client = ("ns-kernel2ethernet2kernel", "deployment/nsc-kernel", "nsc");

/// Between nodes, by WireGuard, and the example that makes it.
const ENCRYPTED: Client = ("ns-kernel2ip2kernel", "deployment/nsc-kernel", "nsc");
const ENCRYPTED_EXAMPLE: &str = "examples/kernel2ip2kernel";

/// How long a wire of WireGuard may stand still while the forwarders of both nodes are replaced: where the kernel has
/// none, the forwarder itself carries it. The successor starts, and the client asks it for the wire again.
const STANDSTILL: Duration = Duration::from_secs(30);

/// How long it may when neither of its ends is replaced. Where the kernel has no WireGuard a process carries packets, and
/// waits for a processor as others do, so single ones are lost: a ping is then answered no sooner than a second later.
const HESITATION: Duration = Duration::from_secs(4);

/// All managers are replaced, one node after the other, as by an update.
pub(crate) fn managers_are_updated(cluster: &Cluster) -> Result<()> {
    let update = || updated(cluster, "daemonset/nsmgr", &[NEAR, FAR], true);
    encrypted_stays(cluster, update)
}

/// And all forwarders, where the kernel carries the packets.
pub(crate) fn forwarders_are_updated(cluster: &Cluster) -> Result<()> {
    updated(cluster, "daemonset/forwarder", &[NEAR, FAR], true)
}

/// And all forwarders, where they may carry the packets themselves.
pub(crate) fn forwarders_of_wireguard_are_updated(cluster: &Cluster) -> Result<()> {
    with_encrypted(cluster, || {
        let standstill = Standstill::start(cluster, ENCRYPTED.0, ENCRYPTED.1)?;
        updated(cluster, "daemonset/forwarder", &[NEAR], true)?;
        let stood = standstill.stop()?;
        println!(
            "while the forwarders were updated, a wire of WireGuard stood still for {:.2} s",
            stood.as_secs_f64()
        );
        ensure!(
            stood <= STANDSTILL,
            "a wire of WireGuard stood still for {stood:?}"
        );
        Ok(())
    })
}

/// And the registry, on which no wire depends.
pub(crate) fn registry_is_updated(cluster: &Cluster) -> Result<()> {
    let update = || updated(cluster, "deployment/registry-k8s", &[NEAR, FAR], false);
    encrypted_stays(cluster, update)
}

/// Does something under a wire of WireGuard that replaces neither of its ends: the tunnel is not made anew.
fn encrypted_stays(cluster: &Cluster, work: impl FnOnce() -> Result<()>) -> Result<()> {
    with_encrypted(cluster, || {
        let device = || -> Result<String> {
            let told = cluster.shell(ENCRYPTED.0, ENCRYPTED.1, "ip -o link show nsm-1")?;
            Ok(told.split(':').next().unwrap_or_default().to_string())
        };
        let before = device()?;
        let standstill = Standstill::start(cluster, ENCRYPTED.0, ENCRYPTED.1)?;
        work()?;
        let stood = standstill.stop()?;
        println!(
            "a wire of WireGuard meanwhile stood still for {:.2} s",
            stood.as_secs_f64()
        );
        ensure!(
            device()? == before,
            "the tunnel was made anew: the device is not {before} any more"
        );
        ensure!(
            stood <= HESITATION,
            "a wire of WireGuard stood still for {stood:?}"
        );
        Ok(())
    })
}

/// Does something under a wire of WireGuard, which is there no longer than that.
fn with_encrypted(cluster: &Cluster, work: impl FnOnce() -> Result<()>) -> Result<()> {
    cluster.apply(ENCRYPTED_EXAMPLE)?;
    let done = cluster
        .rolled_out(ENCRYPTED.0, "deployment/nse-kernel")
        .and_then(|()| cluster.rolled_out(ENCRYPTED.0, "deployment/nsc-kernel"))
        .and_then(|()| cluster.await_peer(ENCRYPTED.0, ENCRYPTED.1, "nsm-1").map(drop))
        .and_then(|()| work());
    let deleted = cluster.delete(ENCRYPTED_EXAMPLE);
    done.and(deleted)
}

/// Replaces a workload under wires, until the clients have mended what that breaks.
fn updated(cluster: &Cluster, workload: &str, clients: &[Client], breaks: bool) -> Result<()> {
    let mended = |(namespace, pod, container): Client| -> Result<usize> {
        let logs = ["logs", "--namespace", namespace, pod, "--container", container];
        let told = cluster.kubectl(&logs)?;
        Ok(told.lines().filter(|line| line.contains(" healed ")).count())
    };
    let (mut streams, mut before) = (Vec::new(), Vec::new());
    for &client in clients {
        streams.push(Pings::start(cluster, client.0, client.1)?);
        before.push(mended(client)?);
    }
    cluster.kubectl(&["rollout", "restart", "--namespace", MESH, workload])?;
    cluster.rolled_out(MESH, workload)?;
    let began = now();
    for (&client, before) in clients.iter().zip(before).filter(|_| breaks) {
        cluster.until("the client has mended its connection", || {
            Ok(mended(client)? > before)
        })?;
    }
    println!(
        "after {workload} was updated, all is mended in {:.2} s",
        began.elapsed().as_secs_f64()
    );
    cluster.apply_object(&client("later"))?;
    cluster.await_peer(HOME, "pod/later", "nsm-1")?;
    let delete = ["delete", "pod/later", "--namespace", HOME, "--wait"];
    cluster.kubectl(&delete)?;
    let counts = streams.into_iter().map(Pings::stop).collect::<Result<Vec<_>>>()?;
    let lost = counts.iter().map(|count| count.lost).sum::<u64>();
    println!("figure k8s.rolling_update_lost_packets {lost} ({workload})");
    for count in counts {
        nothing_lost(&format!("while {workload} was updated"), count)?;
    }
    Ok(())
}

/// A node is emptied: what was there is made on the other one, and connected again.
pub(crate) fn node_is_drained(cluster: &Cluster) -> Result<()> {
    // Its pods could not go to the same node.
    cluster.delete("examples/kernel2ethernet2kernel")?;
    let [_, drained] = NODES;
    let drain = [
        "drain",
        drained,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        "--timeout=120s",
    ];
    let done = cluster.kubectl(&drain).and_then(|_| {
        cluster.rolled_out(HOME, "deployment/app")?;
        cluster.await_peer(HOME, "deployment/app", "nsm-1")
    });
    cluster.kubectl(&["uncordon", drained])?;
    println!(
        "after a node was drained, pods ping in {:.2} s",
        done?.as_secs_f64()
    );
    Ok(())
}

pub(crate) fn nothing_lost(when: &str, count: Count) -> Result<()> {
    println!("{when}: {} of {} pings were lost", count.lost, count.sent);
    ensure!(
        count.lost == 0,
        "{when} {} of {} pings were lost",
        count.lost,
        count.sent
    );
    Ok(())
}
