// SPDX-License-Identifier: Apache-2.0
//! Programs that end, are killed and come back, while wires are there.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Attached, Pod, Program};

use crate::Bench;
use crate::world::{
    PATIENCE, SOON, World, addresses, index, links, only_name, prints, same, says, stops, wait_for,
};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("d38_kill_9_of_the_forwarder_loses_no_packet", forwarder_killed),
        bench.test("kill_9_of_the_manager_loses_no_packet", manager_killed),
        bench.test("kill_9_of_the_registry_loses_no_packet", registry_killed),
        bench.test("kill_9_of_the_endpoint_loses_no_packet", endpoint_killed),
        bench.test("kill_9_of_everything_loses_no_packet", everything_killed),
        bench.test(
            "d27_after_kill_9_and_a_refresh_the_rules_are_the_same",
            rules_stay,
        ),
        bench.test("the_client_program_closes_its_wires_at_the_end", client_ends),
        bench.alone(
            "a_client_that_ends_while_its_manager_is_started_anew_leaves_nothing",
            client_ends_without_a_manager,
        ),
        bench.test(
            "the_client_program_takes_over_what_it_had_before_kill_9",
            client_killed,
        ),
        bench.test(
            "the_init_program_ends_and_leaves_its_wires_to_the_client",
            init_leaves,
        ),
        bench.test(
            "an_endpoint_leaves_a_service_to_whoever_has_registered_it",
            second_of_a_service,
        ),
        bench.test(
            "a_wire_of_a_client_that_was_killed_goes_with_its_token",
            nobody_refreshes,
        ),
        bench.test("d40_a_pod_that_goes_without_a_close_leaves_nothing", pod_goes),
        bench.alone("sigterm_ends_every_program_within_a_second", sigterm),
    ]
}

const URL: &str = "kernel://icmp-responder/nsm-1";

/// Pings that go on while something happens.
struct Traffic(Child);

impl Traffic {
    /// 200 pings in 2 s; returns when the first have been answered.
    async fn start(world: &World, attached: &Attached) -> Result<Self> {
        let to = attached
            .endpoint()
            .context("the endpoint has no address")?
            .to_string();
        let mut ping: Command = world.near.command("ping");
        let ping = ping
            .args(["-n", "-i", "0.01", "-W", "2", "-c", "200", &to])
            .stdout(Stdio::piped());
        let traffic = Self(ping.spawn()?);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        Ok(traffic)
    }

    /// Checks that each was answered.
    fn complete(self) -> Result<()> {
        let printed = String::from_utf8(self.0.wait_with_output()?.stdout)?;
        ensure!(
            printed.contains("200 received"),
            "pings were lost: {}",
            summary(&printed)
        );
        Ok(())
    }
}

fn summary(printed: &str) -> String {
    printed.lines().rev().take(3).collect::<Vec<_>>().join("; ")
}

/// Kills programs under a wire that carries pings, starts them again, and checks that the wire is the same, can be
/// refreshed and closed. Whether it is adopted, and not made anew, when it is refreshed: only the endpoint knows the
/// name of its interface, so the wire is made anew when the forwarder and the endpoint have both forgotten it.
async fn survives(
    world: &mut World,
    id: &str,
    is_adopted: bool,
    kill: impl AsyncFnOnce(&mut World) -> Result<()>,
    start: impl AsyncFnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach(id, URL).await?;
    let indices = |world: &World| -> Result<_> {
        Ok((
            index(&world.near, "nsm-1")?,
            index(&world.far, &only_name(&world.far)?)?,
        ))
    };
    let before = indices(world)?;
    let traffic = Traffic::start(world, &attached).await?;
    kill(world).await?;
    start(world).await?;
    let traffic = tokio::task::spawn_blocking(|| traffic.complete());
    traffic.await??;
    let mut last = None;
    let attached = wait_for(PATIENCE, "the wire is refreshed", async || {
        match client.again(attached.request.clone()).await {
            Ok(attached) => Ok(Some(attached)),
            Err(error) => {
                last = Some(error);
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                Ok(None)
            }
        }
    });
    let attached = attached
        .await
        .with_context(|| format!("the last error was {last:?}"))?;
    if is_adopted {
        same("the indices", indices(world)?, before)?;
    }
    client.close(attached.request).await?;
    world.clean().await?;
    client.end().await;
    Ok(())
}

