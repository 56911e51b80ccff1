// SPDX-License-Identifier: Apache-2.0
//! A mesh whose identities are SPIRE's: the overlay `spire`, with a server and its controller manager beside the control
//! plane, and an agent on every node.
//!
//! `NSM_SPIRE` names the folder with these programs, as `cargo xtask test kubernetes` builds them from
//! [this module](../interop/spire/go.mod).

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nsm_tests::kubectl::pings::Pings;
use nsm_tests::kubectl::{Cluster, NODES, now};
use serde_json::json;

use crate::annotation::{HOME, MESH, client};
use crate::certificates::{gets_a_wire_anew, logs};
use crate::outages::nothing_lost;
use crate::wires::removed;

const EXAMPLE: &str = "examples/annotation";
const APP: &str = "deployment/app";
const WEBHOOK: &str = "admission-webhook-k8s";
const SOCKETS: &str = "/run/spire/sockets";

/// The programs, by what is in the command lines of theirs that run as long as the mesh does.
const SERVER: &str = "spire-server run";
const MANAGER: &str = "spire-controller-manager";
const AGENT: &str = "spire-agent run";

/// From nothing but SPIRE to a wire: its controller manager does what the overlay asks for, and each pod is who it is.
pub(crate) fn first(cluster: &Cluster) -> Result<()> {
    start(cluster)?;
    let began = now();
    cluster.apply("overlays/spire")?;
    cluster.rolled_out(MESH, &format!("deployment/{WEBHOOK}"))?;
    cluster.apply(EXAMPLE)?;
    cluster.rolled_out(HOME, APP)?;
    cluster.await_peer(HOME, APP, "nsm-1")?;
    println!(
        "with SPIRE the first ping is answered after {:.2} s",
        began.elapsed().as_secs_f64()
    );
    let pod = cluster.kubectl(&[
        "get",
        "pods",
        "--namespace",
        HOME,
        "--selector",
        "app=app",
        "--output",
        "jsonpath={.items[0].metadata.name}",
    ])?;
    let expected = format!("spiffe://k8s.nsm/ns/{HOME}/pod/{pod}");
    let told = logs(cluster, HOME, APP, "cmd-nsc")?;
    ensure!(told.contains(&expected), "the client is not {expected}:\n{told}");
    Ok(())
}

/// SPIRE's identities live for a minute, and are renewed at half of that: packets meet nothing of it.
pub(crate) fn renewed(cluster: &Cluster) -> Result<()> {
    let renewals = || -> Result<Vec<usize>> {
        [
            (MESH, "daemonset/nsmgr", "nsmgr"),
            (MESH, "daemonset/forwarder", "forwarder"),
            (MESH, "deployment/registry-k8s", "registry"),
            (HOME, APP, "cmd-nsc"),
        ]
        .map(|(namespace, workload, container)| logs(cluster, namespace, workload, container))
        .into_iter()
        .map(|told| Ok(told?.matches("identity renewed").count()))
        .collect()
    };
    let pings = Pings::start(cluster, HOME, APP)?;
    let before = renewals()?;
    cluster.until("all programs take a new certificate", || {
        Ok(renewals()?.iter().zip(&before).all(|(now, before)| now > before))
    })?;
    nothing_lost("while identities were renewed", pings.stop()?)?;
    gets_a_wire_anew(cluster, HOME, APP)
}

/// A webhook without an authority of its own: it presents its SVID, and SPIRE writes into its configuration whom the API
/// server may trust.
pub(crate) fn webhook(cluster: &Cluster) -> Result<()> {
    present_svids(cluster)?;
    let configuration = format!("mutatingwebhookconfiguration/{WEBHOOK}");
    let refused = cluster.apply_object(&client("untrusted")).err();
    let told = format!("{:#}", refused.context("nobody trusts SPIRE yet")?);
    ensure!(told.contains("signed by unknown authority"), "{told}");
    cluster.kubectl(&["label", &configuration, "spiffe.io/webhook=true"])?;
    cluster.until("every webhook has SPIRE's authorities", || {
        let bundle = r#"go-template={{index .data "bundle.crt"}}"#;
        let bundle = cluster.kubectl(&[
            "get",
            "configmap/spire-bundle",
            "--namespace",
            "spire",
            "--output",
            bundle,
        ])?;
        let each = "go-template={{range .webhooks}}{{base64decode .clientConfig.caBundle}}~{{end}}";
        let written = cluster.kubectl(&["get", &configuration, "--output", each])?;
        Ok(written
            .split_terminator('~')
            .all(|authorities| authorities == bundle))
    })?;
    cluster.eventually("an annotated pod is let in", || {
        cluster.apply_object(&client("trusting"))
    })?;
    cluster.await_peer(HOME, "trusting", "nsm-1").map(drop)
}

/// The mesh goes, and then SPIRE with its kinds.
pub(crate) fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    cluster.delete(EXAMPLE)?;
    for node in NODES {
        stop(cluster, node, AGENT)?;
    }
    removed(cluster, "overlays/spire")?;
    stop(cluster, "control", MANAGER)?;
    stop(cluster, "control", SERVER)?;
    let kinds = kinds()?;
    cluster.kubectl(&["delete", "--wait", "--filename", &kinds])?;
    cluster
        .kubectl(&["delete", "--wait", "namespace/spire"])
        .map(drop)
}

