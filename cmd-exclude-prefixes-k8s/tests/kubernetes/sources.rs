// SPDX-License-Identifier: Apache-2.0
//! What counts, and what people get wrong.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nsm_sdk::core::Component;
use nsm_sdk::identity::Issuer;
use serde_json::{Value, json};

use crate::Bench;
use crate::world::{SERVICES, World, bound, eventually, map, node, prefixes, program};

/// The ConfigMap that the user writes, its key, and that in which the cluster's setup is.
const USERS: &str = "excluded-prefixes-config";
const KEY: &str = "excluded_prefixes_input.yaml";
const SETUP: &str = "kubeadm-config";

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("c136_every_source_counts_and_is_followed", followed),
        bench.test("what_a_user_gets_wrong_is_named_and_the_rest_is_kept", wrong),
        bench.test("what_is_there_already_is_not_written_again", unchanged),
        bench.test(
            "without_networks_of_services_their_addresses_are_excluded",
            without_ranges,
        ),
        bench.test("a_config_map_is_written_and_mended", written_to_a_map),
        bench.test("it_is_healthy_when_everything_is_written", healthy),
        bench.test(
            "nobody_reads_an_empty_list_before_everything_is_known",
            never_empty,
        ),
    ]
}

async fn followed(world: &mut World) -> Result<()> {
    let setup = "networking:\n  podSubnet: 10.244.0.0/16,fd00:1::/56\n  serviceSubnet: 10.0.0.0/24\n";
    world
        .applies("kube-system", map(SETUP, &[("ClusterConfiguration", setup)]))
        .await?;
    world
        .applies("", node("one", &["192.168.1.0/24", "fd00:2:1::/64"]))
        .await?;
    world
        .applies("default", map(USERS, &[(KEY, "prefixes: [172.16.0.0/24]")]))
        .await?;
    let own = (
        "NSM_EXCLUDED_PREFIXES",
        "198.51.100.0/25,198.51.100.128/25".to_string(),
    );
    let running = world.runs(&[own])?;
    let [pods, pods6, mine] = ["10.244.0.0/16", "fd00:1::/56", "198.51.100.0/24"];
    let [node4, node6] = ["192.168.1.0/24", "fd00:2:1::/64"];
    let all = [SERVICES, pods, "172.16.0.0/24", node4, mine, pods6, node6];
    running.says(&all).await?;

    world
        .applies("default", map(USERS, &[(KEY, "prefixes: [172.16.9.0/24]")]))
        .await?;
    let all = [SERVICES, pods, "172.16.9.0/24", node4, mine, pods6, node6];
    running.says(&all).await?;
    world.deletes("default", map(USERS, &[])).await?;
    running.says(&[SERVICES, pods, node4, mine, pods6, node6]).await?;
    world.applies("", node("two", &["192.168.2.0/24"])).await?;
    let all = [SERVICES, pods, node4, "192.168.2.0/24", mine, pods6, node6];
    running.says(&all).await?;
    for name in ["one", "two"] {
        world.deletes("", node(name, &[])).await?;
    }
    running.says(&[SERVICES, pods, mine, pods6]).await?;
    world.deletes("kube-system", map(SETUP, &[])).await?;
    running.says(&[SERVICES, mine]).await?;
    let status = running.program.stop().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

async fn wrong(world: &mut World) -> Result<()> {
    let yaml = "prefixes: [172.16.1.0/24, 172.16.2.0/33, 172.16.3.0, 172.16.4.0/24]";
    world.applies("default", map(USERS, &[(KEY, yaml)])).await?;
    let running = world.runs(&[("NSM_EXCLUDED_PREFIXES", "everything,203.0.113.0/24".to_string())])?;
    let kept = [SERVICES, "172.16.1.0/24", "172.16.4.0/24", "203.0.113.0/24"];
    running.says(&kept).await?;
    for named in [
        "172.16.2.0/33",
        "172.16.3.0",
        "ConfigMap default/excluded-prefixes-config",
        "NSM_EXCLUDED_PREFIXES",
    ] {
        running.prints(named).await?;
    }
    world
        .applies("default", map(USERS, &[(KEY, "prefixes: {")]))
        .await?;
    running.prints("kept what it said before").await?;
    ensure!(running.said().is_some_and(|said| said == kept), "it is kept");
    world
        .applies("default", map(USERS, &[("other.yaml", "")]))
        .await?;
    running.prints("it has no such key").await?;
    running.says(&[SERVICES, "203.0.113.0/24"]).await?;
    world.deletes("default", map(USERS, &[])).await
}

async fn unchanged(world: &mut World) -> Result<()> {
    world.applies("", node("same", &["192.168.1.0/24"])).await?;
    let first = world.runs(&[])?;
    let all = [SERVICES, "192.168.1.0/24"];
    first.says(&all).await?;
    first.prints("ready").await?;
    let inode = first.inode()?;
    let mut labelled = node("same", &["192.168.1.0/24"]);
    labelled["metadata"]["labels"] = json!({ "zone": "a" });
    world.applies("", labelled).await?;
    let file = first.file.clone();
    first.program.stop().await?;
    let again = world.runs_on(file, &[])?;
    again.prints("ready").await?;
    ensure!(again.inode()? == inode, "it was written again");
    world.applies("", node("other", &["192.168.1.0/25"])).await?;
    world.applies("", node("more", &["192.168.2.0/24"])).await?;
    again
        .says(&[SERVICES, "192.168.1.0/24", "192.168.2.0/24"])
        .await?;
    // What it prints comes after what it does.
    again.prints("written").await?;
    let written = again.program.printed().matches("written").count();
    ensure!(written == 1, "written {written} times");
    for name in ["same", "other", "more"] {
        world.deletes("", node(name, &[])).await?;
    }
    Ok(())
}

/// The role of the manifest, without some of its resources.
fn role_without(resource: &str) -> Result<Value> {
    let text = include_str!("../../../deployments/apps/exclude-prefixes-k8s/rbac.yaml");
    let mut role: Value = serde_saphyr::from_str(text.split("\n---\n").next().unwrap_or_default())?;
    if let Some(rules) = role["rules"].as_array_mut() {
        rules.retain(|rule| rule["resources"] != json!([resource]));
    }
    Ok(role)
}

async fn without_ranges(world: &mut World) -> Result<()> {
    world.applies("", role_without("servicecidrs")?).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "one" },
        "spec": { "clusterIP": "10.0.0.77", "ports": [{ "port": 80 }] },
    });
    let headless = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "none" },
        "spec": { "clusterIP": "None", "ports": [{ "port": 80 }] },
    });
    for service in [&service, &headless] {
        world.applies("default", service.clone()).await?;
    }
    let running = world.runs(&[])?;
    // The first is the API server itself.
    running.says(&["10.0.0.1/32", "10.0.0.77/32"]).await?;
    for service in [service, headless] {
        world.deletes("default", service).await?;
    }
    running.says(&["10.0.0.1/32"]).await?;
    // Whoever gets the right later needs no restart.
    world.applies("", role_without("nothing")?).await?;
    running.says(&[SERVICES]).await
}

