// SPDX-License-Identifier: Apache-2.0
//! Wires of the examples, and what is left of them.

use anyhow::{Context, Result, ensure};

use nsm_tests::kubectl::{Cluster, NODES, now};

/// The addresses that every example's endpoint gives out.
const ENDPOINT: &str = "172.16.1.100";
const CLIENT: &str = "172.16.1.101";

/// The programs of the overlay `dev`.
const PROGRAMS: [&str; 5] = [
    "daemonset/issuer",
    "daemonset/nsmgr",
    "daemonset/forwarder",
    "deployment/registry-k8s",
    "deployment/admission-webhook-k8s",
];

/// Everything of a mesh and of the simplest example, from nothing to the first ping.
pub(crate) fn first(cluster: &Cluster) -> Result<()> {
    let began = now();
    cluster.apply("overlays/dev")?;
    cluster.apply("examples/kernel2kernel")?;
    cluster.await_ping("ns-kernel2kernel", "deployment/nsc-kernel", ENDPOINT)?;
    println!(
        "figure k8s.apply_to_first_ping_s {:.2}",
        began.elapsed().as_secs_f64()
    );
    for program in PROGRAMS {
        cluster.rolled_out("nsm-system", program)?;
    }
    wire(cluster, "kernel2kernel", 1)
}

/// A wire of Ethernet between nodes.
pub(crate) fn of_ethernet(cluster: &Cluster) -> Result<()> {
    cluster.apply("examples/kernel2ethernet2kernel")?;
    wire(cluster, "kernel2ethernet2kernel", 2)
}

/// A wire of IP between nodes.
pub(crate) fn of_ip(cluster: &Cluster) -> Result<()> {
    cluster.apply("examples/kernel2ip2kernel")?;
    wire(cluster, "kernel2ip2kernel", 2)
}

/// Whether the wire of an example carries pings both ways, between pods on as many nodes, and goes with it.
fn wire(cluster: &Cluster, example: &str, nodes: usize) -> Result<()> {
    let namespace = format!("ns-{example}");
    let took = cluster.await_ping(&namespace, "deployment/nsc-kernel", ENDPOINT)?;
    cluster.await_ping(&namespace, "deployment/nse-kernel", CLIENT)?;
    println!("{example}: pings both ways, after {:.2} s", took.as_secs_f64());
    let places = [
        "get",
        "pods",
        "--namespace",
        &namespace,
        "--output",
        "jsonpath={.items[*].spec.nodeName}",
    ];
    let places = cluster.kubectl(&places)?;
    let mut places: Vec<_> = places.split_whitespace().collect();
    places.sort_unstable();
    places.dedup();
    ensure!(
        places.len() == nodes,
        "the pods are on {places:?}, not on {nodes} nodes"
    );
    cluster.delete(&format!("examples/{example}"))
}

/// Pods that are deleted under a wire are made again by their deployments, and so is the wire; it is used by what follows.
pub(crate) fn again(cluster: &Cluster) -> Result<()> {
    let (example, namespace) = ("examples/kernel2ethernet2kernel", "ns-kernel2ethernet2kernel");
    cluster.apply(example)?;
    cluster.await_ping(namespace, "deployment/nsc-kernel", ENDPOINT)?;
    for app in ["nsc-kernel", "nse-kernel"] {
        let label = format!("app={app}");
        cluster.kubectl(&["delete", "pods", "--namespace", namespace, "--selector", &label])?;
        cluster.rolled_out(namespace, &format!("deployment/{app}"))?;
        let took = cluster.await_ping(namespace, "deployment/nsc-kernel", ENDPOINT)?;
        println!("{app} is there again: pings after {:.2} s", took.as_secs_f64());
    }
    Ok(())
}

/// The smallest mesh, whose registry is in memory, from nothing to nothing.
pub(crate) fn in_memory(cluster: &Cluster) -> Result<()> {
    cluster.apply("overlays/memory")?;
    for example in ["kernel2kernel", "kernel2ethernet2kernel"] {
        cluster.apply(&format!("examples/{example}"))?;
    }
    wire(cluster, "kernel2kernel", 1)?;
    wire(cluster, "kernel2ethernet2kernel", 2)?;
    removed(cluster, "overlays/memory")
}

/// What the mesh of the overlay `dev` leaves.
pub(crate) fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    let kinds = "nse,netsvc";
    let registered = cluster.kubectl(&["get", kinds, "--all-namespaces", "--output", "name"])?;
    let foreign: Vec<_> = registered
        .lines()
        .filter(|name| !name.contains("/forwarder-"))
        .collect();
    ensure!(
        foreign.iter().all(|name| name.starts_with("networkservice.")),
        "still registered: {foreign:?}"
    );
    removed(cluster, "overlays/dev")
}

/// Removes a mesh, and looks at what it leaves on the nodes: no device, no socket, no pod.
pub(crate) fn removed(cluster: &Cluster, overlay: &str) -> Result<()> {
    cluster.delete(overlay)?;
    for node in NODES {
        let links = cluster.on(node, &["ip", "-brief", "link", "show"])?;
        let ours = links.lines().filter(|link| {
            !["lo", "eth0", "pods"]
                .iter()
                .any(|known| link.split([' ', '@']).next() == Some(*known))
        });
        let ours: Vec<_> = ours.collect();
        ensure!(ours.is_empty(), "{node} still has {ours:?}");
        let (mesh, identities) = ("/var/lib/networkservicemesh", "/run/spire/*");
        let find = [
            "find", mesh, "/run", "-type", "s", "(", "-path", identities, "-o", "-path", "/var/*", ")",
        ];
        let sockets = cluster.on(node, &find).context("the folders are there")?;
        ensure!(sockets.is_empty(), "{node} still has {sockets}");
    }
    let left = cluster.kubectl(&["get", "pods", "--all-namespaces", "--no-headers"])?;
    ensure!(left.is_empty(), "there are still pods:\n{left}");
    Ok(())
}
