// SPDX-License-Identifier: Apache-2.0
//! Wires of the client program that break, and how it mends them.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Pinger, Pod, Program};
use nsm_api::registry::{Destination, Match, NetworkService as Service};
use tokio::time::Instant;

use crate::Bench;
use crate::world::{
    PATIENCE, World, addresses, index, links, only_name, prints, replied, same, says, stops, wait_for,
};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test(
            "c56_kill_9_of_an_endpoint_moves_the_wire_to_another",
            endpoint_killed,
        ),
        bench.test("c56_an_endpoint_that_goes_with_its_pod_is_replaced", pod_goes),
        bench.test("c56_without_looks_at_the_wire_it_moves_too", unchecked),
        bench.test("c57_d65_a_wire_that_carries_nothing_is_moved", wire_breaks),
        bench.test(
            "c57_an_interface_that_is_down_before_it_was_ever_looked_at_is_mended",
            down_at_once,
        ),
        bench.test(
            "c60_kill_9_of_the_forwarder_is_mended_without_loss",
            forwarder_killed,
        ),
        bench.test("c61_kill_9_of_the_manager_is_mended_without_loss", manager_killed),
        bench.test(
            "c65_kill_9_of_the_registry_is_mended_without_loss",
            registry_killed,
        ),
        bench.test(
            "kill_9_of_the_only_endpoint_is_mended_without_loss",
            only_endpoint_killed,
        ),
        bench.test("c69_a_client_that_restarts_reselects_what_is_down", restarts),
        bench.test("c70_when_the_service_changes_the_wire_moves", service_changes),
        bench.test("a_service_that_fails_does_not_hold_up_the_others", one_fails),
    ]
}

const URL: &str = "kernel://icmp-responder/nsm-1";

/// How often what is measured is repeated.
const ROUNDS: usize = 5;

/// How soon traffic is back after an endpoint was killed, on a machine that does nothing else.
const BACK: Duration = Duration::from_millis(300);

/// An endpoint and where it runs.
struct Served {
    program: Program,
    pod: Pod,
}

/// One more endpoint of `icmp-responder`, in a pod of its own.
async fn serve(world: &World, name: &str, pod: &str) -> Result<Served> {
    let pod = Pod::new(pod)?;
    let program = start(world, name, &pod).await?;
    Ok(Served { program, pod })
}

async fn start(world: &World, name: &str, pod: &Pod) -> Result<Program> {
    let variables = [("NSM_REGISTER_SERVICE", "false".to_string())];
    let (mut program, _) = world.node.start_endpoint(name, pod, &variables).await?;
    says(&mut program, "INFO ready").await?;
    Ok(program)
}

/// Removes what an endpoint has left that was killed for good.
fn bury(world: &World, name: &str) -> Result<()> {
    Ok(std::fs::remove_file(
        world.node.folder().join(format!("{name}.sock")),
    )?)
}

/// The other end of the client's only wire.
fn other_end(world: &World) -> Result<Ipv4Addr> {
    let shown = prints(&world.near, "ip", &["-4", "route", "show", "dev", "nsm-1"])?;
    let route = shown.lines().find(|line| line.contains("scope link"));
    let route = route
        .or_else(|| shown.lines().next())
        .context("there is no route")?;
    let prefix = route.split_whitespace().next().unwrap_or_default();
    let address = prefix.split('/').next().unwrap_or_default();
    address.parse().with_context(|| format!("the routes are {shown}"))
}

