// SPDX-License-Identifier: Apache-2.0
//! Pods that clients have made, what becomes of them, and what is wrong with templates.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join, join_all};
use libtest_mimic::Trial;
use nsm_sdk::networkservice::supply::SUPPLIED;
use serde_json::json;

use crate::Bench;
use crate::world::{TEMPLATE, World, eventually};

/// How long clients wait that are to be served.
const PATIENT: Duration = Duration::from_secs(60);

/// How long clients wait that are told why not.
const SOON: Duration = Duration::from_secs(4);

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("c130_a_client_has_a_pod_made_on_its_node_and_waits_for_it", made),
        bench.test("c131_many_clients_of_two_suppliers_have_one_pod_a_node", many),
        bench.test("c132_a_pod_that_has_ended_goes_and_is_followed_by_another", ended),
        bench.test("what_holds_a_pod_up_is_told_in_time", held_up),
        bench.test("a_bad_template_is_told", bad_templates),
        bench.test("a_node_that_is_gone_is_named", no_node),
        bench.test("labels_of_clients_are_no_structure", evil),
    ]
}

async fn made(world: &mut World) -> Result<()> {
    let supplier = world.supplies("c130", TEMPLATE).await?;
    let appears = async {
        let pods = world.has("c130", 1).await?;
        let spec = pods[0].spec.as_ref().context("has a spec")?;
        ensure!(spec.node_name.as_deref() == Some("n1"), "on the client's node");
        let labels = pods[0].metadata.labels.as_ref().context("has labels")?;
        ensure!(labels["createdBy"].starts_with("supplier-"), "{labels:?}");
        ensure!(
            pods[0].metadata.name.as_deref() == Some("nse-icmp-responder-n1"),
            "by its template"
        );
        world.registers("c130", "n1").await
    };
    let (told, appears) = join(world.asks(&supplier, "c130", "n1", PATIENT), appears).await;
    appears?;
    let told = told?;
    ensure!(told.reason() == SUPPLIED, "{told}");
    ensure!(world.pods("c130").await?.len() == 1, "one is enough");
    free(world, "c130").await
}

/// Ends the pods of a service, whose names others need.
async fn free(world: &World, service: &str) -> Result<()> {
    for pod in world.pods(service).await? {
        world.becomes(&pod, json!({ "phase": "Succeeded" })).await?;
    }
    world.has(service, 0).await.map(drop)
}

async fn many(world: &mut World) -> Result<()> {
    let template = TEMPLATE.replace(
        "nse-icmp-responder-{{ index .Labels \"nodeName\" }}",
        "nse-{{ uuid }}",
    );
    let one = world.supplies("c131", &template).await?;
    let other = world.supplies("c131", &template).await?;
    let all = (0..40).map(|at| {
        let (supplier, node) = ([&one, &other][at % 2], ["n1", "n2"][at / 2 % 2]);
        world.asks(supplier, "c131", node, PATIENT)
    });
    let register = async {
        world.has("c131", 2).await?;
        world.registers("c131", "n1").await?;
        world.registers("c131", "n2").await
    };
    let (told, registered) = join(join_all(all), register).await;
    registered?;
    for told in told {
        let told = told?;
        ensure!(told.reason() == SUPPLIED, "{told}");
    }
    ensure!(world.pods("c131").await?.len() == 2, "one for each node");
    free(world, "c131").await
}

async fn ended(world: &mut World) -> Result<()> {
    let supplier = world.supplies("c132", TEMPLATE).await?;
    let told = world.asks(&supplier, "c132", "n1", SOON).await?;
    ensure!(told.reason() == "endpoint-not-ready", "{told}");
    let first = world.has("c132", 1).await?;
    let failed = json!({ "phase": "Failed", "containerStatuses": [{
        "name": "nse", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": 64, "reason": "Error" } },
    }] });
    let ends = world.becomes(&first[0], failed);
    let (told, ended) = join(world.asks(&supplier, "c132", "n1", PATIENT), ends).await;
    ended?;
    let told = told?;
    ensure!(told.text().contains("nse Error, exit code 64"), "{told}");
    // The next start is made after a pause, by a client that asks again.
    let next = eventually("there is another pod", async || {
        world
            .asks(&supplier, "c132", "n1", Duration::from_secs(1))
            .await
            .ok()?;
        let pods = world.pods("c132").await.ok()?;
        pods.into_iter()
            .find(|pod| pod.metadata.uid != first[0].metadata.uid)
    });
    next.await?;
    free(world, "c132").await
}

async fn held_up(world: &mut World) -> Result<()> {
    let supplier = world.supplies("held-up", TEMPLATE).await?;
    let holds = async {
        let pods = world.has("held-up", 1).await?;
        let waiting = json!({ "phase": "Pending", "containerStatuses": [{
            "name": "nse", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } },
        }] });
        world.becomes(&pods[0], waiting).await
    };
    let (_, held) = join(world.asks(&supplier, "held-up", "n1", SOON), holds).await;
    held?;
    let told = world.asks(&supplier, "held-up", "n1", SOON).await?;
    for part in [
        "pod zero/nse-icmp-responder-n1",
        "ImagePullBackOff: no such image",
    ] {
        ensure!(told.text().contains(part), "{told}");
    }
    free(world, "held-up").await
}

async fn bad_templates(world: &mut World) -> Result<()> {
    let file = world.file("bad.yaml", "kind: Deployment\nspec: {}\n")?;
    let mut supplier = world.launches("bad", &file, &[])?;
    let status = eventually("it ends", async || supplier.program.ended().ok()?).await?;
    let printed = supplier.program.printed();
    ensure!(status.code() == Some(64), "{status}: {printed}");
    for part in ["bad.yaml is no pod", "Deployment"] {
        ensure!(printed.contains(part), "{printed}");
    }
    // What is wrong with a template that changes later, or that only the API server sees, clients are told.
    let supplier = world.supplies("worse", TEMPLATE).await?;
    world.file("worse.yaml", "spec: [")?;
    let told = world.asks(&supplier, "worse", "n1", SOON).await?;
    ensure!(told.reason() == "bad-template", "{told}");
    world.file(
        "worse.yaml",
        &TEMPLATE.replace("restartPolicy: Never", "restartPolicy: Sometimes"),
    )?;
    let told = world.asks(&supplier, "worse", "n2", SOON).await?;
    ensure!(told.reason() == "refused-by-kubernetes", "{told}");
    ensure!(told.text().contains("Sometimes"), "{told}");
    Ok(())
}

async fn no_node(world: &mut World) -> Result<()> {
    let supplier = world.supplies("no-node", TEMPLATE).await?;
    let told = world.asks(&supplier, "no-node", "gone", SOON).await?;
    ensure!(
        told.reason() == "no-node" && told.text().contains("\"gone\""),
        "{told}"
    );
    ensure!(world.pods("no-node").await?.is_empty(), "nothing is made");
    Ok(())
}

async fn evil(world: &mut World) -> Result<()> {
    let template = TEMPLATE.replace("value: 15s", "value: {{ index .Labels \"idle\" }}");
    let supplier = world.supplies("evil", &template).await?;
    let node = "n1&idle=15s%0A%20%20hostNetwork:%20true";
    world.asks(&supplier, "evil", node, SOON).await?;
    let pods = world.has("evil", 1).await?;
    let spec = pods[0].spec.as_ref().context("has a spec")?;
    ensure!(spec.host_network != Some(true), "it is in the node's network");
    free(world, "evil").await
}
