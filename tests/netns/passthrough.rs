// SPDX-License-Identifier: Apache-2.0
//! Endpoints that pass packets on: a client reaches the endpoint behind through the pod of the one before it.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Attached, Node, Pod, Program, ping};
use nsm_api::registry::{Destination, Match, NetworkService as Service};

use crate::Bench;
use crate::remote::Apart;
use crate::world::{
    PATIENCE, World, index, links, prints, register_service, replied, same, says, stops, wait_for,
};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("packets_pass_the_endpoint_before_the_other", composed),
        bench.test(
            "a_passthrough_endpoint_without_anything_behind_is_refused",
            nothing_behind,
        ),
        bench.test(
            "a_passthrough_endpoint_that_dies_is_replaced_with_its_far_leg",
            wall_dies,
        ),
        bench.test("an_endpoint_behind_that_dies_is_replaced", server_dies),
        bench.apart(
            "packets_pass_an_endpoint_on_another_node_by_vxlan",
            "ETHERNET",
            there_and_back,
        ),
        bench.apart(
            "packets_pass_an_endpoint_on_another_node_by_wireguard",
            "IP",
            there_and_back,
        ),
    ]
}

/// The service, and its URL.
const SECURE: &str = "secure";
const URL: &str = "kernel://secure/nsm-1";

/// Clients get the firewall, and the firewall gets the server.
fn secure(payload: &str) -> Service {
    let selector = |app: &str| [("app".to_string(), app.to_string())].into();
    let to = |app: &str| Destination {
        destination_selector: selector(app),
        ..Default::default()
    };
    let from_the_firewall = Match {
        source_selector: selector("firewall"),
        routes: vec![to("server")],
        ..Default::default()
    };
    let from_others = Match {
        routes: vec![to("firewall")],
        ..Default::default()
    };
    Service {
        name: SECURE.into(),
        payload: payload.into(),
        matches: vec![from_the_firewall, from_others],
        ..Default::default()
    }
}

/// An endpoint in a pod of its own.
struct Served {
    program: Program,
    pod: Pod,
}

/// Starts `file` as the endpoint `name` of the service, with addresses of `prefix`.
async fn serve(
    node: &Node,
    file: &str,
    name: &str,
    app: &str,
    prefix: &str,
    more: &[(&str, &str)],
) -> Result<Served> {
    let pod = Pod::new(&format!("of-{name}"))?;
    let mut variables = vec![
        ("NSM_LISTEN_ON", node.url(name)),
        ("NSM_CONNECT_TO", node.manager_url()),
        ("NSM_SERVICE_NAMES", SECURE.to_string()),
        ("NSM_REGISTER_SERVICE", "false".to_string()),
        ("NSM_LABELS", format!("app:{app}")),
        ("NSM_CIDR_PREFIX", prefix.to_string()),
    ];
    variables.extend(more.iter().map(|(name, value)| (*name, value.to_string())));
    let mut program = node.launch(name, file, Some(&pod), &variables)?;
    says(&mut program, "INFO ready").await?;
    Ok(Served { program, pod })
}

async fn wall(node: &Node, name: &str, more: &[(&str, &str)]) -> Result<Served> {
    serve(node, "nse-passthrough", name, "firewall", "10.61.0.0/24", more).await
}

async fn server(node: &Node, name: &str) -> Result<Served> {
    serve(node, "nse-icmp", name, "server", "10.62.0.0/24", &[]).await
}

/// The address behind the wall that the client has a route to.
fn behind(near: &Pod) -> Result<IpAddr> {
    let routes = prints(near, "ip", &["-4", "route", "show", "dev", "nsm-1"])?;
    let route = routes.lines().find(|line| line.starts_with("10.62.0."));
    let destination = route.and_then(|route| route.split_whitespace().next());
    Ok(destination
        .with_context(|| format!("no route: {routes}"))?
        .parse()?)
}

