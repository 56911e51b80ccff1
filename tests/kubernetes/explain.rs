// SPDX-License-Identifier: Apache-2.0
//! What users read when a wire cannot be made or breaks: Events on their pod, and `kubectl nsm`.
//!
//! The endpoint is that of the example `scaled-registry`, which has addresses for two clients.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nsm::mesh::Programs;
use nsm_tests::kubectl::Cluster;
use serde_json::{Value, json};

use crate::annotation::{HOME, KEY, MESH, WAIT, is_ready, pod};

/// The example, its namespace and its service.
const EXAMPLE: &str = "examples/scaled-registry";
const NAMESPACE: &str = "ns-scaled-registry";
const SERVICE: &str = "kernel://scaled-registry/nsm-1";

/// A pod that asks before the service is there, and one that asks when all addresses are given out.
const EARLY: &str = "early";
const LATE: &str = "late";

/// kubectl with the plug-in in its path.
struct Plugin {
    folder: tempfile::TempDir,
}

impl Plugin {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = std::env::var("NSM_CLUSTER").context("a cluster")?;
        let kubectl = folder.path().join("kubectl");
        std::fs::write(&kubectl, format!("#!/bin/sh\nexec '{program}' kubectl \"$@\"\n"))?;
        std::fs::set_permissions(&kubectl, Permissions::from_mode(0o755))?;
        let programs = match std::env::var_os("NSM_PROGRAMS") {
            Some(folder) => Programs::in_folder(folder),
            None => Programs::beside_us()?,
        };
        symlink(programs.file("nsm")?, folder.path().join("kubectl-nsm"))?;
        Ok(Self { folder })
    }

    /// What `kubectl nsm` prints, and whether its exit code is 0.
    fn nsm(&self, arguments: &[&str]) -> Result<(String, bool)> {
        let mut path = vec![self.folder.path().to_path_buf()];
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let output = Command::new(self.folder.path().join("kubectl"))
            .arg("nsm")
            .args(arguments)
            .env("PATH", std::env::join_paths(path)?)
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((
            String::from_utf8_lossy(&text).into_owned(),
            output.status.success(),
        ))
    }

    /// The JSON that it prints.
    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let (text, _) = self.nsm(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl nsm {arguments:?} said {text}"))
    }
}

/// Waits for an Event on a pod. Returns what it says.
fn event(cluster: &Cluster, pod: &str, reason: &str) -> Result<Value> {
    let about = format!("--field-selector=involvedObject.name={pod},reason={reason}");
    let get = ["get", "events", "--namespace", HOME, &about, "--output", "json"];
    cluster.eventually(&format!("an Event {reason} on {pod}"), || {
        let found: Value = serde_json::from_str(&cluster.kubectl(&get)?)?;
        let first = found["items"].get(0).cloned();
        first.with_context(|| format!("no Event {reason}"))
    })
}

/// A client is refused, gets its wire when there is an endpoint, and keeps it when that one dies: each is told on its pod.
pub(crate) fn events(cluster: &Cluster) -> Result<()> {
    let asking = json!({ KEY: SERVICE });
    cluster.apply_object(&pod(HOME, EARLY, &asking, WAIT))?;
    let refused = event(cluster, EARLY, "no-service")?;
    let message = refused["message"].as_str().unwrap_or_default();
    ensure!(refused["type"] == "Warning", "{refused}");
    for part in ["scaled-registry", "remedy: "] {
        ensure!(message.contains(part), "{message}");
    }
    let described = cluster.kubectl(&["describe", "pod", EARLY, "--namespace", HOME])?;
    ensure!(described.contains("no-service"), "{described}");

    cluster.apply(EXAMPLE)?;
    let attached = event(cluster, EARLY, "attached")?;
    ensure!(attached["type"] == "Normal", "{attached}");
    is_ready(cluster, "pod/early")?;
    cluster.rolled_out(NAMESPACE, "deployment/nsc-kernel")?;
    cluster.await_peer(NAMESPACE, "deployment/nsc-kernel", "nsm-1")?;

    let endpoint = [
        "delete",
        "pods",
        "--namespace",
        NAMESPACE,
        "--selector",
        "app=nse-kernel",
    ];
    cluster.kubectl(&endpoint)?;
    let healed = event(cluster, EARLY, "healed")?;
    ensure!(healed["message"].to_string().contains("nse-kernel"), "{healed}");
    cluster.await_peer(HOME, "pod/early", "nsm-1")?;
    cluster.await_peer(NAMESPACE, "deployment/nsc-kernel", "nsm-1")?;

    // Only now: it would have taken the place of one of them at the new endpoint.
    cluster.apply_object(&pod(HOME, LATE, &asking, WAIT))?;
    let full = event(cluster, LATE, "pool-empty")?;
    ensure!(full["message"].to_string().contains("NSM_CIDR_PREFIX"), "{full}");
    Ok(())
}