fn kill(program: &mut Option<Program>) -> Result<()> {
    program.take().context("the program does not run")?.kill()
}

async fn forwarder_killed(world: &mut World) -> Result<()> {
    survives(
        world,
        "d38-0",
        true,
        async |world| kill(&mut world.node.forwarder),
        async |world| world.node.start_forwarder().await.map(drop),
    )
    .await
}

async fn manager_killed(world: &mut World) -> Result<()> {
    survives(
        world,
        "killed-1",
        true,
        async |world| kill(&mut world.node.nsmgr),
        async |world| world.node.start_nsmgr().await.map(drop),
    )
    .await
}

async fn registry_killed(world: &mut World) -> Result<()> {
    survives(
        world,
        "killed-2",
        true,
        async |world| kill(&mut world.node.registry),
        async |world| world.node.start_registry().await.map(drop),
    )
    .await
}

async fn endpoint_killed(world: &mut World) -> Result<()> {
    survives(
        world,
        "killed-3",
        true,
        async |world| kill(&mut world.endpoint),
        async |world| world.start_endpoint().await,
    )
    .await
}

async fn everything_killed(world: &mut World) -> Result<()> {
    survives(
        world,
        "killed-4",
        false,
        async |world| {
            kill(&mut world.endpoint)?;
            kill(&mut world.node.forwarder)?;
            kill(&mut world.node.nsmgr)?;
            kill(&mut world.node.registry)
        },
        async |world| {
            world.node.start_registry().await?;
            world.node.start_nsmgr().await?;
            world.node.start_forwarder().await?;
            world.start_endpoint().await
        },
    )
    .await
}

/// Two policies, of which one has a route.
const POLICIES: &str = "
- from: 172.16.2.201/24
  proto: 6
  dstport: 6666
  routes:
    - prefix: 172.16.3.0/24
      nexthop: 172.16.2.200
- proto: 17
  dstport: 6667-6670
";

async fn rules_stay(world: &mut World) -> Result<()> {
    let file = world.node.folder().join("policies.yaml");
    std::fs::write(&file, POLICIES)?;
    let path = file.display().to_string();
    let endpoint = world.serve("policies", &[("NSM_PBR_CONFIG_PATH", &path)]).await?;
    let client = world.client()?;
    let attached = client.attach("d27-0", "kernel://policies/nsm-1").await?;
    let look = |world: &World| -> Result<_> {
        let rules = prints(&world.near, "ip", &["rule", "show"])?;
        let routes = prints(&world.near, "ip", &["route", "show", "table", "all"])?;
        Ok((rules, routes))
    };
    let before = look(world)?;
    ensure!(
        before.0.contains("6667-6670"),
        "the rules are not there: {}",
        before.0
    );
    kill(&mut world.node.forwarder)?;
    same("the rules meanwhile", look(world)?, before.clone())?;
    world.node.start_forwarder().await?;
    let attached = wait_for(PATIENCE, "the wire is refreshed", async || {
        Ok(client.again(attached.request.clone()).await.ok())
    });
    let attached = attached.await?;
    same("the rules", look(world)?, before)?;
    client.close(attached.request).await?;
    world.clean().await?;
    client.end().await;
    stops(endpoint).await
}

async fn client_ends(world: &mut World) -> Result<()> {
    let mut nsc = world.nsc(&format!("{URL},kernel://icmp-responder/nsm-2"), &[])?;
    says(&mut nsc, "INFO ready").await?;
    same("the client's interfaces", links(&world.near)?.len(), 2)?;
    stops(nsc).await?;
    world.clean().await
}

/// The new manager knows nothing of the connection until the client tells it.
async fn client_ends_without_a_manager(mut world: World) -> Result<()> {
    for is_heard in [false, true] {
        let mut nsc = world.nsc(URL, &[])?;
        says(&mut nsc, "INFO ready").await?;
        kill(&mut world.node.nsmgr)?;
        if is_heard {
            says(&mut nsc, "the connection is broken").await?;
        }
        let (status, started) = tokio::join!(nsc.stop(), world.node.start_nsmgr());
        started?;
        ensure!(status?.success(), "the client did not end well");
        world.clean_within(SOON).await?;
    }
    world.end().await
}

