// SPDX-License-Identifier: Apache-2.0
//! What a cluster needs, as `kubectl` tells it.

use std::process::Command;

use serde_json::Value;

use super::{Finding, State};

/// What the mesh defines in a cluster.
const DEFINITIONS: [&str; 2] = [
    "networkservices.networkservicemesh.io",
    "networkserviceendpoints.networkservicemesh.io",
];

/// What runs on every node.
const DAEMONS: [&str; 2] = ["nsmgr", "forwarder"];

/// How long the API server may take.
const TO_ANSWER: &str = "--request-timeout=10s";

/// What a cluster needs, asked by the program `kubectl`, which knows where it is.
pub fn cluster(kubectl: &str, flags: &[String]) -> Vec<Finding> {
    let kubectl = &Kubectl {
        program: kubectl,
        flags,
    };
    let needed_by = "the mesh in a cluster";
    let version = match run(kubectl, &["version", "-o", "json"]) {
        Ok(version) => version,
        Err(error) => {
            let remedy = "install kubectl, and see that KUBECONFIG leads to a cluster that answers";
            return vec![Finding::new(
                "API server",
                needed_by,
                State::Missing,
                error,
                remedy,
            )];
        }
    };
    let found = version["serverVersion"]["gitVersion"]
        .as_str()
        .unwrap_or("it answers");
    let mut findings = vec![Finding::new("API server", needed_by, State::Good, found, "")];
    for name in DEFINITIONS {
        let remedy = "kubectl apply -k deployments/crds";
        findings.push(match run(kubectl, &["get", "crd", name, "-o", "json"]) {
            Ok(_) => Finding::new(
                format!("definition {name}"),
                needed_by,
                State::Good,
                "it is there",
                "",
            ),
            Err(error) => Finding::new(
                format!("definition {name}"),
                needed_by,
                State::Missing,
                error,
                remedy,
            ),
        });
    }
    findings.extend(daemons(kubectl));
    findings
}

fn daemons(kubectl: &Kubectl<'_>) -> Vec<Finding> {
    let needed_by = "clients and endpoints on every node";
    let all = match run(kubectl, &["get", "daemonsets", "-A", "-o", "json"]) {
        Ok(all) => all,
        Err(error) => {
            let remedy = "let the account list daemonsets in all namespaces";
            return vec![Finding::new("daemons", needed_by, State::Unknown, error, remedy)];
        }
    };
    let named = |daemon: &'static str| {
        let items = all["items"].as_array().into_iter().flatten();
        let mut found = items.filter(|item| {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            name.starts_with(daemon)
        });
        daemon_finding(daemon, found.next(), needed_by)
    };
    DAEMONS.into_iter().map(named).collect()
}

fn daemon_finding(daemon: &str, item: Option<&Value>, needed_by: &'static str) -> Finding {
    let name = format!("daemon {daemon}");
    let Some(item) = item else {
        let remedy = "apply an overlay of deployments/overlays";
        return Finding::new(name, needed_by, State::Missing, "it is not there", remedy);
    };
    let count = |key: &str| item["status"][key].as_u64().unwrap_or_default();
    let (ready, wanted) = (count("numberReady"), count("desiredNumberScheduled"));
    let found = format!("{ready} of {wanted} nodes are ready");
    let state = match ready {
        ready if ready == wanted && wanted > 0 => State::Good,
        0 => State::Missing,
        _ => State::Poor,
    };
    let space = item["metadata"]["namespace"].as_str().unwrap_or_default();
    let remedy = format!("kubectl -n {space} get pods, and kubectl logs of those that are not ready");
    Finding::new(name, needed_by, state, found, remedy)
}

/// The program that asks, and the flags that say whom.
struct Kubectl<'a> {
    program: &'a str,
    flags: &'a [String],
}

fn run(kubectl: &Kubectl<'_>, arguments: &[&str]) -> Result<Value, String> {
    let program = kubectl.program;
    let output = Command::new(program)
        .args(arguments)
        .args(kubectl.flags)
        .arg(TO_ANSWER)
        .output()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(told.lines().next().unwrap_or("it failed").to_string());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{program} printed no JSON: {error}"))
}
