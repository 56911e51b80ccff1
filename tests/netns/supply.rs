// SPDX-License-Identifier: Apache-2.0
//! Endpoints that are started when clients ask for them, here by a command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::{join, join_all, try_join_all};
use libtest_mimic::Trial;
use nsm::mesh::{Client, Node, Pod, Program, ping};
use serde_json::Value;
use tokio::time::Instant;

use crate::Bench;
use crate::remote::Apart;
use crate::world::{PATIENCE, World, programs, says, stops, wait_for};

/// How many clients ask at once.
const CLIENTS: usize = 100;

/// The service, which has no endpoint.
const URL: &str = "kernel://zero";

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.apart(
            "c130_c131_c132_clients_of_two_nodes_have_one_endpoint_each_which_retires",
            "ETHERNET",
            from_zero,
        ),
        bench.test(
            "a_supplier_killed_between_start_and_register_starts_no_second_one",
            killed,
        ),
        bench.test("an_endpoint_that_never_registers_is_told_and_stopped", never),
    ]
}

/// The words of a command that runs the endpoint in the pod `of-NODE`.
fn in_pod(pod: &Pod) -> Result<String> {
    let path = pod.path().display().to_string();
    let path = path.replace("node-1", "{{.Labels.nodeName}}");
    let file = programs()?.file("nse-icmp")?;
    Ok(format!("nsenter --net={path} -- {}", file.display()))
}

/// Starts the supplier as `nse-2` beside `node`. Managers are found at `of-NODE.sock`.
async fn supplier(node: &Node, command: &str, more: &[(&str, &str)]) -> Result<Program> {
    let folder = node.folder().display().to_string();
    let of = "{{.Labels.nodeName}}";
    let envs = [
        format!("NSM_NAME=worker-{of}"),
        format!("NSM_LISTEN_ON=unix://{folder}/worker-{of}.sock"),
        format!("SPIFFE_ENDPOINT_SOCKET=unix://{folder}/identity/worker-{of}.sock"),
        format!("NSM_CONNECT_TO=unix://{folder}/of-{of}.sock"),
        "NSM_SERVICE_NAMES={{.NetworkService}}".to_string(),
        "NSM_REGISTER_SERVICE=false".to_string(),
        "NSM_LABELS=app:worker".to_string(),
        "NSM_IDLE_TIMEOUT=3s".to_string(),
        "NSM_LOG_LEVEL=DEBUG".to_string(),
    ];
    let mut variables = vec![
        ("NSM_LISTEN_ON", node.url("nse-2")),
        ("NSM_CONNECT_TO", node.manager_url()),
        ("NSM_SERVICE_NAME", "zero".to_string()),
        ("NSM_REGISTER_SERVICE", "true".to_string()),
        ("NSM_LABELS", "app:supplier".to_string()),
        ("NSM_ENDPOINT_LABELS", "app:worker".to_string()),
        ("NSM_COMMAND", command.to_string()),
        ("NSM_COMMAND_ENVS", envs.join(",")),
        ("NSM_STATE_DIR", format!("{folder}/supplied")),
    ];
    variables.extend(more.iter().map(|(name, value)| (*name, value.to_string())));
    let mut program = node.launch("nse-2", "nse-supplier-k8s", None, &variables)?;
    says(&mut program, "INFO ready").await?;
    Ok(program)
}

/// Where the manager of a node is found by its name.
fn link(node: &Node, name: &str) -> Result<()> {
    let manager = node.manager_url();
    let at = node.folder().join(format!("of-{name}.sock"));
    if !at.exists() {
        let manager = manager.strip_prefix("unix://").context("a socket")?;
        std::os::unix::fs::symlink(manager, at)?;
    }
    Ok(())
}

/// The processes that were started and run.
fn running(folder: &Path) -> Result<Vec<u64>> {
    let Ok(entries) = std::fs::read_dir(folder.join("supplied")) else {
        return Ok(Vec::new());
    };
    let mut pids = Vec::new();
    for entry in entries {
        let Ok(text) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        let kept: Value = serde_json::from_str(&text).unwrap_or_default();
        let pid = kept["pid"].as_u64().unwrap_or(0);
        if pid > 0 && PathBuf::from(format!("/proc/{pid}")).exists() {
            pids.push(pid);
        }
    }
    Ok(pids)
}

async fn have_retired(folder: &Path) -> Result<()> {
    wait_for(PATIENCE, "what was started has ended", async || {
        Ok(running(folder)?.is_empty().then_some(()))
    })
    .await
}

