// SPDX-License-Identifier: Apache-2.0
//! Pods that know nothing of the mesh and get their wire by an annotation.
//!
//! Their endpoint is that of the example `annotation`, which [`workload`] applies and [`namespace_is_deleted`] removes.

use anyhow::{Context, Result, ensure};
use nsm_tests::kubectl::{Cluster, peer};
use serde_json::{Value, json};

/// The annotation.
pub(crate) const KEY: &str = "networkservicemesh.io";

/// The namespace of the example.
pub(crate) const HOME: &str = "ns-annotation";

/// What its endpoint serves.
pub(crate) const SERVICE: &str = "kernel://annotation/nsm-1";

/// The webhook's namespace, and its deployment.
pub(crate) const MESH: &str = "nsm-system";
const WEBHOOK: &str = "deployment/admission-webhook-k8s";

/// What a container does that only waits.
pub(crate) const WAIT: &str = "trap exit TERM; sleep 1000000 & wait";

/// A pod whose container `app` runs a line of shell.
pub(crate) fn pod(namespace: &str, name: &str, annotations: &Value, line: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "annotations": annotations },
        "spec": containers(line),
    })
}

/// What is in such a pod.
pub(crate) fn containers(line: &str) -> Value {
    json!({
        "containers": [{
            "name": "app", "image": "busybox:1.37", "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", line],
        }],
    })
}

/// The annotation for the example's service.
pub(crate) fn annotated() -> Value {
    json!({ KEY: SERVICE })
}

/// A pod that waits, for the example's service.
pub(crate) fn client(name: &str) -> Value {
    pod(HOME, name, &annotated(), WAIT)
}

/// A deployment, by the example as people apply it.
pub(crate) fn workload(cluster: &Cluster) -> Result<()> {
    cluster.rolled_out(MESH, WEBHOOK)?;
    cluster.apply("examples/annotation")?;
    cluster.rolled_out(HOME, "deployment/app")?;
    let took = cluster.await_peer(HOME, "deployment/app", "nsm-1")?;
    println!(
        "an annotated deployment pings, {:.2} s after it was ready",
        took.as_secs_f64()
    );
    let told = cluster.kubectl(&["get", "netsvc,nse", "--namespace", MESH])?;
    ensure!(told.contains("annotation"), "kubectl shows no service:\n{told}");
    Ok(())
}

/// A pod of its own: its wire is there before its first container starts.
pub(crate) fn single_pod(cluster: &Cluster) -> Result<()> {
    let line = format!(
        "set -e; ip -o link show nsm-1; ping -c1 -W1 $({}); {WAIT}",
        peer("nsm-1")
    );
    cluster.apply_object(&pod(HOME, "single", &annotated(), &line))?;
    is_ready(cluster, "pod/single")?;
    let restarts = cluster.kubectl(&[
        "get",
        "pod/single",
        "--namespace",
        HOME,
        "--output",
        "jsonpath={.status.containerStatuses[0].restartCount}",
    ])?;
    ensure!(
        restarts == "0",
        "the container began {restarts} times before it had a wire"
    );
    cluster.await_peer(HOME, "pod/single", "nsm-1").map(drop)
}

/// How many interfaces the example's endpoint has.
pub(crate) fn interfaces(cluster: &Cluster) -> Result<usize> {
    let links = cluster.shell(HOME, "deployment/nse-kernel", "ip -o link")?;
    Ok(links.lines().count())
}

/// What the deletion of that pod leaves at its endpoint: the sidecar closes the wire, and nobody waits for tokens to expire.
pub(crate) fn deletion(cluster: &Cluster) -> Result<()> {
    let before = interfaces(cluster)?;
    cluster.kubectl(&["delete", "pod/single", "--namespace", HOME, "--wait"])?;
    let took = cluster.until("the endpoint has lost the wire", || {
        Ok(interfaces(cluster)? + 1 == before)
    })?;
    println!(
        "{:.2} s after the deletion of a pod its wire is closed",
        took.as_secs_f64()
    );
    ensure!(took.as_secs() < 5, "the wire was closed only after {took:?}");
    Ok(())
}