/// Waits until the client says that it has mended its wire, and a ping is answered; answers how long that took, and
/// for how long no ping was answered.
fn traffic_is_back(
    pinger: &Pinger,
    to: Ipv4Addr,
    nsc: &Program,
    began: Instant,
) -> Result<(Duration, Duration)> {
    let (mut answered, mut outage) = (began, Duration::ZERO);
    for number in 1.. {
        let is_mended = nsc.printed().contains("healed_ms");
        let pinged = pinger.once(to, number, Instant::now() + Duration::from_millis(5));
        let now = Instant::now();
        if pinged.is_ok() {
            outage = outage.max(now - answered);
            answered = now;
            if is_mended {
                return Ok((began.elapsed(), outage));
            }
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "there is no traffic: {}",
            nsc.printed()
        );
    }
    unreachable!("numbers do not end")
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

async fn endpoint_killed(world: &mut World) -> Result<()> {
    let Served { program, pod } = serve(world, "nse-2", "far-2").await?;
    let mut second = Some(program);
    let pinger = Pinger::new(world.near.path())?;
    let (mut times, mut outages) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut nsc = world.nsc(URL, &[])?;
        says(&mut nsc, "INFO ready").await?;
        let (to, is_first) = (other_end(world)?, !links(&world.far)?.is_empty());
        pinger.once(to, 0, Instant::now() + PATIENCE)?;
        let began = Instant::now();
        match is_first {
            true => killed(&mut world.endpoint)?,
            false => killed(&mut second)?,
        }
        let (took, outage) = traffic_is_back(&pinger, to, &nsc, began)?;
        times.push(took);
        outages.push(outage);
        let (left, now) = match is_first {
            true => (&world.far, &pod),
            false => (&pod, &world.far),
        };
        same("the wires of who was killed", links(left)?.len(), 0)?;
        same("the wires of the other", links(now)?.len(), 1)?;
        stops(nsc).await?;
        match is_first {
            true => world.start_endpoint().await?,
            false => second = Some(start(world, "nse-2", &pod).await?),
        }
    }
    println!("moved after {times:?}, without traffic for {outages:?}");
    let (moved, outage) = (median(times), median(outages));
    println!("medians: moved after {moved:?}, without traffic for {outage:?}");
    ensure!(
        moved <= BACK * 3 && outage <= BACK,
        "moved after {moved:?}, outage {outage:?}"
    );
    stops(second.context("no endpoint")?).await?;
    drop(pod);
    world.clean().await
}

async fn pod_goes(world: &mut World) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        // The only endpoint while the client attaches, so that it is the one that goes.
        stops(world.endpoint.take().context("no endpoint")?).await?;
        let second = serve(world, "nse-2", &format!("far-{round}")).await?;
        let pinger = Pinger::new(world.near.path())?;
        let mut nsc = world.nsc(URL, &[])?;
        says(&mut nsc, "INFO ready").await?;
        let to = other_end(world)?;
        pinger.once(to, 0, Instant::now() + PATIENCE)?;
        world.start_endpoint().await?;
        let began = Instant::now();
        second.program.kill()?;
        drop(second.pod);
        let (took, _) = traffic_is_back(&pinger, to, &nsc, began)?;
        times.push(took);
        same("the wires of the other", links(&world.far)?.len(), 1)?;
        stops(nsc).await?;
        bury(world, "nse-2")?;
        world.clean_within(PATIENCE).await?;
    }
    println!(
        "traffic is back after {times:?}, median {:?}",
        median(times.clone())
    );
    ensure!(
        median(times.clone()) <= BACK * 3,
        "traffic is back after {times:?}"
    );
    Ok(())
}

/// A wire to the endpoint `nse-2` in `far-2`, while `nse` is there too.
async fn beside(world: &mut World, variables: &[(&str, &str)]) -> Result<(Served, Program)> {
    stops(world.endpoint.take().context("no endpoint")?).await?;
    let second = serve(world, "nse-2", "far-2").await?;
    let mut nsc = world.nsc(URL, variables)?;
    says(&mut nsc, "INFO ready").await?;
    world.start_endpoint().await?;
    Ok((second, nsc))
}

async fn unchecked(world: &mut World) -> Result<()> {
    let (second, mut nsc) = beside(world, &[("NSM_LIVENESS_CHECK_ENABLED", "false")]).await?;
    second.program.kill()?;
    says(&mut nsc, "healed_ms").await?;
    same("the wires of the other", links(&world.far)?.len(), 1)?;
    stops(nsc).await?;
    bury(world, "nse-2")?;
    drop(second.pod);
    world.clean().await
}

