// SPDX-License-Identifier: Apache-2.0
//! What happens to a mesh in the life of its cluster: wires carry packets through all of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nsm_tests::kubectl::pings::{Count, Pings};
use nsm_tests::kubectl::{Cluster, NODES, now};

use crate::annotation::{HOME, MESH, client, is_ready};

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

/// All managers are replaced, one node after the other, as by an update.
pub(crate) fn managers_are_updated(cluster: &Cluster) -> Result<()> {
    updated(cluster, "daemonset/nsmgr", true)
}

/// And all forwarders.
pub(crate) fn forwarders_are_updated(cluster: &Cluster) -> Result<()> {
    updated(cluster, "daemonset/forwarder", true)
}

/// And the registry, on which no wire depends.
pub(crate) fn registry_is_updated(cluster: &Cluster) -> Result<()> {
    updated(cluster, "deployment/registry-k8s", false)
}

/// Replaces a workload under a wire on one node and one between nodes, until the clients have mended what that breaks.
fn updated(cluster: &Cluster, workload: &str, breaks: bool) -> Result<()> {
    let clients = [
        (HOME, "pod/steady", "cmd-nsc"),
        ("ns-kernel2ethernet2kernel", "deployment/nsc-kernel", "nsc"),
    ];
    let mended = |(namespace, pod, container): (&str, &str, &str)| -> Result<usize> {
        let logs = ["logs", "--namespace", namespace, pod, "--container", container];
        let told = cluster.kubectl(&logs)?;
        Ok(told.lines().filter(|line| line.contains(" healed ")).count())
    };
    let (mut streams, mut before) = (Vec::new(), Vec::new());
    for client in clients {
        streams.push(Pings::start(cluster, client.0, client.1)?);
        before.push(mended(client)?);
    }
    cluster.kubectl(&["rollout", "restart", "--namespace", MESH, workload])?;
    cluster.rolled_out(MESH, workload)?;
    let began = now();
    for (client, before) in clients.into_iter().zip(before).filter(|_| breaks) {
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
