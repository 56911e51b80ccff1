// SPDX-License-Identifier: Apache-2.0
//! Pods that may do no more than they need, in a mesh of the overlay `restricted`.

use anyhow::{Context, Result, ensure};
use nsm_tests::kubectl::{Cluster, NODES, peer};
use serde_json::{Value, json};

use crate::annotation::{KEY, MESH, containers, pod};
use crate::wires::removed;

const EXAMPLE: &str = "examples/restricted-namespace";
const HOME: &str = "ns-restricted-namespace";
const SERVICE: &str = "kernel://restricted-namespace/nsm-1";

/// A deployment, by the example as people apply it: its pods mount nothing of their node.
pub(crate) fn workload(cluster: &Cluster) -> Result<()> {
    cluster.apply("overlays/restricted")?;
    for program in ["daemonset/csi-driver", "deployment/admission-webhook-k8s"] {
        cluster.rolled_out(MESH, program)?;
    }
    cluster.apply(EXAMPLE)?;
    cluster.rolled_out(HOME, "deployment/app")?;
    answered(cluster)?;
    let volumes = cluster.kubectl(&[
        "get",
        "pods",
        "--namespace",
        HOME,
        "--output",
        "jsonpath={..volumes}",
    ])?;
    ensure!(
        !volumes.contains("hostPath"),
        "pods mount folders of their node: {volumes}"
    );
    for driver in ["csi.networkservicemesh.io", "csi.spiffe.io"] {
        ensure!(
            volumes.contains(driver),
            "no pod has a volume of {driver}: {volumes}"
        );
    }
    let socket = cluster.kubectl(&[
        "get",
        "pods",
        "--namespace",
        HOME,
        "--selector",
        "app=app",
        "--output",
        "jsonpath={.items[0].spec.nodeName} {.items[0].metadata.uid}",
    ])?;
    let (node, uid) = socket.split_once(' ').context("there is a pod")?;
    let mounts = cluster.on(node, &["grep", uid, "/proc/self/mountinfo"])?;
    let ours: Vec<_> = mounts
        .lines()
        .filter(|line| line.contains("kubernetes.io~csi"))
        .collect();
    ensure!(
        ours.len() == 2 && ours.iter().all(|line| line.contains(" ro,nosuid,nodev,noexec")),
        "the volumes of the pod: {mounts}"
    );
    Ok(())
}

/// What is not restricted is refused there, so that the others' wires prove something.
pub(crate) fn enforced(cluster: &Cluster) -> Result<()> {
    let refused = cluster.apply_object(&pod(HOME, "loose", &json!({}), "true"));
    let told = format!("{:#}", refused.err().context("it was let in")?);
    ensure!(told.contains("violates PodSecurity"), "{told}");
    Ok(())
}

/// A Job with a wire, in the same namespace.
pub(crate) fn job(cluster: &Cluster) -> Result<()> {
    let mut template = containers(&ask());
    template["restartPolicy"] = json!("Never");
    template["containers"][0]["securityContext"] = restricted();
    cluster.apply_object(&json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": "once", "namespace": HOME, "annotations": { KEY: SERVICE } },
        "spec": { "backoffLimit": 0, "template": { "spec": template } },
    }))?;
    let complete = [
        "wait",
        "--for=condition=complete",
        "--timeout=120s",
        "--namespace",
        HOME,
        "job/once",
    ];
    cluster.kubectl(&complete)?;
    cluster
        .kubectl(&["delete", "job/once", "--namespace", HOME, "--wait"])
        .map(drop)
}

/// The drivers are killed while a pod has their volumes: it keeps its wire, and the next drivers remove what the first have
/// made.
pub(crate) fn killed(cluster: &Cluster) -> Result<()> {
    let restarts = || -> Result<u64> {
        let told = cluster.kubectl(&[
            "get",
            "pods",
            "--namespace",
            MESH,
            "--selector",
            "app=csi-driver",
            "--output",
            "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
        ])?;
        told.split_whitespace()
            .map(|count| Ok(count.parse::<u64>()?))
            .sum()
    };
    let before = restarts()?;
    for node in NODES {
        let line = r#"for process in /proc/[0-9]*; do
             [ "$(readlink $process/exe)" = /bin/csi-driver ] && kill -KILL ${process#/proc/} && found=1
           done
           [ "$found" ]"#;
        cluster.on(node, &["sh", "-c", line])?;
    }
    cluster.until("the drivers are there again", || Ok(restarts()? == before + 2))?;
    answered(cluster)?;
    cluster.kubectl(&["rollout", "restart", "--namespace", HOME, "deployment/app"])?;
    cluster.rolled_out(HOME, "deployment/app")?;
    answered(cluster)
}

/// The namespace and the mesh go, and with them every mount, socket and driver.
pub(crate) fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    cluster.delete(EXAMPLE)?;
    removed(cluster, "overlays/restricted")?;
    for node in NODES {
        let mounts = cluster.on(node, &["cat", "/proc/self/mountinfo"])?;
        ensure!(
            !mounts.contains("kubernetes.io~csi"),
            "{node} still has volumes: {mounts}"
        );
        let sockets = cluster.on(node, &["find", "/var/lib/kubelet/plugins_registry", "-type", "s"])?;
        ensure!(sockets.is_empty(), "{node} still has {sockets}");
        cluster.until("the kubelet knows no driver any more", || {
            let drivers = ["get", "csinode", node, "--output", "jsonpath={.spec.drivers}"];
            Ok(!cluster.kubectl(&drivers)?.contains("csi."))
        })?;
    }
    Ok(())
}

/// A line of shell that asks the endpoint for a page over the wire: not every ping can do without root.
fn ask() -> String {
    format!(
        r#"printf "GET / HTTP/1.0\r\n\r\n" | nc -w 5 $({}) 8080 | while read line; do
             [ "$line" = welcome ] && exit 42
           done; [ $? = 42 ]"#,
        peer("nsm-1")
    )
}

/// Waits until the endpoint answers the client.
fn answered(cluster: &Cluster) -> Result<()> {
    cluster.await_shell(HOME, "deployment/app", &ask()).map(drop)
}

/// What the level asks of a container.
fn restricted() -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
        "seccompProfile": { "type": "RuntimeDefault" }, "capabilities": { "drop": ["ALL"] },
    })
}
