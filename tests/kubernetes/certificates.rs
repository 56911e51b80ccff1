// SPDX-License-Identifier: Apache-2.0
//! A mesh whose identities are pod certificates, which Kubernetes has from 1.37 on: the overlay `pod-certificates`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use nsm_tests::kubectl::pings::Pings;
use nsm_tests::kubectl::{Cluster, NODES, now};
use serde_json::{Value, json};

use crate::annotation::MESH;
use crate::faults::KUBELET;
use crate::outages::nothing_lost;
use crate::wires::removed;

const EXAMPLE: &str = "examples/pod-certificates";
const HOME: &str = "ns-pod-certificates";
const APP: &str = "deployment/app";
const SIGNER: &str = "system:serviceaccount:nsm-system:signer-sa";

/// Whether the cluster has pod certificates.
pub(crate) fn are_there(cluster: &Cluster) -> Result<bool> {
    let told: Value = serde_json::from_str(&cluster.kubectl(&["version", "--output", "json"])?)?;
    let minor = told["serverVersion"]["minor"]
        .as_str()
        .context("the server has a version")?;
    Ok(minor.parse::<u32>()? >= 37)
}

/// From nothing to a wire: no pod mounts a socket of identities, and each has its own SPIFFE id.
pub(crate) fn first(cluster: &Cluster) -> Result<()> {
    let began = now();
    cluster.apply("overlays/pod-certificates")?;
    cluster.rolled_out(MESH, "deployment/admission-webhook-k8s")?;
    cluster.apply(EXAMPLE)?;
    cluster.rolled_out(HOME, APP)?;
    cluster.await_peer(HOME, APP, "nsm-1")?;
    println!(
        "with pod certificates the first ping is answered after {:.2} s",
        began.elapsed().as_secs_f64()
    );
    let volumes = [
        "get",
        "pods",
        "--all-namespaces",
        "--output",
        "jsonpath={..volumes}",
    ];
    let volumes = cluster.kubectl(&volumes)?;
    ensure!(
        !volumes.contains("spire"),
        "a pod mounts a socket of identities: {volumes}"
    );
    let client = cluster.kubectl(&[
        "get",
        "pods",
        "--namespace",
        HOME,
        "--selector",
        "app=app",
        "--output",
        "name",
    ])?;
    let expected = format!("spiffe://k8s.nsm/ns/{HOME}/{}", client.trim());
    let told = logs(cluster, HOME, APP, "cmd-nsc")?;
    ensure!(told.contains(&expected), "the client is not {expected}:\n{told}");
    Ok(())
}

/// The signer may sign for its own name, read its own secret, and next to nothing else.
pub(crate) fn rights(cluster: &Cluster) -> Result<()> {
    let signers = "signers.certificates.k8s.io";
    for (verb, what) in [
        ("sign", [signers, "networkservicemesh.io/spiffe"]),
        ("get", ["secrets", "nsm-signer"]),
    ] {
        ensure!(may(cluster, verb, what)?, "the signer may not {verb} {what:?}");
    }
    for (verb, what) in [
        ("sign", [signers, "kubernetes.io/kube-apiserver-client"]),
        ("sign", [signers, ""]),
        ("get", ["secrets", "admission-webhook-k8s"]),
        ("list", ["secrets", ""]),
        ("list", ["pods", ""]),
        ("create", ["podcertificaterequests.certificates.k8s.io", ""]),
        ("create", ["clustertrustbundles.certificates.k8s.io", "other"]),
    ] {
        ensure!(!may(cluster, verb, what)?, "the signer may {verb} {what:?}");
    }
    Ok(())
}

/// Whether the signer may do this with a resource of this name. The API server is asked itself: `kubectl auth can-i`
/// knows no group of resources that are no objects, as signers are.
fn may(cluster: &Cluster, verb: &str, [resource, name]: [&str; 2]) -> Result<bool> {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = cluster.create_object(&json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": SIGNER,
            "resourceAttributes": {
                "namespace": MESH, "verb": verb, "group": group, "resource": resource, "name": name,
            },
        },
    }))?;
    review["status"]["allowed"]
        .as_bool()
        .with_context(|| format!("no answer: {review}"))
}

/// A kubelet that starts again has forgotten its keys, and asks for certificates of new ones for all its pods, as it does
/// when half of a certificate's life is over: programs take them without a lost packet.
pub(crate) fn renewed(cluster: &Cluster) -> Result<()> {
    let before = keys(cluster)?;
    let pings = Pings::start(cluster, HOME, APP)?;
    for node in NODES {
        cluster.signal(node, KUBELET, "TERM")?;
    }
    let took = cluster.until("all programs have new certificates", || {
        let now = keys(cluster)?;
        Ok(now.len() >= before.len() && now.is_disjoint(&before))
    })?;
    println!("all pods have new certificates after {:.1} s", took.as_secs_f64());
    for (namespace, workload, container) in [
        (MESH, "daemonset/nsmgr", "nsmgr"),
        (MESH, "daemonset/forwarder", "forwarder"),
        (HOME, APP, "cmd-nsc"),
    ] {
        cluster.until("a program takes its new certificate", || {
            Ok(logs(cluster, namespace, workload, container)?.contains("identity renewed"))
        })?;
    }
    nothing_lost("while certificates were renewed", pings.stop()?)?;
    gets_a_wire_anew(cluster, HOME, APP)
}

/// A new pod of a workload has its wire as the one before had.
pub(crate) fn gets_a_wire_anew(cluster: &Cluster, namespace: &str, workload: &str) -> Result<()> {
    cluster.kubectl(&["rollout", "restart", "--namespace", namespace, workload])?;
    cluster.rolled_out(namespace, workload)?;
    cluster.await_peer(namespace, workload, "nsm-1").map(drop)
}

/// The mesh goes, and with it whom pods trusted.
pub(crate) fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    cluster.delete(EXAMPLE)?;
    removed(cluster, "overlays/pod-certificates")?;
    cluster.until("the trust bundle is gone", || {
        let bundles = ["get", "clustertrustbundles", "--output", "name"];
        Ok(!cluster.kubectl(&bundles)?.contains("networkservicemesh"))
    })?;
    let requests = [
        "get",
        "podcertificaterequests",
        "--all-namespaces",
        "--output",
        "name",
    ];
    let requests = cluster.kubectl(&requests)?;
    ensure!(requests.is_empty(), "there are still {requests}");
    Ok(())
}

/// The certificates that pods have, as they lie in their volumes on the nodes.
fn keys(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for node in NODES {
        let line = "cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/nsm-identity/tls.crt";
        let told = cluster.on(node, &["sh", "-c", line])?;
        found.extend(
            told.split_inclusive("-----END CERTIFICATE-----\n")
                .map(String::from),
        );
    }
    ensure!(
        found.len() > NODES.len(),
        "pods have only {} certificates",
        found.len()
    );
    Ok(found)
}

/// What a container of a workload has told.
pub(crate) fn logs(cluster: &Cluster, namespace: &str, workload: &str, container: &str) -> Result<String> {
    cluster.kubectl(&[
        "logs",
        "--namespace",
        namespace,
        workload,
        "--container",
        container,
    ])
}
