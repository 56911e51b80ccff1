// SPDX-License-Identifier: Apache-2.0
//! What breaks below a mesh: the control plane, kubelets, and whole nodes.

use anyhow::{Result, ensure};
use nsm_tests::kubectl::pings::Pings;
use nsm_tests::kubectl::{Cluster, NODES, now};
use serde_json::Value;

use crate::annotation::{HOME, MESH, client, interfaces, is_ready};
use crate::outages::{API_SERVER, nothing_lost};

/// How the command of a kubelet begins, behind the folder.
pub(crate) const KUBELET: &str = "/kube kubelet";

/// What has a wire between nodes.
const FAR: &str = "ns-kernel2ethernet2kernel";

/// A pod for the example's service, on this node.
fn client_on(node: &str, name: &str) -> Value {
    let mut pod = client(name);
    pod["spec"]["nodeName"] = node.into();
    pod
}

/// A new pod on this node gets its wire, and goes again.
fn is_served(cluster: &Cluster, node: &str) -> Result<()> {
    cluster.eventually("a pod can be made", || {
        cluster.apply_object(&client_on(node, "later"))
    })?;
    cluster.await_peer(HOME, "pod/later", "nsm-1")?;
    delete(cluster, "later")
}

fn delete(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster
        .kubectl(&["delete", "pod", pod, "--namespace", HOME, "--wait"])
        .map(drop)
}

/// The API server and etcd are killed at once and come again: wires carry packets, and what is registered is still there.
pub(crate) fn control_plane_starts_anew(cluster: &Cluster) -> Result<()> {
    let pings = Pings::start(cluster, HOME, "pod/steady")?;
    let registered = || {
        let names = ["get", "nse", "--namespace", MESH, "--output", "name"];
        cluster.kubectl(&names)
    };
    let before = registered()?;
    cluster.signal("control", API_SERVER, "KILL")?;
    cluster.signal("control", "/kube etcd", "KILL")?;
    let began = now();
    let after = cluster.eventually("the API server answers again", registered)?;
    for name in before.lines() {
        ensure!(
            after.contains(name),
            "{name} is not registered any more:\n{after}"
        );
    }
    for node in NODES {
        is_served(cluster, node)?;
    }
    let took = began.elapsed().as_secs_f64();
    println!("after the control plane was killed, new pods of both nodes had their wires in {took:.2} s");
    nothing_lost("while the control plane was started anew", pings.stop()?)
}

/// The kubelet of every node is killed and comes again: nothing of the mesh is started anew, and wires carry packets.
pub(crate) fn kubelet_starts_anew(cluster: &Cluster) -> Result<()> {
    let pings = Pings::start(cluster, HOME, "pod/steady")?;
    let before = restarts(cluster)?;
    for node in NODES {
        cluster.signal(node, KUBELET, "KILL")?;
        is_served(cluster, node)?;
    }
    let after = restarts(cluster)?;
    ensure!(
        before == after,
        "containers were started anew:\n{before}\n{after}"
    );
    nothing_lost("while kubelets were started anew", pings.stop()?)
}

/// How often each container of the mesh was started anew.
fn restarts(cluster: &Cluster) -> Result<String> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";
    cluster.kubectl(&["get", "pods", "--namespace", MESH, "--output", path])
}

/// A node is cut off, and its pod made again on another one: for a while there are two of one name, and each has its
/// wire. The first one's end takes nothing from the second.
pub(crate) fn twins(cluster: &Cluster) -> Result<()> {
    let [here, there] = NODES;
    let none = interfaces(cluster)?;
    cluster.apply_object(&client_on(there, "twin"))?;
    is_ready(cluster, "pod/twin")?;
    cluster.await_peer(HOME, "pod/twin", "nsm-1")?;
    cluster.signal(there, KUBELET, "STOP")?;
    let made = replaced(cluster, here);
    cluster.signal(there, KUBELET, "CONT")?;
    let pings = made?;
    let took = cluster.until("the wire of the first one is closed", || {
        Ok(interfaces(cluster)? == none + 1)
    })?;
    println!(
        "the first of two pods of one name was gone {:.2} s after its node was back",
        took.as_secs_f64()
    );
    cluster.await_peer(HOME, "pod/twin", "nsm-1")?;
    nothing_lost("while the other pod of the same name ended", pings.stop()?)?;
    delete(cluster, "twin")?;
    cluster
        .until("the wire of the second one is closed", || {
            Ok(interfaces(cluster)? == none)
        })
        .map(drop)
}

/// The second one, with its wire in use.
fn replaced<'a>(cluster: &'a Cluster, node: &str) -> Result<Pings<'a>> {
    let forget = [
        "delete",
        "pod",
        "twin",
        "--namespace",
        HOME,
        "--force",
        "--grace-period=0",
    ];
    cluster.kubectl(&forget)?;
    cluster.apply_object(&client_on(node, "twin"))?;
    is_ready(cluster, "pod/twin")?;
    cluster.await_peer(HOME, "pod/twin", "nsm-1")?;
    Pings::start(cluster, HOME, "pod/twin")
}

/// A node loses its power and comes again, with its files and nothing else: sockets of programs that are no more, and
/// pods that all start anew. Their wires come again by themselves, and so do those of others to them. Nobody has closed
/// the former ones, and the endpoint on the other node has one pair of addresses: it gives it to the same client again.
pub(crate) fn node_loses_its_power(cluster: &Cluster) -> Result<()> {
    let [_, lost] = NODES;
    cluster.await_peer(FAR, "deployment/nsc-kernel", "nsm-1")?;
    let before = restarts_on(cluster, lost)?;
    cluster.signal("control", "cluster node 2", "KILL")?;
    let began = now();
    cluster.until("the node's manager and forwarder were started anew", || {
        let after = restarts_on(cluster, lost)?;
        Ok(after.len() == before.len() && after.iter().zip(&before).all(|(after, before)| after > before))
    })?;
    for workload in ["daemonset/nsmgr", "daemonset/forwarder"] {
        cluster.rolled_out(MESH, workload)?;
    }
    cluster.rolled_out(FAR, "deployment/nse-kernel")?;
    cluster.rolled_out(FAR, "deployment/nsc-kernel")?;
    cluster.await_peer(FAR, "deployment/nsc-kernel", "nsm-1")?;
    for app in ["pod/steady", "deployment/app"] {
        cluster.await_peer(HOME, app, "nsm-1")?;
    }
    is_served(cluster, lost)?;
    println!(
        "after a node lost its power, all wires were there again in {:.2} s",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// How often the containers of the manager and of the forwarder of a node were started anew.
fn restarts_on(cluster: &Cluster, node: &str) -> Result<Vec<u32>> {
    let on = format!("spec.nodeName={node}");
    let get = [
        "get",
        "pods",
        "--namespace",
        MESH,
        "--field-selector",
        &on,
        "--selector",
        "app in (nsmgr,forwarder)",
        "--output",
        "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
    ];
    let counts = cluster.kubectl(&get)?;
    Ok(counts
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?)
}