async fn wire_breaks(world: &mut World) -> Result<()> {
    let (second, mut nsc) = beside(world, &[]).await?;
    // It has to have answered before.
    replied(&world.near, 1).await?;
    let name = only_name(&second.pod)?;
    let began = Instant::now();
    prints(&second.pod, "ip", &["link", "set", "dev", &name, "down"])?;
    says(&mut nsc, "healed_ms").await?;
    println!("mended after {:?}", began.elapsed());
    same("the wires of the other", links(&world.far)?.len(), 1)?;
    same("the wires of the broken", links(&second.pod)?.len(), 0)?;
    let pinger = Pinger::new(world.near.path())?;
    pinger.once(other_end(world)?, 1, Instant::now() + PATIENCE)?;
    stops(nsc).await?;
    stops(second.program).await?;
    drop(second.pod);
    world.clean().await
}

async fn down_at_once(world: &mut World) -> Result<()> {
    // As every pod on a cluster, it has another way to everywhere.
    for line in [
        "link add eth0 type veth peer name network",
        "link set network up",
        "link set eth0 up",
        "addr add 192.0.2.1/24 dev eth0",
        "route add default via 192.0.2.2",
    ] {
        prints(&world.near, "ip", &line.split(' ').collect::<Vec<_>>())?;
    }
    // The first look is not made before the interface is down.
    let mut nsc = world.nsc(URL, &[("NSM_LIVENESS_CHECK_INTERVAL", "2s")])?;
    says(&mut nsc, "INFO ready").await?;
    prints(&world.near, "ip", &["link", "set", "dev", "nsm-1", "down"])?;
    says(&mut nsc, "healed_ms").await?;
    replied(&world.near, 1).await?;
    stops(nsc).await?;
    prints(&world.near, "ip", &["link", "del", "eth0"])?;
    world.clean().await
}

/// Kills a program under a wire that carries pings, starts it again, and checks that no ping is lost, that the wire
/// stays the same, and, where `is_told`, that the client mends its connection.
async fn survives(
    world: &mut World,
    is_told: bool,
    kill: impl AsyncFnOnce(&mut World) -> Result<()>,
    start: impl AsyncFnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let mut nsc = world.nsc(URL, &[])?;
    says(&mut nsc, "INFO ready").await?;
    let before = (index(&world.near, "nsm-1")?, addresses(&world.near, "nsm-1")?);
    let to = other_end(world)?.to_string();
    let mut ping = world.near.command("ping");
    let ping = ping.args(["-n", "-i", "0.01", "-W", "2", "-c", "300", &to]);
    let ping = ping.stdout(std::process::Stdio::piped()).spawn()?;
    replied(&world.near, 20).await?;
    kill(world).await?;
    replied(&world.near, 50).await?;
    start(world).await?;
    if is_told {
        says(&mut nsc, "healed_ms").await?;
    }
    let printed = tokio::task::spawn_blocking(move || ping.wait_with_output()).await??;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    ensure!(printed.contains("300 received"), "pings were lost: {printed}");
    let after = (index(&world.near, "nsm-1")?, addresses(&world.near, "nsm-1")?);
    same("the wire", after, before)?;
    ensure!(!nsc.printed().contains("event=Reselect"), "{}", nsc.printed());
    stops(nsc).await?;
    world.clean().await
}

fn killed(program: &mut Option<Program>) -> Result<()> {
    program.take().context("the program does not run")?.kill()
}

async fn forwarder_killed(world: &mut World) -> Result<()> {
    let kill = async |world: &mut World| killed(&mut world.node.forwarder);
    survives(world, true, kill, async |world| {
        world.node.start_forwarder().await.map(drop)
    })
    .await
}

async fn manager_killed(world: &mut World) -> Result<()> {
    let kill = async |world: &mut World| killed(&mut world.node.nsmgr);
    survives(world, true, kill, async |world| {
        world.node.start_nsmgr().await.map(drop)
    })
    .await
}

