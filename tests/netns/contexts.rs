// SPDX-License-Identifier: Apache-2.0
//! What several services of one client have to do with each other, and contexts that change under a wire.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Pod, Program, ping};
use tokio::time::Instant;

use crate::Bench;
use crate::world::{PATIENCE, World, addresses, index, links, prints, same, says, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("services_of_one_client_have_addresses_apart", apart),
        bench.test("services_of_one_awareness_group_may_share_addresses", aware),
        bench.test("services_of_one_client_keep_names_order_and_each_other", in_order),
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

async fn in_order(world: &mut World) -> Result<()> {
    let (program, pod) = second(world).await?;
    let services = [
        ("second", "kernel://second/zero"),
        ("nobody", "kernel://nobody/one"),
        ("icmp-responder", "kernel://icmp-responder/two"),
        ("icmp-responder", "kernel://icmp-responder/three"),
    ];
    let urls = services.map(|(_, url)| url).join(",");
    let mut nsc = world.nsc(&urls, &[])?;
    let three = async |nsc: &Program| (nsc.printed().matches("attached_ms").count() == 3).then_some(());
    nsc.wait_for("three are attached", Instant::now() + PATIENCE, three)
        .await?;
    let client = world.quiet()?;
    for (number, (service, url)) in services.into_iter().enumerate() {
        let known = client.look(&format!("nsc-{number}")).await?;
        let Some(connection) = known.filter(|_| service != "nobody") else {
            same("what there is of nothing", service, "nobody")?;
            continue;
        };
        same("the service", connection.network_service.as_str(), service)?;
        let mechanism = connection.mechanism.as_ref().context("no mechanism")?;
        same(
            "the interface",
            Some(mechanism.parameter("name")),
            url.rsplit('/').next(),
        )?;
    }
    client.end().await;
    let mut names: Vec<_> = links(&world.near)?;
    names.sort_by_key(|link| link["ifname"].to_string());
    let names: Vec<_> = names.iter().filter_map(|link| link["ifname"].as_str()).collect();
    same("the interfaces", names, vec!["three", "two", "zero"])?;
    stops(nsc).await?;
    stops(program).await?;
    drop(pod);
    world.clean().await
}

fn policy(port: u16, route: &str) -> String {
    format!("- proto: 6\n  dstport: {port}\n  routes:\n    - prefix: {route}\n      nexthop: 172.16.2.200\n")
}

/// The client program is asked by the endpoint, as soon as the file has changed.
async fn policies_change(world: &mut World) -> Result<()> {
    let file = world.node.folder().join("changing.yaml");
    std::fs::write(&file, policy(6666, "172.16.3.0/24"))?;
    let path = file.display().to_string();
    let endpoint = world.serve("changing", &[("NSM_PBR_CONFIG_PATH", &path)]).await?;
    let mut nsc = world.nsc("kernel://changing/nsm-1", &[])?;
    says(&mut nsc, "INFO ready").await?;
    let before = (index(&world.near, "nsm-1")?, addresses(&world.near, "nsm-1")?);
    let rules = || prints(&world.near, "ip", &["rule", "show"]);
    let routes = || prints(&world.near, "ip", &["route", "show", "table", "all"]);
    ensure!(rules()?.contains("6666"), "{}", rules()?);
    for (port, route, gone) in [
        (7777, "172.16.4.0/24", "172.16.3.0/24"),
        (7777, "172.16.5.0/24", "172.16.4.0/24"),
        (8888, "172.16.3.0/24", "172.16.5.0/24"),
    ] {
        std::fs::write(&file, policy(port, route))?;
        wait_for(PATIENCE, "the client has the new policies", async || {
            let is_new = rules()?.contains(&port.to_string()) && routes()?.contains(route);
            Ok((is_new && !routes()?.contains(gone)).then_some(()))
        })
        .await?;
    }
    ensure!(!rules()?.contains("7777"), "{}", rules()?);
    let after = (index(&world.near, "nsm-1")?, addresses(&world.near, "nsm-1")?);
    same("the interface", after, before)?;
    stops(nsc).await?;
    same("interfaces", links(&world.near)?.len(), 0)?;
    std::fs::remove_file(&file)?;
    stops(endpoint).await?;
    world.clean().await
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
