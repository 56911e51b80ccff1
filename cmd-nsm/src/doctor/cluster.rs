// SPDX-License-Identifier: Apache-2.0
//! What a cluster needs, as `kubectl` tells it.

use std::process::Command;

use serde_json::Value;

use super::{Finding, State};

/// What the mesh defines in a cluster, unless its registry keeps everything in memory.
const DEFINITIONS: [&str; 2] = [
    "networkservices.networkservicemesh.io",
    "networkserviceendpoints.networkservicemesh.io",
];

/// A workload of the mesh.
struct Workload {
    /// What its name begins with.
    name: &'static str,
    kind: &'static str,
    needed_by: &'static str,
    /// What it means when nothing of it is there.
    absent: State,
}

/// Those that are looked for.
const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "registry",
        kind: "Deployment",
        needed_by: "clients that look for an endpoint",
        absent: State::Missing,
    },
    Workload {
        name: "nsmgr",
        kind: "DaemonSet",
        needed_by: "clients and endpoints on every node",
        absent: State::Missing,
    },
    Workload {
        name: "forwarder",
        kind: "DaemonSet",
        needed_by: "wires on every node",
        absent: State::Missing,
    },
    Workload {
        name: "admission-webhook",
        kind: "Deployment",
        needed_by: "pods, workloads and namespaces with an annotation",
        absent: State::Poor,
    },
];

/// The container beside a manager that tells people what the manager knows.
pub(crate) const AGENT: &str = "agent";

/// How long the API server may take.
const TO_ANSWER: &str = "--request-timeout=10s";

/// What a cluster needs, asked by the program `kubectl`, which knows where it is.
pub fn cluster(kubectl: &str, flags: &[String]) -> Vec<Finding> {
    let kubectl = &Kubectl {
        program: kubectl,
        flags,
    };
    let mut findings = vec![api_server(kubectl)];
    if findings[0].state != State::Good {
        return findings;
    }
    match kubectl.json(&["get", "daemonsets,deployments", "-A"]) {
        Ok(all) => {
            let all = all["items"].as_array().map_or(&[][..], Vec::as_slice);
            let all = &beside_managers(all);
            if find(all, "Deployment", "registry-memory").is_none() {
                findings.extend(DEFINITIONS.map(|name| definition(kubectl, name)));
            }
            findings.extend(WORKLOADS.iter().map(|workload| running(workload, all)));
            findings.extend(find(all, "DaemonSet", "nsmgr").map(|nsmgr| agents(kubectl, nsmgr)));
        }
        Err(error) => {
            let remedy = "let the account list daemonsets and deployments in all namespaces";
            findings.push(Finding::new(
                "workloads",
                "the mesh",
                State::Unknown,
                error,
                remedy,
            ));
        }
    }
    findings
}

fn api_server(kubectl: &Kubectl<'_>) -> Finding {
    let (name, needed_by) = ("API server", "the mesh in a cluster");
    match kubectl.json(&["version"]) {
        Ok(version) => {
            let found = version["serverVersion"]["gitVersion"].as_str();
            Finding::new(name, needed_by, State::Good, found.unwrap_or("it answers"), "")
        }
        Err(error) => {
            let remedy = "install kubectl, and see that KUBECONFIG leads to a cluster that answers";
            Finding::new(name, needed_by, State::Missing, error, remedy)
        }
    }
}

fn definition(kubectl: &Kubectl<'_>, definition: &str) -> Finding {
    let (state, found) = match kubectl.json(&["get", "crd", definition]) {
        Ok(_) => (State::Good, "it is there".to_string()),
        Err(error) => (State::Missing, error),
    };
    let (name, needed_by) = (
        format!("definition {definition}"),
        "a registry that keeps objects of Kubernetes",
    );
    Finding::new(name, needed_by, state, found, "kubectl apply -k deployments/crds")
}

fn find<'a>(all: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    all.iter().find(|item| {
        let is_named = item["metadata"]["name"].as_str().unwrap_or_default();
        item["kind"] == kind && is_named.starts_with(name)
    })
}

