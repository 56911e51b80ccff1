// SPDX-License-Identifier: Apache-2.0
//! What people get wrong: each is refused by a text that names it, and leaves nothing behind.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm_api::registry::{Destination, Match, NetworkService as Service};

use crate::Bench;
use crate::world::{PATIENCE, World, addresses, links, only_link, prints, refused, same, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test(
            "the_client_refuses_service_urls_that_can_never_work",
            bad_service_urls,
        ),
        bench.test("programs_refuse_settings_that_can_never_work", bad_settings),
        bench.test("an_unknown_service_is_named", unknown_service),
        bench.test("an_empty_service_is_refused", empty_service),
        bench.test("g21_matches_that_select_nobody_are_named", matches_select_nobody),
        bench.test("d45_an_interface_that_is_not_ours_is_named_and_stays", name_taken),
        bench.test("a_pool_that_is_empty_says_so_until_somebody_closes", empty_pool),
        bench.test("excluded_prefixes_that_leave_nothing_say_so", everything_excluded),
        bench.test(
            "d57_a_mechanism_that_nobody_supports_is_named",
            unsupported_mechanism,
        ),
        bench.test("a_request_over_4_mib_is_refused", too_large),
        bench.test(
            "d69_a_forwarder_without_privileges_says_so_and_is_never_ready",
            unprivileged,
        ),
    ]
}

/// The exit code of a program that cannot start, and what it printed.
async fn exits(world: &World, program: &str, variables: &[(&str, &str)]) -> Result<(i32, String)> {
    let all: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, value.to_string()))
        .collect();
    let log = world.node.folder().join("nsc-2.log");
    drop(std::fs::remove_file(&log));
    let mut program = world.node.launch("nsc-2", program, Some(&world.near), &all)?;
    let status = wait_for(PATIENCE, "the program ends", async || program.ended()).await?;
    Ok((status.code().unwrap_or(-1), program.printed()))
}

async fn fails(
    world: &World,
    program: &str,
    variables: &[(&str, &str)],
    code: i32,
    words: &[&str],
) -> Result<()> {
    let (ended, printed) = exits(world, program, variables).await?;
    ensure!(
        ended == code,
        "{program} {variables:?} ended with {ended}, not {code}: {printed}"
    );
    for word in words {
        ensure!(
            printed.contains(word),
            "{program} {variables:?} does not name {word:?}: {printed}"
        );
    }
    Ok(())
}

async fn bad_service_urls(world: &mut World) -> Result<()> {
    let (to, connect) = (world.nsmgr(), "NSM_CONNECT_TO");
    for (url, words) in [
        ("ftp://icmp-responder/nsm-1", &["ftp", "kernel"][..]),
        (
            "kernel://icmp-responder/nsm-456789012345",
            &["nsm-456789012345", "16 bytes"],
        ),
        ("kernel://icmp-responder/a%20b", &["icmp-responder"]),
        ("kernel://icmp-responder/..", &[".."]),
        ("kernel:///nsm-1", &["kernel:///nsm-1", "no service"]),
        ("kernel://icmp-responder?a=1;b=2", &["a=1;b=2", "&"]),
        ("", &["NSM_NETWORK_SERVICES"]),
    ] {
        fails(
            world,
            "nsc",
            &[(connect, &to), ("NSM_NETWORK_SERVICES", url)],
            64,
            words,
        )
        .await?;
    }
    Ok(())
}

async fn bad_settings(world: &mut World) -> Result<()> {
    let to = world.nsmgr();
    let taken = world.node.folder().join("a-directory");
    std::fs::create_dir_all(&taken)?;
    let (taken, nsmgr) = (format!("unix://{}", taken.display()), "nsmgr");
    fails(
        world,
        nsmgr,
        &[("NSM_LISTEN_ON", &taken)],
        69,
        &["a-directory", "directory"],
    )
    .await?;
    let plain = format!("unix://{}", crate::world::plain_file(world)?.display());
    fails(
        world,
        nsmgr,
        &[("NSM_LISTEN_ON", &plain)],
        69,
        &["plain", "no socket"],
    )
    .await?;
    fails(world, nsmgr, &[("NSM_LISTEN_ON", &to)], 69, &["nsm.sock"]).await?;
    fails(world, nsmgr, &[("NSM_LISTEN_ON", "ftp://x")], 69, &["ftp://x"]).await?;
    let listen_on = world.node.url("nsc-2");
    for (name, value) in [
        ("NSM_CIDR_PREFIX", "10.0.0.0/33"),
        ("NSM_PAYLOAD", "ATM"),
        ("NSM_MAX_TOKEN_LIFETIME", "soon"),
        ("NSM_DNS_CONFIGS", "{"),
    ] {
        let variables = [
            ("NSM_LISTEN_ON", listen_on.as_str()),
            ("NSM_CONNECT_TO", &to),
            (name, value),
        ];
        let named = if name == "NSM_DNS_CONFIGS" { name } else { value };
        fails(world, "nse-icmp", &variables, 64, &[named]).await?;
    }
    let variables = [("NSM_LISTEN_ON", listen_on.as_str()), ("NSM_LABELS", " ")];
    fails(
        world,
        "nse-passthrough",
        &variables,
        64,
        &["NSM_LABELS", "app:firewall"],
    )
    .await?;
    for group in ["0", "2147483648", "NSM"] {
        let variables = [("NSM_LISTEN_ON", listen_on.as_str()), ("NSM_LINK_GROUP", group)];
        fails(world, "forwarder", &variables, 64, &[group]).await?;
    }
    Ok(())
}