/// A service of people, with these matches.
fn service(name: &str, matches: &Value) -> Value {
    json!({
        "apiVersion": "networkservicemesh.io/v1", "kind": "NetworkService",
        "metadata": { "name": name, "namespace": HOME },
        "spec": { "payload": "IP", "matches": matches },
    })
}

/// An endpoint of people, who has labels for one service.
fn endpoint(name: &str, service: &str, url: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "networkservicemesh.io/v1", "kind": "NetworkServiceEndpoint",
        "metadata": { "name": name, "namespace": HOME },
        "spec": {
            "network_service_names": [service], "url": url,
            "network_service_labels": { service: { "labels": labels } },
        },
    })
}

/// What is asked for, in how many ways nobody gets it.
fn objects() -> Vec<Value> {
    let url = "tcp://192.0.2.1:5001";
    let to = |labels: Value| json!([{ "destination_selector": labels }]);
    let mut objects = vec![
        service("ex-empty", &json!([])),
        service(
            "ex-label",
            &json!([{ "routes": to(json!({ "app": "gateway" })) }]),
        ),
        service(
            "ex-client",
            &json!([{ "source_selector": { "role": "admin" }, "routes": to(json!({})) }]),
        ),
        service("ex-routes", &json!([{ "source_selector": {} }])),
        service(
            "ex-template",
            &json!([{ "routes": to(json!({ "zone": "{{.zone}}" })) }]),
        ),
        service(
            "ex-forwarder",
            &json!([{ "metadata": { "labels": { "tier": "none" } }, "routes": to(json!({})) }]),
        ),
        service("ex-url", &json!([])),
    ];
    for name in [
        "ex-label",
        "ex-client",
        "ex-routes",
        "ex-template",
        "ex-forwarder",
    ] {
        let labels = json!({ "app": "other", "zone": "a" });
        objects.push(endpoint(&format!("{name}-nse"), name, url, &labels));
    }
    objects.push(endpoint("ex-url-nse", "ex-url", "", &json!({})));
    objects
}

/// Ten refusals: what is asked, its reason, and words of its cause and of its remedy.
const REFUSALS: [[&str; 4]; 10] = [
    ["kernel://ex-lable/nsm-1", "no-service", "ex-lable", "ex-label"],
    [
        "kernel://ex-empty/nsm-1",
        "no-endpoint",
        "no endpoint offers",
        "NSM_SERVICE_NAMES=ex-empty",
    ],
    [
        "kernel://ex-label/nsm-1",
        "no-endpoint",
        "label app is",
        "app=gateway",
    ],
    [
        "kernel://ex-client/nsm-1",
        "no-endpoint",
        "none of the 1 matches applies",
        "role=admin",
    ],
    [
        "kernel://ex-routes/nsm-1",
        "no-endpoint",
        "has no routes",
        "give match 1 a route",
    ],
    [
        "kernel://ex-template/nsm-1",
        "no-endpoint",
        "zone",
        "give the client the label",
    ],
    [
        "kernel://ex-forwarder/nsm-1",
        "no-forwarder",
        "allow none of",
        "tier",
    ],
    ["kernel://ex-url/nsm-1", "no-endpoint", "has no URL", "spec.url"],
    [LATE, "pool-empty", "IPPool is empty", "NSM_CIDR_PREFIX"],
    [
        "idle",
        "no-request",
        "asks for no network service",
        "networkservicemesh.io: kernel://",
    ],
];