async fn from_zero(apart: &mut Apart) -> Result<()> {
    let pods = [Pod::new("of-node-1")?, Pod::new("of-node-2")?];
    let other = Pod::new("near-2")?;
    link(&apart.first, "node-1")?;
    link(&apart.second, "node-2")?;
    let folder = apart.first.folder().to_path_buf();
    let supplier = supplier(&apart.first, &in_pod(&pods[0])?, &[]).await?;
    let clients = [
        Client::new(&apart.first, "nsc", apart.near.path())?,
        Client::new(&apart.second, "nsc", other.path())?,
    ];
    let began = Instant::now();
    let asked = (0..CLIENTS).map(|at| {
        let client = &clients[at % 2];
        async move {
            client
                .attach(&format!("zero-{at}"), &format!("{URL}/nsm-{at}"))
                .await
        }
    });
    let attached = try_join_all(asked).await?;
    println!("{CLIENTS} clients were served after {:?}", began.elapsed());
    ensure!(
        running(&folder)?.len() == 2,
        "one for each node: {:?}",
        running(&folder)?
    );
    for (at, pod) in [&apart.near, &other].into_iter().enumerate() {
        let endpoint = &attached[at].request.connection.network_service_endpoint_name;
        ensure!(*endpoint == format!("worker-node-{}", at + 1), "{endpoint}");
        let pings = ping(pod, attached[at].endpoint().context("an address")?.into(), 3)?;
        ensure!(pings.loss == 0.0, "{pings:?}");
    }
    let closed = attached.into_iter().enumerate();
    let closed = closed.map(|(at, attached)| clients[at % 2].close(attached.request));
    for closed in join_all(closed).await {
        closed?;
    }
    have_retired(&folder).await?;
    // Who comes after that has another one started.
    let attached = clients[0].attach("zero-again", &format!("{URL}/nsm-1")).await?;
    ensure!(running(&folder)?.len() == 1, "one again");
    clients[0].close(attached.request).await?;
    have_retired(&folder).await?;
    stops(supplier).await?;
    for client in clients {
        client.end().await;
    }
    drop((pods, other));
    apart.clean().await
}

async fn killed(world: &mut World) -> Result<()> {
    let pod = Pod::new("of-node-1")?;
    link(&world.node, "node-1")?;
    let folder = world.node.folder().to_path_buf();
    let at = folder.display();
    let command = format!(
        "sh -c 'echo started >> {at}/starts; while [ ! -e {at}/go ]; do sleep 0.05; done; exec {}'",
        in_pod(&pod)?
    );
    let first = supplier(&world.node, &command, &[]).await?;
    let client = world.quiet()?;
    let faults = async {
        wait_for(PATIENCE, "an endpoint is started", async || {
            Ok((running(&folder)?.len() == 1).then_some(()))
        })
        .await?;
        first.kill()?;
        let next = supplier(&world.node, &command, &[]).await?;
        std::fs::write(folder.join("go"), "")?;
        Ok::<_, anyhow::Error>(next)
    };
    // The first answer may be that the supplier is gone: clients ask again.
    let asked = wait_for(PATIENCE, "the client is served", async || {
        Ok(client.attach("killed-0", "kernel://zero/nsm-1").await.ok())
    });
    let (attached, next) = join(asked, faults).await;
    let (next, attached) = (next?, attached?);
    let starts = std::fs::read_to_string(folder.join("starts"))?;
    ensure!(starts.lines().count() == 1, "it was started more than once");
    client.close(attached.request).await?;
    have_retired(&folder).await?;
    stops(next).await?;
    client.end().await;
    drop(pod);
    world.clean().await
}

async fn never(world: &mut World) -> Result<()> {
    let timeout = [("NSM_START_TIMEOUT", "2s"), ("NSM_MAX_ENDPOINTS", "5")];
    let supplier = supplier(&world.node, "sleep 1000", &timeout).await?;
    let client = world.quiet()?;
    let began = Instant::now();
    let told = match client.attach("never-0", "kernel://zero/nsm-1").await {
        Ok(attached) => bail!("it was served: {attached:?}"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(began.elapsed() < Duration::from_secs(17), "{:?}", began.elapsed());
    for part in ["process ", "was not registered within 2", "is stopped"] {
        ensure!(told.contains(part), "{part:?} is not in {told}");
    }
    have_retired(world.node.folder()).await?;
    stops(supplier).await?;
    client.end().await;
    world.clean().await
}
