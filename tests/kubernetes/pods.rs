// SPDX-License-Identifier: Apache-2.0
//! Pods that ask for more than others, and pods that go too early.

use anyhow::Result;
use nsm_tests::kubectl::{Cluster, NODES, now};
use serde_json::json;

use crate::annotation::{HOME, KEY, WAIT, client, interfaces, pod};

/// How many services one annotation names.
const SERVICES: usize = 50;

/// An annotation of fifty URLs: the pod has fifty wires when it starts, and the first and the last carry packets.
pub(crate) fn fifty_services(cluster: &Cluster) -> Result<()> {
    let before = interfaces(cluster)?;
    let urls: Vec<_> = (0..SERVICES)
        .map(|number| format!("kernel://annotation/w-{number}"))
        .collect();
    let began = now();
    cluster.apply_object(&pod(HOME, "many", &json!({ KEY: urls.join(",") }), WAIT))?;
    for interface in ["w-0", "w-49"] {
        cluster.await_peer(HOME, "pod/many", interface)?;
    }
    println!(
        "{SERVICES} wires of one pod {:.2} s after it was applied",
        began.elapsed().as_secs_f64()
    );
    cluster.until("the endpoint has every wire", || {
        Ok(interfaces(cluster)? == before + SERVICES)
    })?;
    cluster.kubectl(&["delete", "pod/many", "--namespace", HOME, "--wait"])?;
    cluster
        .until(
            "the endpoint has lost them",
            || Ok(interfaces(cluster)? == before),
        )
        .map(drop)
}

/// Pods that are killed while their wires are made, each at a later moment: nothing of them is left, and the next gets
/// its wire.
pub(crate) fn deleted_too_early(cluster: &Cluster) -> Result<()> {
    const PODS: usize = 8;
    let before = interfaces(cluster)?;
    for number in 0..PODS {
        let name = format!("early-{number}");
        let mut early = client(&name);
        early["spec"]["nodeName"] = NODES[number % NODES.len()].into();
        cluster.apply_object(&early)?;
        let phase = ["get", "pod", &name, "--namespace", HOME, "--output"];
        let moment = [&phase[..], &["jsonpath={.status.initContainerStatuses[*].state}"]].concat();
        // From before its first container is there to after its last one runs.
        cluster.until("it has come so far", || {
            Ok(cluster.kubectl(&moment)?.matches("startedAt").count() >= number / 3)
        })?;
        cluster.kubectl(&[
            "delete",
            "pod",
            &name,
            "--namespace",
            HOME,
            "--force",
            "--grace-period=0",
        ])?;
    }
    let took = cluster.until("the endpoint has none of their wires", || {
        Ok(interfaces(cluster)? == before)
    })?;
    println!(
        "{:.2} s after the last of {PODS} pods was killed, nothing was left",
        took.as_secs_f64()
    );
    cluster.apply_object(&client("next"))?;
    cluster.await_peer(HOME, "pod/next", "nsm-1")?;
    cluster
        .kubectl(&["delete", "pod/next", "--namespace", HOME, "--wait"])
        .map(drop)
}