/// Lets the program write ConfigMaps of a namespace.
async fn may_write(world: &World, namespace: &str) -> Result<()> {
    let (group, name) = ("rbac.authorization.k8s.io", "exclude-prefixes-output");
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": { "name": name },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"],
                    "verbs": ["get", "list", "watch", "create", "patch"] }],
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": { "name": name },
        "roleRef": { "apiGroup": group, "kind": "Role", "name": name }, "subjects": [],
    });
    for object in [role, bound(binding)] {
        world.applies(namespace, object).await?;
    }
    Ok(())
}

async fn written_to_a_map(world: &mut World) -> Result<()> {
    may_write(world, "default").await?;
    let running = world.runs(&[("NSM_PREFIXES_OUTPUT_TYPE", "config-map".to_string())])?;
    let key = "excluded_prefixes_output.yaml";
    let is_said = async || {
        let said = world.says("default", "nsm-config").await.ok()?;
        let said = prefixes(said[key].as_str()?)?;
        (said == [SERVICES]).then_some(())
    };
    eventually("it is written", is_said).await?;
    running.prints("ready").await?;
    world
        .applies(
            "default",
            map("nsm-config", &[(key, "Prefixes: []"), ("other", "kept")]),
        )
        .await?;
    eventually("what others wrote is mended", is_said).await?;
    let said = world.says("default", "nsm-config").await?;
    ensure!(said["other"] == "kept", "other keys are others': {said}");
    world.deletes("default", map("nsm-config", &[])).await?;
    eventually("it is made again", is_said).await?;
    drop(running);
    world.deletes("default", map("nsm-config", &[])).await
}

async fn healthy(world: &mut World) -> Result<()> {
    let component = Component::new("tests");
    let issuer = Issuer::new(&component, "test")?;
    let [identity, socket, probe] =
        ["identity.sock", "health.sock", "grpc-health-probe"].map(|name| world.path(name));
    let _agent = issuer.serve(&identity, 0o600, "/ns/nsm-system/pod/nsmgr")?;
    let identity = ("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", identity.display()));
    let listen = ("NSM_LISTEN_ON", format!("unix://{}", socket.display()));
    let running = world.runs(&[identity.clone(), listen.clone()])?;
    std::os::unix::fs::symlink(program(), &probe)?;
    let is_healthy = async || {
        let mut asks = tokio::process::Command::new(&probe);
        asks.args(["-spiffe", &format!("-addr={}", listen.1)])
            .env(identity.0, &identity.1);
        asks.output().await.ok()?.status.success().then_some(())
    };
    eventually("it is healthy", is_healthy).await?;
    ensure!(
        running.said().is_some_and(|said| said == [SERVICES]),
        "everything is written"
    );
    component.stop().cancel();
    component.shutdown().cancel();
    Ok(())
}

/// Without anything of its own to exclude: the list comes with the first prefix, and the API server has told all when
/// it is empty.
async fn never_empty(world: &mut World) -> Result<()> {
    let running = world.runs(&[])?;
    running.says(&[SERVICES]).await?;
    running.prints("ready").await?;
    let printed = running.program.printed();
    ensure!(
        !printed.contains("prefixes=0"),
        "an empty list was written: {printed}"
    );
    running.program.stop().await?;

    world.control.kill_api()?;
    let running = world.runs(&[])?;
    running.prints("the API server cannot be reached").await?;
    ensure!(running.said().is_none(), "there is a list, and nothing is known");
    world.control.start_api().await?;
    running.says(&[SERVICES]).await
}