/// Starts SPIRE as its manuals say: an agent is known by a token that its node got, and a pod by its node's kubelet.
fn start(cluster: &Cluster) -> Result<()> {
    let (programs, state) = (programs()?, state()?);
    cluster.kubectl(&["apply", "--filename", &kinds()?])?;
    for object in [
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "spire" } }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "spire-bundle", "namespace": "spire" },
        }),
    ] {
        cluster.apply_object(&object)?;
    }
    let folder = state.join("spire");
    fs::create_dir(&folder)?;
    for (name, text) in [
        ("server.conf", include_str!("spire/server.conf")),
        ("agent.conf", include_str!("spire/agent.conf")),
        (
            "controller-manager.yaml",
            include_str!("spire/controller-manager.yaml"),
        ),
    ] {
        let text = text.replace("@STATE@", &state.display().to_string());
        fs::write(folder.join(name), text)?;
    }
    // Where a node can see it.
    fs::copy(programs.join("spire-agent"), folder.join("spire-agent"))?;
    let (programs, folder) = (programs.display(), folder.display());

    let server = format!("{programs}/{SERVER} -config {folder}/server.conf");
    run(cluster, "control", "spire-server", &server)?;
    let ask = |what: &[&str]| {
        let (server, socket) = (
            format!("{programs}/spire-server"),
            format!("{folder}/server.sock"),
        );
        let line = [&[server.as_str()], what, &["-socketPath", &socket]].concat();
        cluster.on("control", &line)
    };
    cluster.eventually("the server is there", || ask(&["healthcheck"]))?;
    let manager = format!(
        "env ENABLE_WEBHOOKS=false KUBECONFIG={}/pki/admin.conf \
         {programs}/{MANAGER} -config {folder}/controller-manager.yaml",
        state.display()
    );
    run(cluster, "control", MANAGER, &manager)?;
    for node in NODES {
        let id = format!("spiffe://k8s.nsm/node/{node}");
        let token = ask(&["token", "generate", "-spiffeID", &id])?;
        let token = token.trim().strip_prefix("Token: ").context("no token")?;
        let agent = format!("{folder}/{AGENT} -config {folder}/agent.conf -joinToken {token}");
        run(cluster, node, "spire-agent", &agent)?;
        let healthy = format!("{folder}/spire-agent healthcheck -socketPath {SOCKETS}/agent.sock");
        cluster.eventually("the agent is there", || cluster.on(node, &["sh", "-c", &healthy]))?;
    }
    Ok(())
}

/// Lets all replicas of the webhook present their SVIDs, with the name by which the API server calls them.
fn present_svids(cluster: &Cluster) -> Result<()> {
    let label = "spiffe.io/spiffe-dns-webhook";
    cluster.apply_object(&json!({
        "apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterSPIFFEID", "metadata": { "name": "webhook" },
        "spec": {
            "spiffeIDTemplate": "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/pod/{{ .PodMeta.Name }}",
            "dnsNameTemplates": ["admission-webhook-svc.{{ .PodMeta.Namespace }}.svc"],
            "podSelector": { "matchLabels": { label: "true" } },
        },
    }))?;
    let patch = json!({ "spec": { "template": {
        "metadata": { "labels": { label: "true" } },
        "spec": {
            "containers": [{
                "name": WEBHOOK,
                "env": [
                    { "name": "NSM_WEBHOOK_MODE", "value": "spire" },
                    { "name": "SPIFFE_ENDPOINT_SOCKET", "value": format!("unix://{SOCKETS}/agent.sock") },
                ],
                "volumeMounts": [{ "name": "identities", "mountPath": SOCKETS, "readOnly": true }],
            }],
            "volumes": [{ "name": "identities", "hostPath": { "path": SOCKETS } }],
        },
    } } });
    let deployment = format!("deployment/{WEBHOOK}");
    cluster.kubectl(&[
        "patch",
        "--namespace",
        MESH,
        &deployment,
        "--patch",
        &patch.to_string(),
    ])?;
    cluster.rolled_out(MESH, &deployment)?;
    let old = format!("app={WEBHOOK},!{label}");
    cluster
        .kubectl(&[
            "wait",
            "--for=delete",
            "--timeout=120s",
            "--namespace",
            MESH,
            "--selector",
            &old,
            "pods",
        ])
        .map(drop)
}

/// Starts a program on a host, where it runs until it is stopped, or the host's end.
fn run(cluster: &Cluster, host: &str, name: &str, line: &str) -> Result<()> {
    let log = format!("{}/logs/{host}/{name}.log", state()?.display());
    let line = format!("exec {line} >{log} 2>&1 </dev/null &");
    cluster.on(host, &["sh", "-c", &line]).map(drop)
}

/// Ends it, and waits until it has ended.
fn stop(cluster: &Cluster, host: &str, program: &str) -> Result<()> {
    cluster.signal(host, program, "TERM")?;
    cluster
        .until("it has ended", || Ok(cluster.signal(host, program, "0").is_err()))
        .map(drop)
}

fn programs() -> Result<PathBuf> {
    let programs = std::env::var_os("NSM_SPIRE").context("NSM_SPIRE names no folder")?;
    Ok(programs.into())
}

/// The definitions of its controller manager's kinds.
fn kinds() -> Result<String> {
    Ok(programs()?.join("crds").display().to_string())
}

/// The folder of the cluster, which its hosts see, too.
fn state() -> Result<PathBuf> {
    let state = std::env::var_os("CLUSTER_STATE").context("CLUSTER_STATE names no folder")?;
    Ok(state.into())
}