/// What is in the namespace of the managers, if there are any: others have registries, too.
fn beside_managers(all: &[Value]) -> Vec<Value> {
    let nsmgr = find(all, "DaemonSet", "nsmgr").map(|nsmgr| nsmgr["metadata"]["namespace"].clone());
    let is_beside = |item: &&Value| {
        nsmgr
            .as_ref()
            .is_none_or(|space| item["metadata"]["namespace"] == *space)
    };
    all.iter().filter(is_beside).cloned().collect()
}

/// How much of a workload is ready.
fn running(workload: &Workload, all: &[Value]) -> Finding {
    let Some(item) = find(all, workload.kind, workload.name) else {
        let remedy = "apply an overlay of deployments/overlays that has it";
        let found = "it is not there";
        return Finding::new(workload.name, workload.needed_by, workload.absent, found, remedy);
    };
    let count = |at: &str| item.pointer(at).and_then(Value::as_u64).unwrap_or_default();
    let (ready, wanted, of) = match workload.kind {
        "DaemonSet" => (
            count("/status/numberReady"),
            count("/status/desiredNumberScheduled"),
            "nodes",
        ),
        _ => (
            count("/status/readyReplicas"),
            count("/spec/replicas"),
            "replicas",
        ),
    };
    let state = match ready {
        0 => workload.absent,
        ready if ready < wanted => State::Poor,
        _ => State::Good,
    };
    let space = item["metadata"]["namespace"].as_str().unwrap_or_default();
    let found = format!("{ready} of {wanted} {of} are ready");
    let remedy = format!("kubectl -n {space} get pods, and kubectl logs of those that are not ready");
    Finding::new(workload.name, workload.needed_by, state, found, remedy)
}

/// Whether managers can be asked: by an agent beside each, and by a right of the account.
fn agents(kubectl: &Kubectl<'_>, nsmgr: &Value) -> Finding {
    let (name, needed_by) = (
        "agents",
        "kubectl nsm connections, monitor, path, explain and ping",
    );
    let containers = nsmgr.pointer("/spec/template/spec/containers");
    let mut containers = containers.and_then(Value::as_array).into_iter().flatten();
    if !containers.any(|container| container["name"] == AGENT) {
        let remedy = "apply an overlay with the component deployments/apps/agent-k8s, as dev is";
        return Finding::new(
            name,
            needed_by,
            State::Poor,
            "managers have none beside them",
            remedy,
        );
    }
    let space = nsmgr["metadata"]["namespace"].as_str().unwrap_or_default();
    match kubectl.text(&["auth", "can-i", "create", "pods/exec", "--namespace", space]) {
        Ok(_) => Finding::new(
            name,
            needed_by,
            State::Good,
            "they are there, and may be asked",
            "",
        ),
        Err(told) => {
            let found = format!("they are there; may the account ask them? {told}");
            let remedy = format!("let the account create pods/exec in {space}");
            Finding::new(name, needed_by, State::Poor, found, remedy)
        }
    }
}

/// The program that asks, and the flags that say whom.
struct Kubectl<'a> {
    program: &'a str,
    flags: &'a [String],
}

impl Kubectl<'_> {
    /// What it prints; or the first line of what it says is wrong, or prints when that is nothing.
    fn text(&self, arguments: &[&str]) -> Result<Vec<u8>, String> {
        let program = self.program;
        let output = Command::new(program)
            .args(arguments)
            .args(self.flags)
            .arg(TO_ANSWER)
            .output()
            .map_err(|error| format!("cannot run {program}: {error}"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let told = [output.stderr, output.stdout].concat();
        let told = String::from_utf8_lossy(&told);
        Err(told.lines().next().unwrap_or("it failed").to_string())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let told = self.text(&[arguments, &["--output", "json"]].concat())?;
        serde_json::from_slice(&told).map_err(|error| format!("{} printed no JSON: {error}", self.program))
    }
}