/// Pings from each end to the other, and checks that somebody has passed the packets on.
fn passes(near: &Pod, source: IpAddr, far: &Pod) -> Result<()> {
    let destination = behind(near)?;
    for (pod, to) in [(near, destination), (far, source)] {
        let pings = ping(pod, to, 5)?;
        ensure!(pings.loss == 0.0, "{pings:?}");
        let once = prints(pod, "ping", &["-n", "-c", "1", "-W", "2", &to.to_string()])?;
        ensure!(once.contains("ttl=63"), "{once}");
    }
    Ok(())
}

fn source(attached: &Attached) -> Result<IpAddr> {
    let ip = attached.request.connection.ip_context().context("no addresses")?;
    Ok(ip.src_nets().first().context("no address")?.addr())
}

/// The names along the path.
fn hops(attached: &Attached) -> Vec<&str> {
    let path = attached.request.connection.path.as_ref();
    let segments = path.map(|path| path.path_segments.iter());
    segments
        .into_iter()
        .flatten()
        .map(|hop| hop.name.as_str())
        .collect()
}

async fn ends(served: Served) -> Result<()> {
    stops(served.program).await?;
    drop(served.pod);
    Ok(())
}

/// Interfaces of all these pods.
fn wires(pods: &[&Pod]) -> Result<Vec<(String, u64)>> {
    let mut all = Vec::new();
    for pod in pods {
        for link in links(pod)? {
            let name = link["ifname"].as_str().unwrap_or_default().to_string();
            all.push((name.clone(), index(pod, &name)?));
        }
    }
    Ok(all)
}