async fn registry_killed(world: &mut World) -> Result<()> {
    let kill = async |world: &mut World| killed(&mut world.node.registry);
    survives(world, false, kill, async |world| {
        world.node.start_registry().await.map(drop)
    })
    .await
}

async fn only_endpoint_killed(world: &mut World) -> Result<()> {
    let kill = async |world: &mut World| killed(&mut world.endpoint);
    survives(world, true, kill, async |world| world.start_endpoint().await).await
}

async fn restarts(world: &mut World) -> Result<()> {
    let unchecked = [("NSM_LIVENESS_CHECK_ENABLED", "false")];
    let (second, nsc) = beside(world, &unchecked).await?;
    nsc.kill()?;
    second.program.kill()?;
    let client = world.quiet()?;
    wait_for(PATIENCE, "the manager knows that it is down", async || {
        let known = client.look("nsc-0").await?.context("it is not known")?;
        Ok((known.state() == nsm_api::connection::State::Down).then_some(()))
    })
    .await?;
    client.end().await;
    let mut nsc = world.nsc(URL, &unchecked)?;
    says(&mut nsc, "INFO ready").await?;
    ensure!(nsc.printed().contains("chosen anew"), "{}", nsc.printed());
    same("the wires of the other", links(&world.far)?.len(), 1)?;
    same("the wires of who was killed", links(&second.pod)?.len(), 0)?;
    stops(nsc).await?;
    bury(world, "nse-2")?;
    drop(second.pod);
    world.clean().await
}

/// A service whose clients get endpoints of this color.
fn colored(color: &str) -> Service {
    let labels = [("color".to_string(), color.to_string())].into();
    let route = Destination {
        destination_selector: labels,
        ..Default::default()
    };
    Service {
        name: "colored".into(),
        payload: "ETHERNET".into(),
        matches: vec![Match {
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    }
}

async fn service_changes(world: &mut World) -> Result<()> {
    world.register_service(colored("red")).await?;
    let mut endpoints = Vec::new();
    for (name, pod, color, prefix) in [
        ("nse-2", "red", "color:red", "10.1.0.0/24"),
        ("nse-3", "blue", "color:blue", "10.2.0.0/24"),
    ] {
        let pod = Pod::new(pod)?;
        let variables = [
            ("NSM_SERVICE_NAMES", "colored"),
            ("NSM_LABELS", color),
            ("NSM_CIDR_PREFIX", prefix),
            ("NSM_IPAM_POLICY", "strict"),
            ("NSM_REGISTER_SERVICE", "false"),
        ];
        let variables = variables.map(|(name, value)| (name, value.to_string()));
        let (mut program, _) = world.node.start_endpoint(name, &pod, &variables).await?;
        says(&mut program, "INFO ready").await?;
        endpoints.push(Served { program, pod });
    }
    let mut nsc = world.nsc("kernel://colored/nsm-1", &[])?;
    says(&mut nsc, "INFO ready").await?;
    same("the wires of the red", links(&endpoints[0].pod)?.len(), 1)?;
    world.register_service(colored("blue")).await?;
    says(&mut nsc, "healed_ms").await?;
    same("the wires of the red", links(&endpoints[0].pod)?.len(), 0)?;
    same("the wires of the blue", links(&endpoints[1].pod)?.len(), 1)?;
    let ours = addresses(&world.near, "nsm-1")?;
    ensure!(
        ours.iter().all(|address| address.starts_with("10.2.0.")),
        "our addresses are {ours:?}"
    );
    stops(nsc).await?;
    for Served { program, pod } in endpoints {
        stops(program).await?;
        drop(pod);
    }
    world.clean().await
}

async fn one_fails(world: &mut World) -> Result<()> {
    let mut nsc = world.nsc("kernel://nobody/nsm-0,kernel://icmp-responder/nsm-1", &[])?;
    says(&mut nsc, "attached_ms").await?;
    same("the interface", only_name(&world.near)?.as_str(), "nsm-1")?;
    ensure!(nsc.printed().contains("not attached yet"), "{}", nsc.printed());
    stops(nsc).await?;
    world.clean().await
}
