// SPDX-License-Identifier: Apache-2.0
//! An endpoint that nobody has started: what its first client waits for besides the start of its pod, and how many
//! there are when many clients ask at once.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nsm_tests::kubectl::{Cluster, NODES, peer, wall};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::figure::{Figure, Times};

/// The example that is measured.
const EXAMPLE: &str = "examples/scale-from-zero";

/// Its namespace.
const HOME: &str = "ns-scale-from-zero";

/// Its clients.
const CLIENTS: &str = "deployment/nsc-kernel";
const OF_CLIENTS: &str = "app=nsc-kernel";

/// Its endpoints, and what their names begin with.
const OF_ENDPOINTS: &str = "app=nse-icmp-responder";
const ENDPOINT: &str = "nse-icmp-responder-";

/// What a client says when its first ping is answered, and nothing before that.
const PINGED: &str = "pinged";

/// First pings by turns with starts of the same pod by hand, and then many clients at once.
pub(super) fn figures(cluster: &Cluster, runs: usize, many: usize) -> Result<Vec<Figure>> {
    prepare(cluster)?;
    let (mut pings, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (took, endpoint) = first_ping(cluster)?;
        pings.push(took);
        starts.push(by_hand(cluster, &endpoint)?);
    }
    let (pings, starts) = (Times::new(pings), Times::new(starts));
    let added = pings.p50_ms() - starts.p50_ms();
    let mut figures = vec![
        Figure::new("scale_from_zero.first_ping_p50_ms", pings.p50_ms(), "ms", runs),
        Figure::new("scale_from_zero.pod_start_p50_ms", starts.p50_ms(), "ms", runs),
        Figure::new("scale_from_zero.added_over_pod_start_ms", added, "ms", runs).at_most(500.0),
    ];
    if many > 0 {
        let made = at_once(cluster, many)?;
        let name = format!("scale_from_zero.{many}_clients_endpoints");
        figures.push(Figure::new(name, made as f64, "pods", 1).at_most(NODES.len() as f64));
    }
    cluster.delete(EXAMPLE)?;
    Ok(figures)
}

/// The example, without clients, and with those to come saying when their first ping is answered.
fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.apply(EXAMPLE)?;
    let line = format!(
        "exec 2>/dev/null; until [ -e /sys/class/net/nsm-1 ]; do sleep 0.02; done;
         until ping -c1 -W1 $({}) >/dev/null; do :; done;
         echo {PINGED}; trap exit TERM; sleep 1000000 & wait",
        peer("nsm-1")
    );
    let containers = json!([{ "name": "app", "command": ["/bin/sh", "-c", line] }]);
    let patch = json!({ "spec": { "replicas": 0, "template": { "spec": { "containers": containers } } } });
    let patch = patch.to_string();
    kubectl(cluster, &["patch", CLIENTS, "--patch", &patch])?;
    cluster.rolled_out(HOME, "deployment/nse-supplier-k8s")?;
    nobody(cluster)
}

/// Ends the clients and then the endpoints.
fn nobody(cluster: &Cluster) -> Result<()> {
    scale(cluster, 0)?;
    gone(cluster, OF_CLIENTS)?;
    kubectl(cluster, &["delete", "pods", "--selector", OF_ENDPOINTS])?;
    gone(cluster, OF_ENDPOINTS)
}

/// How long a client waits from its first word until its first ping is answered, and the endpoint's pod.
fn first_ping(cluster: &Cluster) -> Result<(Duration, Value)> {
    scale(cluster, 1)?;
    cluster.rolled_out(HOME, CLIENTS)?;
    let pinged = cluster.eventually("the client pings", || first_word(cluster, CLIENTS, "app"))?;
    let asked = first_word(cluster, CLIENTS, "nsc")?;
    let endpoints = pods(cluster, OF_ENDPOINTS, "json")?;
    let mut endpoints: Value = serde_json::from_str(&endpoints)?;
    nobody(cluster)?;
    Ok((pinged.duration_since(asked)?, endpoints["items"][0].take()))
}

/// How long the same pod takes that is made by hand, from when it is there until its first word.
fn by_hand(cluster: &Cluster, endpoint: &Value) -> Result<Duration> {
    let name = "by-hand";
    cluster.create_object(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": HOME, "labels": endpoint["metadata"]["labels"] },
        "spec": endpoint["spec"],
    }))?;
    let made = wall();
    let began = cluster.eventually("the pod runs", || first_word(cluster, name, "nse"))?;
    nobody(cluster)?;
    Ok(began.duration_since(made)?)
}

/// How many endpoints are made for so many clients that come at once, which all ping in the end.
fn at_once(cluster: &Cluster, many: usize) -> Result<usize> {
    let before = started(cluster)?.len();
    scale(cluster, many)?;
    cluster.rolled_out(HOME, CLIENTS)?;
    let most = format!("--max-log-requests={many}");
    let logs = ["logs", "--selector", OF_CLIENTS, "--container", "app", &most];
    cluster.until("all clients ping", || {
        let told = kubectl(cluster, &logs)?;
        Ok(told.lines().filter(|line| *line == PINGED).count() == many)
    })?;
    let made = started(cluster)?.len() - before;
    nobody(cluster)?;
    Ok(made)
}

/// Every endpoint that the supplier has ever made here and that has run, as its events tell.
fn started(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let which = "--field-selector=reason=Started,involvedObject.kind=Pod";
    let what = r#"jsonpath={range .items[*]}{.involvedObject.name} {.involvedObject.uid}{"\n"}{end}"#;
    let told = kubectl(cluster, &["get", "events", which, "--output", what])?;
    let pods = told.lines().filter(|line| line.starts_with(ENDPOINT));
    Ok(pods.map(str::to_string).collect())
}

fn scale(cluster: &Cluster, clients: usize) -> Result<()> {
    let replicas = format!("--replicas={clients}");
    kubectl(cluster, &["scale", CLIENTS, &replicas]).map(drop)
}

fn gone(cluster: &Cluster, selector: &str) -> Result<()> {
    let gone = cluster.until(selector, || Ok(pods(cluster, selector, "name")?.is_empty()));
    gone.map(drop)
}

fn pods(cluster: &Cluster, selector: &str, output: &str) -> Result<String> {
    kubectl(
        cluster,
        &["get", "pods", "--selector", selector, "--output", output],
    )
}

/// When a container said something for the first time.
fn first_word(cluster: &Cluster, pod: &str, container: &str) -> Result<SystemTime> {
    let logs = ["logs", pod, "--container", container, "--timestamps"];
    let told = kubectl(cluster, &logs)?;
    let stamp = told
        .split_whitespace()
        .next()
        .context("it has said nothing yet")?;
    let stamp: Timestamp = stamp.parse().with_context(|| format!("{stamp:?} is no time"))?;
    Ok(stamp.try_into()?)
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace", HOME], arguments].concat())
}