/// Waits until each pod has so many ends of wires: what is removed goes after the answer.
async fn have<const N: usize>(pods: [(&Pod, usize); N]) -> Result<()> {
    let what = format!("the ends are {:?}", pods.map(|(pod, count)| (pod.name(), count)));
    wait_for(PATIENCE, &what, async || {
        for (pod, count) in pods {
            if links(pod)?.len() != count {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

async fn composed(world: &mut World) -> Result<()> {
    world.register_service(secure("IP")).await?;
    let (server, wall) = (
        server(&world.node, "nse-2").await?,
        wall(&world.node, "nse-3", &[]).await?,
    );
    let client = world.client()?;
    let first = client.attach("composed-0", URL).await?;
    same(
        "the path",
        hops(&first),
        vec![
            "nsc",
            "nsmgr",
            "forwarder",
            "nse-3",
            "nsmgr",
            "forwarder",
            "nse-2",
        ],
    )?;
    same(
        "the endpoint that the client sees",
        first.request.connection.network_service_endpoint_name.as_str(),
        "nse-3",
    )?;
    passes(&world.near, source(&first)?, &server.pod)?;
    let pods = [&world.near, &wall.pod, &server.pod];
    let before = wires(&pods)?;
    same("ends of wires", before.len(), 4)?;
    let again = client.again(first.request).await?;
    same("ends of wires", wires(&pods)?, before)?;
    let second = client.attach("composed-1", "kernel://secure/nsm-2").await?;
    same("ends of wires", wires(&pods)?.len(), 8)?;
    passes(&world.near, source(&again)?, &server.pod)?;
    client.close(second.request).await?;
    passes(&world.near, source(&again)?, &server.pod)?;
    // The rules of the pod decide what passes.
    prints(
        &wall.pod,
        "ip",
        &["rule", "add", "to", "10.62.0.0/24", "pref", "1", "blackhole"],
    )?;
    same("the loss", ping(&world.near, behind(&world.near)?, 2)?.loss, 1.0)?;
    client.close(again.request).await?;
    have(pods.map(|pod| (pod, 0))).await?;
    client.end().await;
    ends(wall).await?;
    ends(server).await?;
    world.clean().await
}

async fn nothing_behind(world: &mut World) -> Result<()> {
    world.register_service(secure("IP")).await?;
    let wall = wall(&world.node, "nse-3", &[]).await?;
    let client = world.client()?;
    let error = client
        .attach("alone-0", URL)
        .await
        .err()
        .context("a wire to nothing")?;
    ensure!(format!("{error:#}").contains("candidates not found"), "{error:#}");
    have([(&world.near, 0), (&wall.pod, 0)]).await?;
    client.end().await;
    ends(wall).await?;
    world.clean().await
}

/// The client program, once packets pass: it must have heard answers to know what silence means.
async fn nsc(world: &World, server: &Pod) -> Result<Program> {
    let mut nsc = world.nsc(URL, &[])?;
    says(&mut nsc, "INFO ready").await?;
    replied(&world.near, 1).await?;
    passes(&world.near, near_address(world)?, server)?;
    Ok(nsc)
}

fn near_address(world: &World) -> Result<IpAddr> {
    let shown = world.near.ip(&["-4", "addr", "show", "dev", "nsm-1"])?;
    let address = shown[0]["addr_info"][0]["local"].as_str();
    Ok(address.context("no address")?.parse()?)
}

/// What is promised by a wall that is to die: its far leg goes when that is over, less the time that a request has.
const SHORT: [(&str, &str); 1] = [("NSM_MAX_TOKEN_LIFETIME", "20s")];

async fn wall_dies(world: &mut World) -> Result<()> {
    world.register_service(secure("IP")).await?;
    let server = server(&world.node, "nse-2").await?;
    let first = wall(&world.node, "nse-3", &SHORT).await?;
    let mut nsc = nsc(world, &server.pod).await?;
    let second = wall(&world.node, "nsc-2", &[]).await?;
    first.program.kill()?;
    says(&mut nsc, "healed_ms").await?;
    have([(&second.pod, 2)]).await?;
    passes(&world.near, near_address(world)?, &server.pod)?;
    // Nobody can close the far leg of the dead, so it goes when what was promised for it is over.
    have([(&first.pod, 0), (&server.pod, 1)]).await?;
    passes(&world.near, near_address(world)?, &server.pod)?;
    stops(nsc).await?;
    std::fs::remove_file(world.node.folder().join("nse-3.sock"))?;
    drop(first.pod);
    ends(second).await?;
    ends(server).await?;
    world.clean().await
}

async fn server_dies(world: &mut World) -> Result<()> {
    world.register_service(secure("IP")).await?;
    let first = server(&world.node, "nse-2").await?;
    let wall = wall(&world.node, "nse-3", &[]).await?;
    let mut nsc = nsc(world, &first.pod).await?;
    let second = server(&world.node, "nsc-2").await?;
    first.program.kill()?;
    says(&mut nsc, "healed_ms").await?;
    have([(&first.pod, 0), (&wall.pod, 2), (&second.pod, 1)]).await?;
    passes(&world.near, near_address(world)?, &second.pod)?;
    stops(nsc).await?;
    std::fs::remove_file(world.node.folder().join("nse-2.sock"))?;
    drop(first.pod);
    ends(wall).await?;
    ends(second).await?;
    world.clean().await
}

/// The client and the server are on one node, what stands between them is on the other.
async fn there_and_back(apart: &mut Apart) -> Result<()> {
    let identity = apart.first.identity().clone();
    register_service(identity, &apart.first.manager_url(), secure(apart.payload)).await?;
    let server = server(&apart.first, "nse-2").await?;
    let wall = wall(&apart.second, "nse-3", &[]).await?;
    let client = apart.client()?;
    let attached = client.attach("there-0", URL).await?;
    let there = ["nsc", "nsmgr", "forwarder", "nsmgr-2", "forwarder-2", "nse-3"];
    let back = ["nsmgr-2", "forwarder-2", "nsmgr", "forwarder", "nse-2"];
    same("the path", hops(&attached), [&there[..], &back].concat())?;
    passes(&apart.near, source(&attached)?, &server.pod)?;
    let pods = [&apart.near, &wall.pod, &server.pod];
    let before = wires(&pods)?;
    let again = client.again(attached.request).await?;
    same("ends of wires", wires(&pods)?, before)?;
    passes(&apart.near, source(&again)?, &server.pod)?;
    client.close(again.request).await?;
    have(pods.map(|pod| (pod, 0))).await?;
    client.end().await;
    ends(wall).await?;
    ends(server).await
}