async fn client_killed(world: &mut World) -> Result<()> {
    let mut nsc = world.nsc(URL, &[])?;
    says(&mut nsc, "attached_ms").await?;
    let look =
        |world: &World| -> Result<_> { Ok((index(&world.near, "nsm-1")?, addresses(&world.near, "nsm-1")?)) };
    let before = look(world)?;
    nsc.kill()?;
    same("the wire meanwhile", look(world)?, before.clone())?;
    let mut nsc = world.nsc(URL, &[])?;
    says(&mut nsc, "attached_ms").await?;
    ensure!(
        nsc.printed().contains("taking over an earlier connection"),
        "{}",
        nsc.printed()
    );
    same("the wire", look(world)?, before)?;
    same("the endpoint's interfaces", links(&world.far)?.len(), 1)?;
    stops(nsc).await?;
    world.clean().await
}

/// The second one has an identity of its own, as each pod has, and the service belongs to the first.
async fn second_of_a_service(world: &mut World) -> Result<()> {
    let second = world.serve("icmp-responder", &[]).await?;
    let left = second.printed().matches("stays as it is").count();
    same("the services that are left as they are", left, 1)?;
    stops(second).await
}

async fn init_leaves(world: &mut World) -> Result<()> {
    let services = format!("{URL},kernel://icmp-responder/nsm-2");
    let mut init = world.nsc_init(&services)?;
    let ended = wait_for(PATIENCE, "it ends", async || init.ended()).await;
    let status = ended.with_context(|| init.printed())?;
    ensure!(status.success(), "it ended with {status}: {}", init.printed());
    let look = |world: &World| -> Result<_> {
        let of = |name| Ok::<_, anyhow::Error>((index(&world.near, name)?, addresses(&world.near, name)?));
        Ok([of("nsm-1")?, of("nsm-2")?])
    };
    let before = look(world)?;
    let mut nsc = world.nsc(&services, &[])?;
    says(&mut nsc, "INFO ready").await?;
    let taken = nsc.printed().matches("taking over an earlier connection").count();
    same("the wires that are taken over", taken, 2)?;
    same("the wires", look(world)?, before)?;
    stops(nsc).await?;
    world.clean().await
}

async fn nobody_refreshes(world: &mut World) -> Result<()> {
    let mut nsc = world.nsc(
        URL,
        &[("NSM_MAX_TOKEN_LIFETIME", "4s"), ("NSM_REQUEST_TIMEOUT", "1s")],
    )?;
    says(&mut nsc, "attached_ms").await?;
    // It lives longer than its tokens, for it refreshes them.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    same("the client's interfaces", links(&world.near)?.len(), 1)?;
    nsc.kill()?;
    world.clean_within(PATIENCE).await
}

async fn pod_goes(world: &mut World) -> Result<()> {
    let pod = Pod::new("short")?;
    let variables = [("NSM_MAX_TOKEN_LIFETIME", "4s"), ("NSM_REQUEST_TIMEOUT", "1s")];
    let mut nsc = world.nsc_in(&pod, URL, &variables)?;
    says(&mut nsc, "attached_ms").await?;
    nsc.kill()?;
    drop(pod);
    world.clean_within(PATIENCE).await
}

async fn sigterm(mut world: World) -> Result<()> {
    let mut nsc = world.nsc(URL, &[])?;
    says(&mut nsc, "INFO ready").await?;
    let has = |all: &[String], name: &str| all.iter().any(|there| there.starts_with(name));
    let all = world.endpoints().await?;
    ensure!(
        has(&all, "nse") && has(&all, "forwarder"),
        "registered are {all:?}"
    );
    // All at once, but the registry, which is asked who is left.
    stops(nsc).await?;
    world.clean_within(SOON).await?;
    stops(world.endpoint.take().context("no endpoint")?).await?;
    ensure!(
        !has(&world.endpoints().await?, "nse"),
        "the endpoint is still registered"
    );
    stops(world.node.forwarder.take().context("no forwarder")?).await?;
    same("who is registered", world.endpoints().await?, vec![])?;
    world.end().await
}