/// A forwarder that root has started with less than it needs, as a container without `privileged` does.
async fn unprivileged(world: &mut World) -> Result<()> {
    let forwarder = world.node.programs_folder().join("forwarder");
    let state = world.node.folder().join("unprivileged");
    let identity = format!(
        "unix://{}",
        world.node.folder().join("identity/nsc-2.sock").display()
    );
    let mut command = world.near.command("setpriv");
    let command = command
        .args(["--bounding-set=-net_admin,-sys_admin", "--inh-caps=-all"])
        .arg(forwarder)
        .env("NSM_STATE_DIR", state)
        .env("NSM_CONNECT_TO", world.nsmgr())
        .env("NSM_LISTEN_ON", world.node.url("nsc-2"))
        .env("SPIFFE_ENDPOINT_SOCKET", identity);
    let done = command.output()?;
    let printed = [done.stdout, done.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    same("the exit code", done.status.code(), Some(69))?;
    ensure!(
        printed.contains("CAP_NET_ADMIN") && !printed.contains("ready"),
        "{printed}"
    );
    Ok(())
}

async fn unknown_service(world: &mut World) -> Result<()> {
    let client = world.quiet()?;
    refused(
        client
            .attach("unknown-0", "kernel://nobody-offers-this/nsm-1")
            .await,
        "no-service",
        &["nobody-offers-this", "nsmgr"],
    )?;
    client.end().await;
    Ok(())
}

async fn empty_service(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut request = caller.ask("empty-0", "kernel://icmp-responder/nsm-1")?;
    request.connection.network_service.clear();
    let done = caller.request(&world.nsmgr(), request).await;
    let error = done.err().context("an empty service was accepted")?;
    ensure!(error.to_string().contains("network service"), "{error:#}");
    Ok(())
}

async fn matches_select_nobody(world: &mut World) -> Result<()> {
    let service = Service {
        name: "choosy".into(),
        payload: "ETHERNET".into(),
        matches: vec![Match {
            routes: vec![Destination {
                destination_selector: [("color".to_string(), "blue".to_string())].into(),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let endpoint = world
        .serve(
            "choosy",
            &[("NSM_REGISTER_SERVICE", "false"), ("NSM_LABELS", "color:red")],
        )
        .await?;
    world.register_service(service).await?;
    let client = world.quiet()?;
    refused(
        client.attach("choosy-0", "kernel://choosy/nsm-1").await,
        "no-endpoint",
        &["choosy"],
    )?;
    client.end().await;
    stops(endpoint).await
}

async fn name_taken(world: &mut World) -> Result<()> {
    prints(
        &world.near,
        "ip",
        &["link", "add", "nsm-1", "type", "veth", "peer", "name", "foreign"],
    )?;
    let before = links(&world.near)?;
    let client = world.quiet()?;
    refused(
        client.attach("taken-0", "kernel://icmp-responder/nsm-1").await,
        "interface-taken",
        &["nsm-1"],
    )?;
    same("the interfaces", links(&world.near)?, before)?;
    same("the interfaces of the endpoint", links(&world.far)?.len(), 0)?;
    prints(&world.near, "ip", &["link", "del", "nsm-1"])?;
    let attached = client.attach("taken-0", "kernel://icmp-responder/nsm-1").await?;
    same(
        "the interface",
        only_link(&world.near)?["ifname"].as_str(),
        Some("nsm-1"),
    )?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn empty_pool(world: &mut World) -> Result<()> {
    let endpoint = world.serve("tiny", &[("NSM_CIDR_PREFIX", "10.0.0.0/31")]).await?;
    let client = world.client()?;
    let first = client.attach("tiny-0", "kernel://tiny/nsm-1").await?;
    refused(
        client.attach("tiny-1", "kernel://tiny/nsm-2").await,
        "pool-empty",
        &["10.0.0.0/31", "nse-2"],
    )?;
    same("the client's interfaces", links(&world.near)?.len(), 1)?;
    client.close(first.request).await?;
    let second = client.attach("tiny-1", "kernel://tiny/nsm-2").await?;
    same(
        "the addresses",
        addresses(&world.near, "nsm-2")?,
        vec!["10.0.0.1/32 global".into()],
    )?;
    client.close(second.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn everything_excluded(world: &mut World) -> Result<()> {
    let endpoint = world.serve("tiny", &[("NSM_CIDR_PREFIX", "10.0.0.0/24")]).await?;
    let client = world.client()?;
    let mut request = client.ask("excluded-0", "kernel://tiny/nsm-1")?;
    request.connection.ip_context_mut().excluded_prefixes = vec!["10.0.0.0/8".into()];
    refused(client.again(request).await, "pool-empty", &["10.0.0.0/24"])?;
    let mut request = client.ask("excluded-1", "kernel://tiny/nsm-1")?;
    request.connection.ip_context_mut().excluded_prefixes = vec!["10.0.0.0/25".into()];
    let attached = client.again(request).await?;
    same(
        "the addresses",
        addresses(&world.near, "nsm-1")?,
        vec!["10.0.0.129/32 global".into()],
    )?;
    client.close(attached.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn unsupported_mechanism(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut request = caller.ask("strange-0", "kernel://icmp-responder/nsm-1")?;
    for mechanism in &mut request.mechanism_preferences {
        mechanism.r#type = "PIGEON".into();
    }
    refused(
        caller.request(&world.nsmgr(), request).await,
        "unsupported-mechanism",
        &["PIGEON", "forwarder"],
    )
}

async fn too_large(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut request = caller.ask("large-0", "kernel://icmp-responder/nsm-1")?;
    request
        .connection
        .labels
        .insert("essay".into(), "a".repeat(5 << 20));
    let done = caller.request(&world.nsmgr(), request).await;
    let error = done.err().context("a request of 5 MiB was accepted")?;
    ensure!(error.to_string().contains("too large"), "{error:#}");
    let client = world.client()?;
    let attached = client.attach("large-1", "kernel://icmp-responder/nsm-1").await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}
