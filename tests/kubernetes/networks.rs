// SPDX-License-Identifier: Apache-2.0
//! The networks of the cluster, from which no wire gets an address.

use anyhow::{Result, ensure};
use nsm_tests::kubectl::Cluster;
use serde_json::json;

/// The networks of the cluster's pods and services.
const PODS: &str = "100.65.0.0/16";
const SERVICES: &str = "100.66.0.0/16";

/// What an endpoint would give out, in this order: a part of either, and what is free.
const OFFERED: &str = "NSM_CIDR_PREFIX=[100.65.7.0/24,100.66.7.0/24,172.16.7.0/24]";
const FREE: &str = "172.16.7.";

/// The example whose endpoint offers them.
const EXAMPLE: &str = "examples/kernel2kernel";
const HOME: &str = "ns-kernel2kernel";

/// An endpoint that would rather give out addresses of pods and of services gives a client others, from the manager's
/// first request on.
pub(crate) fn are_excluded(cluster: &Cluster) -> Result<()> {
    // As kubeadm leaves it.
    let setup = format!("networking:\n  podSubnet: {PODS}\n  serviceSubnet: {SERVICES}\n");
    cluster.apply_object(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "kubeadm-config", "namespace": "kube-system" },
        "data": { "ClusterConfiguration": setup },
    }))?;
    are_told(cluster)?;
    cluster.kubectl(&[
        "rollout",
        "restart",
        "--namespace",
        "nsm-system",
        "daemonset/nsmgr",
    ])?;
    cluster.rolled_out("nsm-system", "daemonset/nsmgr")?;

    cluster.apply(EXAMPLE)?;
    cluster.kubectl(&[
        "set",
        "env",
        "--namespace",
        HOME,
        "deployment/nse-kernel",
        OFFERED,
    ])?;
    cluster.rolled_out(HOME, "deployment/nse-kernel")?;
    cluster.kubectl(&["rollout", "restart", "--namespace", HOME, "deployment/nsc-kernel"])?;
    cluster.rolled_out(HOME, "deployment/nsc-kernel")?;
    cluster.await_peer(HOME, "deployment/nsc-kernel", "nsm-1")?;
    let show = "ip -4 -o address show dev nsm-1; ip -4 route show dev nsm-1";
    let told = cluster.shell(HOME, "deployment/nsc-kernel", show)?;
    ensure!(told.contains(FREE), "it has no address that is free:\n{told}");
    for used in ["100.65.", "100.66."] {
        ensure!(
            !told.contains(used),
            "it has an address of the cluster's:\n{told}"
        );
    }
    cluster.delete(EXAMPLE)?;
    cluster
        .kubectl(&["delete", "configmap/kubeadm-config", "--namespace", "kube-system"])
        .map(drop)
}

/// Waits until the manager of every node is told both networks.
fn are_told(cluster: &Cluster) -> Result<()> {
    let find = "cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/excluded-prefixes/excluded_prefixes.yaml";
    for node in nsm_tests::kubectl::NODES {
        cluster.until("the manager is told the cluster's networks", || {
            let told = cluster.on(node, &["sh", "-c", find])?;
            Ok(told.contains(PODS) && told.contains(SERVICES))
        })?;
    }
    Ok(())
}
