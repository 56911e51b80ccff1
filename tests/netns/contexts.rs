// SPDX-License-Identifier: Apache-2.0
//! What several services of one client have to do with each other, and contexts that change under a wire.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Pod, Program, ping};

use crate::Bench;
use crate::world::{PATIENCE, World, addresses, index, links, prints, same, says, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("services_of_one_client_have_addresses_apart", apart),
        bench.test("services_of_one_awareness_group_may_share_addresses", aware),
        bench.test("d24_policies_that_change_leave_the_interface", policies_change),
        bench.test("both_families_of_one_service_both_carry_packets", dual_stack),
    ]
}

/// One more endpoint with the same addresses as the first, in a pod of its own.
async fn second(world: &World) -> Result<(Program, Pod)> {
    let pod = Pod::new("far-2")?;
    let variables = [("NSM_SERVICE_NAMES", "second".to_string())];
    let (mut program, _) = world.node.start_endpoint("nse-2", &pod, &variables).await?;
    says(&mut program, "INFO ready").await?;
    Ok((program, pod))
}

const BOTH: &str = "kernel://icmp-responder/nsm-1,kernel://second/nsm-2";

async fn apart(world: &mut World) -> Result<()> {
    let (program, pod) = second(world).await?;
    let mut nsc = world.nsc(BOTH, &[])?;
    says(&mut nsc, "INFO ready").await?;
    let [one, two] = [addresses(&world.near, "nsm-1")?, addresses(&world.near, "nsm-2")?];
    ensure!(
        one.len() == 1 && two.len() == 1 && one != two,
        "they have {one:?} and {two:?}"
    );
    for name in ["nsm-1", "nsm-2"] {
        let route = prints(&world.near, "ip", &["-4", "route", "show", "dev", name])?;
        let peer = route.split_whitespace().next().context("no route")?;
        let pings = ping(&world.near, peer.parse()?, 3)?;
        ensure!(pings.loss == 0.0, "{pings:?}");
    }
    stops(nsc).await?;
    stops(program).await?;
    drop(pod);
    world.clean().await
}

async fn aware(world: &mut World) -> Result<()> {
    let (program, pod) = second(world).await?;
    let groups = format!("[{BOTH}]");
    let mut nsc = world.nsc(BOTH, &[("NSM_AWARENESS_GROUPS", &groups)])?;
    says(&mut nsc, "INFO ready").await?;
    let [one, two] = [addresses(&world.near, "nsm-1")?, addresses(&world.near, "nsm-2")?];
    same("their addresses", one, two)?;
    stops(nsc).await?;
    stops(program).await?;
    drop(pod);
    world.clean().await
}

fn policy(port: u16, route: &str) -> String {
    format!("- proto: 6\n  dstport: {port}\n  routes:\n    - prefix: {route}\n      nexthop: 172.16.2.200\n")
}

async fn policies_change(world: &mut World) -> Result<()> {
    let file = world.node.folder().join("changing.yaml");
    std::fs::write(&file, policy(6666, "172.16.3.0/24"))?;
    let path = file.display().to_string();
    let endpoint = world.serve("changing", &[("NSM_PBR_CONFIG_PATH", &path)]).await?;
    let client = world.client()?;
    let attached = client.attach("changing-0", "kernel://changing/nsm-1").await?;
    let before = (index(&world.near, "nsm-1")?, addresses(&world.near, "nsm-1")?);
    let rules = || prints(&world.near, "ip", &["rule", "show"]);
    ensure!(rules()?.contains("6666"), "{}", rules()?);
    std::fs::write(&file, policy(7777, "172.16.4.0/24"))?;
    let mut request = attached.request;
    wait_for(PATIENCE, "the rules have changed", async || {
        request = client.again(request.clone()).await?.request;
        Ok(rules()?.contains("7777").then_some(()))
    })
    .await?;
    ensure!(!rules()?.contains("6666"), "{}", rules()?);
    let routes = prints(&world.near, "ip", &["route", "show", "table", "all"])?;
    ensure!(
        routes.contains("172.16.4.0/24") && !routes.contains("172.16.3.0/24"),
        "{routes}"
    );
    let after = (index(&world.near, "nsm-1")?, addresses(&world.near, "nsm-1")?);
    same("the interface", after, before)?;
    client.close(request).await?;
    same("interfaces", links(&world.near)?.len(), 0)?;
    world.clean().await?;
    client.end().await;
    std::fs::remove_file(&file)?;
    stops(endpoint).await
}

async fn dual_stack(world: &mut World) -> Result<()> {
    let groups = [("NSM_CIDR_PREFIX", "[10.5.0.0/24,10.6.0.0/24],[2001:db8:5::/120]")];
    let endpoint = world.serve("dual", &groups).await?;
    let mut nsc = world.nsc("kernel://dual/nsm-1", &[])?;
    says(&mut nsc, "INFO ready").await?;
    let ours = addresses(&world.near, "nsm-1")?;
    ensure!(
        ours.len() == 2 && ours[0].starts_with("10.5.0.") && ours[1].starts_with("2001:db8:5::"),
        "our addresses are {ours:?}"
    );
    for family in ["-4", "-6"] {
        let routes = prints(&world.near, "ip", &[family, "route", "show", "dev", "nsm-1"])?;
        let peers = routes.lines().filter(|line| !line.starts_with("fe80"));
        let peer = peers.filter_map(|line| line.split_whitespace().next()).next();
        let pings = ping(&world.near, peer.context("no route")?.parse()?, 3)?;
        ensure!(pings.loss == 0.0, "{pings:?}");
    }
    stops(nsc).await?;
    stops(endpoint).await?;
    world.clean().await
}