/// `kubectl nsm explain` for each of them.
pub(crate) fn refusals(cluster: &Cluster) -> Result<()> {
    let plugin = Plugin::new()?;
    for object in objects() {
        cluster.apply_object(&object)?;
    }
    cluster.apply_object(&pod(HOME, "idle", &json!({ KEY: "" }), WAIT))?;
    is_ready(cluster, "pod/idle")?;
    for [what, reason, cause, remedy] in REFUSALS {
        let arguments = ["explain", what, "--namespace", HOME];
        cluster.eventually(&format!("{what} is explained"), || {
            let (text, is_served) = plugin.nsm(&arguments)?;
            ensure!(!is_served, "{what} is served:\n{text}");
            for part in [reason, cause, remedy, "remedy: "] {
                ensure!(text.contains(part), "{what}: {part:?} is not in\n{text}");
            }
            Ok(())
        })?;
    }
    // What serves is served, and a pod of it is where it is.
    let (text, is_served) = plugin.nsm(&["explain", "kernel://annotation/nsm-1"])?;
    ensure!(is_served && text.contains("served"), "{text}");
    let early = plugin.json(&["explain", EARLY, "--namespace", HOME])?;
    let at = early["services"][0]["is_at"].as_str().unwrap_or_default();
    ensure!(at.starts_with("nse-kernel"), "{early}");
    let (text, is_good) = plugin.nsm(&["explain", "pool-empty"])?;
    ensure!(is_good && text.contains("remedy"), "{text}");
    for object in objects() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        cluster.kubectl(&["delete", kind, name, "--namespace", HOME])?;
    }
    Ok(())
}

/// The other questions of `kubectl nsm`, and what kubectl itself shows.
pub(crate) fn shows(cluster: &Cluster) -> Result<()> {
    let plugin = Plugin::new()?;
    let all = plugin.json(&["connections", "--service", "scaled-registry"])?;
    let all = all.as_array().context("a list")?;
    let identity = format!("/ns/{HOME}/pod/{EARLY}");
    let own = all
        .iter()
        .find(|seen| seen["client_identity"].to_string().contains(&identity));
    let own = own.with_context(|| format!("{EARLY} is not among {all:?}"))?;
    ensure!(own["state"] == "up", "{own}");

    let path = plugin.json(&["path", EARLY, "--namespace", HOME])?;
    let hops = path[0]["hops"].as_array().context("a path")?;
    let has = |name: &str| hops.iter().any(|hop| hop["name"].to_string().contains(name));
    ensure!(has("nsmgr-") && has("forwarder-") && has("nse-kernel"), "{path}");
    // The first is the client, which is asked by nobody.
    for hop in &hops[1..] {
        ensure!(hop["request_us"].is_u64(), "no latency in {hop}");
    }

    let (steps, is_good) = plugin.nsm(&["ping", EARLY, "--namespace", HOME])?;
    ensure!(is_good && steps.contains("+ ping over nsm-1"), "{steps}");

    let endpoints = plugin.json(&["endpoints", "--service", "scaled-registry"])?;
    ensure!(
        endpoints.as_array().is_some_and(|all| all.len() == 1),
        "{endpoints}"
    );
    let (lines, _) = plugin.nsm(&["monitor", "--json", "--time", "3s"])?;
    ensure!(lines.contains("\"event\":\"initial\""), "{lines}");
    let (found, is_good) = plugin.nsm(&["doctor"])?;
    for part in ["registry", "nsmgr", "forwarder", "admission-webhook", "agents"] {
        ensure!(is_good && found.contains(&format!("+ {part}")), "{found}");
    }

    cluster.until("kubectl shows how many endpoints a service has", || {
        let get = [
            "get",
            "netsvc",
            "scaled-registry",
            "--namespace",
            MESH,
            "--no-headers",
        ];
        let row = cluster.kubectl(&get)?;
        Ok(row.split_whitespace().nth(2) == Some("1"))
    })?;
    for name in [EARLY, LATE, "idle"] {
        cluster.kubectl(&["delete", "pod", name, "--namespace", HOME, "--wait"])?;
    }
    cluster.delete(EXAMPLE)
}