/// A namespace: every pod in it gets a wire, but for one that says no.
pub(crate) fn of_namespace(cluster: &Cluster) -> Result<()> {
    let name = "ns-annotated";
    cluster.apply_object(&json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "annotations": annotated() },
    }))?;
    cluster.apply_object(&pod(name, "inherits", &json!({}), WAIT))?;
    cluster.apply_object(&pod(name, "declines", &json!({ KEY: "" }), WAIT))?;
    cluster.await_peer(name, "pod/inherits", "nsm-1")?;
    let links = cluster.eventually("the other pod runs", || {
        cluster.shell(name, "pod/declines", "ip -o link")
    })?;
    ensure!(!links.contains("nsm-1"), "a pod that declines has {links}");
    cluster
        .kubectl(&["delete", "namespace", name, "--wait"])
        .map(drop)
}

/// A Job with a wire: it ends, since its sidecar does.
pub(crate) fn job(cluster: &Cluster) -> Result<()> {
    let line = format!("ping -c3 -W1 $({})", peer("nsm-1"));
    let mut template = containers(&line);
    template["restartPolicy"] = json!("Never");
    cluster.apply_object(&json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": "once", "namespace": HOME, "annotations": annotated() },
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

/// Annotations that no pod could be connected by are refused where people see it, with what to write instead.
pub(crate) fn mistakes(cluster: &Cluster) -> Result<()> {
    for (annotation, remedy) in [
        ("tap://annotation/nsm-1", "use kernel, memif, vfio or noop"),
        (
            "kernel://annotation/a-name-that-linux-does-not-take",
            "at most 15",
        ),
    ] {
        let mistaken = pod(HOME, "mistaken", &json!({ KEY: annotation }), WAIT);
        let told = refusal(cluster, &mistaken)?;
        ensure!(told.contains(remedy), "{annotation}: {told}");
    }
    Ok(())
}

/// Without the webhook everything can be made but what asks for a wire.
pub(crate) fn no_webhook(cluster: &Cluster) -> Result<()> {
    let scale = |replicas: &str| cluster.kubectl(&["scale", "--namespace", MESH, WEBHOOK, replicas]);
    scale("--replicas=0")?;
    let gone = [
        "wait",
        "--for=delete",
        "--timeout=120s",
        "--namespace",
        MESH,
        "pods",
        "--selector",
    ];
    cluster.kubectl(&[&gone[..], &["app=admission-webhook-k8s"]].concat())?;
    cluster.apply_object(&pod(HOME, "foreign", &json!({ "other": "x" }), WAIT))?;
    is_ready(cluster, "pod/foreign")?;
    let told = refusal(cluster, &client("annotated"))?;
    ensure!(told.contains("pods.networkservicemesh.io"), "{told}");
    scale("--replicas=2")?;
    cluster.rolled_out(MESH, WEBHOOK)?;
    let both = [
        "delete",
        "pods",
        "foreign",
        "annotated",
        "--namespace",
        HOME,
        "--wait",
    ];
    cluster.eventually("pods are connected again", || {
        cluster.apply_object(&client("annotated"))
    })?;
    cluster.await_peer(HOME, "pod/annotated", "nsm-1")?;
    cluster.kubectl(&both).map(drop)
}

/// The deletion of a namespace with everything in it, clients and endpoint at once: nothing is registered any more.
pub(crate) fn namespace_is_deleted(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", HOME, "--wait"])?;
    cluster.until("no endpoint of it is registered", || {
        let told = cluster.kubectl(&["get", "nse", "--all-namespaces", "--output", "name"])?;
        Ok(!told.contains("nse-kernel"))
    })?;
    Ok(())
}

/// Waits until a pod of the example's namespace is ready.
pub(crate) fn is_ready(cluster: &Cluster, pod: &str) -> Result<()> {
    let ready = [
        "wait",
        "--for=condition=ready",
        "--timeout=120s",
        "--namespace",
        HOME,
        pod,
    ];
    cluster.kubectl(&ready).map(drop)
}

/// What kubectl says about an object that is not let in.
fn refusal(cluster: &Cluster, object: &Value) -> Result<String> {
    let told = cluster.apply_object(object).err().context("it was let in")?;
    Ok(format!("{told:#}"))
}
