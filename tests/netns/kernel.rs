// SPDX-License-Identifier: Apache-2.0
//! What a wire looks like to the two pods that it joins.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Client, Pod, ping};
use nsm_api::connectioncontext::{EthernetContext, IpContext, IpNeighbor, Route};
use nsm_sdk::core::Request;

use crate::Bench;
use crate::world::{World, addresses, only_link, only_name, prints, refused, routes, same, says, stops};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("d1_each_end_has_exactly_its_address", addresses_of_ipv4),
        bench.test(
            "d2_the_route_to_the_peer_is_a_plain_device_route",
            the_route_to_the_peer,
        ),
        bench.test("d3_ipv6_addresses_are_usable_at_once", ipv6),
        bench.test("d4_both_families_at_once", both_families),
        bench.test(
            "d5_ipv6_is_switched_on_where_the_pod_has_it_off",
            ipv6_switched_off,
        ),
        bench.test("d8_the_mtu_is_9000_or_what_the_request_says", mtu),
        bench.test("d9_a_name_is_kept_or_made_up_and_stays", names),
        bench.test("d10_fifteen_bytes_make_a_name", long_name),
        bench.test(
            "d11_a_route_of_the_endpoint_goes_by_the_clients_address",
            endpoint_route,
        ),
        bench.test(
            "d12_a_next_hop_outside_of_every_prefix_is_on_link",
            distant_next_hop,
        ),
        bench.test("d13_default_routes_of_both_families", default_routes),
        bench.test(
            "d14_a_route_inside_of_the_peers_prefix_has_no_gateway",
            route_inside,
        ),
        bench.test(
            "d15_a_prefix_that_holds_the_peer_needs_no_route",
            prefix_with_peer,
        ),
        bench.test("d16_neighbours_of_the_context_are_there", neighbours),
        bench.test(
            "d16_d43_a_bad_mac_address_is_an_error_and_leaves_nothing",
            bad_neighbour,
        ),
        bench.test(
            "d17_with_payload_ip_the_peer_is_a_permanent_neighbour",
            payload_ip,
        ),
        bench.test("d18_mac_addresses_of_the_context_are_set", mac_addresses),
        bench.test("d19_every_group_may_ping", every_group_may_ping),
        bench.test(
            "d32_d33_what_changed_in_the_context_changes_in_the_kernel",
            change,
        ),
        bench.test("d67_the_alias_names_the_connection", alias),
        bench.test("a_custom_endpoint_gives_its_addresses_and_routes", office),
    ]
}

/// A pair of addresses, as the reference's own tests have them.
const PAIR: (&str, &str) = ("NSM_CIDR_PREFIX", "172.16.1.100/31");

async fn addresses_of_ipv4(world: &mut World) -> Result<()> {
    let endpoint = world.serve("pair", &[PAIR]).await?;
    let client = world.client()?;
    let attached = client.attach("d1-0", "kernel://pair/nsm-1").await?;
    same(
        "the client's",
        addresses(&world.near, "nsm-1")?,
        vec!["172.16.1.101/32 global".into()],
    )?;
    let far = only_name(&world.far)?;
    same(
        "the endpoint's",
        addresses(&world.far, &far)?,
        vec!["172.16.1.100/32 global".into()],
    )?;
    client.close(attached.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn the_route_to_the_peer(world: &mut World) -> Result<()> {
    let endpoint = world.serve("pair", &[PAIR]).await?;
    let client = world.client()?;
    let attached = client.attach("d2-0", "kernel://pair/nsm-1").await?;
    same(
        "the client's routes",
        routes(&world.near, "nsm-1", "-4")?,
        vec!["172.16.1.100".into()],
    )?;
    let far = only_name(&world.far)?;
    same(
        "the endpoint's routes",
        routes(&world.far, &far, "-4")?,
        vec!["172.16.1.101".into()],
    )?;
    client.close(attached.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn ipv6(world: &mut World) -> Result<()> {
    let endpoint = world
        .serve("pair6", &[("NSM_CIDR_PREFIX", "2001:db8::/127")])
        .await?;
    let client = world.quiet()?;
    let attached = client.attach("d3-0", "kernel://pair6/nsm-1").await?;
    let shown = world.near.ip(&["addr", "show", "dev", "nsm-1"])?;
    let ours = shown[0]["addr_info"]
        .as_array()
        .and_then(|all| all.iter().find(|address| address["scope"] == "global"));
    let ours = ours.context("the client has no global address")?;
    same("the client's", ours["local"].as_str(), Some("2001:db8::1"))?;
    same("its length", ours["prefixlen"].as_u64(), Some(128))?;
    same("that it needs no detection", ours["nodad"].as_bool(), Some(true))?;
    same("that it waits", ours["tentative"].as_bool(), None)?;
    let peers: Vec<_> = routes(&world.near, "nsm-1", "-6")?;
    ensure!(
        peers.iter().any(|route| route.starts_with("2001:db8:: ")),
        "the peer has no route: {peers:?}"
    );
    same("the loss", ping(&world.near, "2001:db8::".parse()?, 3)?.loss, 0.0)?;
    client.close(attached.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn both_families(world: &mut World) -> Result<()> {
    let prefixes = ("NSM_CIDR_PREFIX", "[172.16.1.100/31],[2001:db8::/127]");
    let endpoint = world.serve("both", &[prefixes]).await?;
    let client = world.client()?;
    let attached = client.attach("d4-0", "kernel://both/nsm-1").await?;
    let both = vec!["172.16.1.101/32 global".into(), "2001:db8::1/128 global".into()];
    same("the client's", addresses(&world.near, "nsm-1")?, both)?;
    for (pod, peer) in [
        (&world.near, "172.16.1.100"),
        (&world.near, "2001:db8::"),
        (&world.far, "172.16.1.101"),
        (&world.far, "2001:db8::1"),
    ] {
        let pings = ping(pod, peer.parse()?, 3)?;
        ensure!(pings.loss == 0.0, "{pings:?}");
    }
    client.close(attached.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn ipv6_switched_off(world: &mut World) -> Result<()> {
    let off = |value: &str| {
        let setting = format!("net.ipv6.conf.default.disable_ipv6={value}");
        prints(&world.near, "sysctl", &["-w", &setting])
    };
    off("1")?;
    let endpoint = world
        .serve("pair6", &[("NSM_CIDR_PREFIX", "2001:db8::/127")])
        .await?;
    let client = world.quiet()?;
    let attached = client.attach("d5-0", "kernel://pair6/nsm-1").await?;
    let is_off = prints(
        &world.near,
        "cat",
        &["/proc/sys/net/ipv6/conf/nsm-1/disable_ipv6"],
    )?;
    same("whether it is off", is_off.as_str(), "0")?;
    same(
        "the client's",
        addresses(&world.near, "nsm-1")?,
        vec!["2001:db8::1/128 global".into()],
    )?;
    client.close(attached.request).await?;
    client.end().await;
    off("0")?;
    stops(endpoint).await
}

/// The wire of a request that `change` has completed.
async fn with(client: &Client, id: &str, change: impl FnOnce(&mut Request)) -> Result<Request> {
    let mut request = client.ask(id, "kernel://icmp-responder/nsm-1")?;
    change(&mut request);
    Ok(client.again(request).await?.request)
}

fn ip(request: &mut Request) -> &mut IpContext {
    request.connection.ip_context_mut()
}

fn route(prefix: &str, next_hop: &str) -> Route {
    Route {
        prefix: prefix.into(),
        next_hop: next_hop.into(),
    }
}

async fn mtu(world: &mut World) -> Result<()> {
    let client = world.client()?;
    for (asked, should) in [(0, 9000), (1300, 1300)] {
        let id = format!("d8-{asked}");
        let done = with(&client, &id, |request| {
            request.connection.context.get_or_insert_default().mtu = asked;
        });
        let done = done.await?;
        same(
            "the client's MTU",
            only_link(&world.near)?["mtu"].as_u64(),
            Some(should),
        )?;
        same(
            "the endpoint's MTU",
            only_link(&world.far)?["mtu"].as_u64(),
            Some(should),
        )?;
        client.close(done).await?;
        world.clean().await?;
    }
    client.end().await;
    Ok(())
}

async fn names(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("d9-0", "kernel://icmp-responder").await?;
    let (near, far) = (only_name(&world.near)?, only_name(&world.far)?);
    ensure!(
        near.starts_with("icmp-respo-") && near.len() == 15,
        "it is called {near}"
    );
    ensure!(far.len() <= 15, "it is called {far}");
    let attached = client.again(attached.request).await?;
    same(
        "the names",
        (only_name(&world.near)?, only_name(&world.far)?),
        (near, far),
    )?;
    client.close(attached.request).await?;
    world.clean().await?;
    let attached = client.attach("d9-1", "kernel://icmp-responder/My_Wire.1").await?;
    same("the name", only_name(&world.near)?.as_str(), "My_Wire.1")?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn long_name(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let name = "nsm-45678901234";
    let attached = client
        .attach("d10-0", &format!("kernel://icmp-responder/{name}"))
        .await?;
    same("the name", only_name(&world.near)?.as_str(), name)?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn endpoint_route(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let done = with(&client, "d11-0", |request| {
        ip(request).dst_routes = vec![route("10.0.0.0/8", "")];
    });
    let done = done.await?;
    let us = first_source(&done)?;
    let name = only_name(&world.far)?;
    has_route(&world.far, &name, "-4", &format!("10.0.0.0/8 via {us} onlink"))?;
    client.close(done).await?;
    client.end().await;
    Ok(())
}

/// The client's first address, without its length.
fn first_source(request: &Request) -> Result<String> {
    let nets = request.connection.ip_context().map(IpContext::src_nets);
    let net = nets.into_iter().flatten().next();
    Ok(net.context("the client has no address")?.addr().to_string())
}

fn has_route(pod: &Pod, name: &str, family: &str, wanted: &str) -> Result<()> {
    let all = routes(pod, name, family)?;
    let squeezed = |route: &String| route.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        all.iter().map(squeezed).any(|route| route.starts_with(wanted)),
        "there is no route {wanted:?} but {all:?}"
    );
    Ok(())
}

async fn distant_next_hop(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let done = with(&client, "d12-0", |request| {
        ip(request).src_routes = vec![route("10.77.0.0/16", "192.0.2.77")];
    });
    let done = done.await?;
    has_route(&world.near, "nsm-1", "-4", "10.77.0.0/16 via 192.0.2.77 onlink")?;
    client.close(done).await?;
    client.end().await;
    Ok(())
}

async fn default_routes(world: &mut World) -> Result<()> {
    let prefixes = ("NSM_CIDR_PREFIX", "[172.16.1.100/31],[2001:db8::/127]");
    let endpoint = world.serve("both", &[prefixes]).await?;
    let client = world.client()?;
    let mut request = client.ask("d13-0", "kernel://both/nsm-1")?;
    ip(&mut request).src_routes = vec![route("0.0.0.0/0", ""), route("::/0", "")];
    let attached = client.again(request).await?;
    has_route(&world.near, "nsm-1", "-4", "default via 172.16.1.100 onlink")?;
    has_route(&world.near, "nsm-1", "-6", "default via 2001:db8::")?;
    client.close(attached.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn route_inside(world: &mut World) -> Result<()> {
    let client = world.quiet()?;
    let done = with(&client, "d14-0", |request| {
        ip(request).src_ip_addrs = vec!["10.55.1.1/32".into()];
        ip(request).dst_ip_addrs = vec!["10.66.1.1/24".into()];
        ip(request).src_routes = vec![route("10.66.1.128/25", "")];
    });
    let done = done.await?;
    let all = routes(&world.near, "nsm-1", "-4")?;
    let inside = all.iter().find(|route| route.starts_with("10.66.1.128/25"));
    let inside = inside.with_context(|| format!("the route is not there: {all:?}"))?;
    ensure!(!inside.contains("via"), "it has a gateway: {inside}");
    client.close(done).await?;
    client.end().await;
    Ok(())
}

async fn prefix_with_peer(world: &mut World) -> Result<()> {
    let client = world.quiet()?;
    let done = with(&client, "d15-0", |request| {
        ip(request).src_ip_addrs = vec!["10.55.1.2/24".into()];
        ip(request).dst_ip_addrs = vec!["10.55.1.1/24".into()];
    });
    let done = done.await?;
    let all = routes(&world.near, "nsm-1", "-4")?;
    let of_kernel = |route: &&String| route.contains("proto kernel scope link src 10.55.1.2");
    let prefix = all
        .iter()
        .find(|route| route.starts_with("10.55.1.0/24"))
        .filter(of_kernel);
    ensure!(prefix.is_some(), "the kernel's own route is not there: {all:?}");
    ensure!(
        !all.iter().any(|route| route.starts_with("10.55.1.1 ")),
        "a host route too: {all:?}"
    );
    client.close(done).await?;
    client.end().await;
    Ok(())
}

fn neighbour(ip: &str, mac: &str) -> IpNeighbor {
    IpNeighbor {
        ip: ip.into(),
        hardware_address: mac.into(),
    }
}

async fn neighbours(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let done = with(&client, "d16-0", |request| {
        ip(request).ip_neighbors = vec![neighbour("192.0.2.16", "02:00:00:00:00:16")];
    });
    let done = done.await?;
    let far = only_name(&world.far)?;
    for (pod, name) in [(&world.near, "nsm-1"), (&world.far, far.as_str())] {
        let all = prints(pod, "ip", &["neigh", "show", "dev", name])?;
        ensure!(
            all.lines()
                .any(|line| line.contains("192.0.2.16") && line.contains("02:00:00:00:00:16")),
            "{} does not know the neighbour: {all}",
            pod.name()
        );
    }
    client.close(done).await?;
    client.end().await;
    Ok(())
}

async fn bad_neighbour(world: &mut World) -> Result<()> {
    let client = world.quiet()?;
    let done = with(&client, "d43-0", |request| {
        ip(request).ip_neighbors = vec![neighbour("192.0.2.16", "02:00:00")];
    });
    refused(done.await, "bad-mac", &["02:00:00"])?;
    let done = with(&client, "d43-1", |request| {
        ip(request).src_routes = vec![route("10.0.0.0/99", "")];
    });
    if let Ok(done) = done.await {
        client.close(done).await?;
    }
    client.end().await;
    Ok(())
}

async fn payload_ip(world: &mut World) -> Result<()> {
    let endpoint = world.serve("layer3", &[PAIR, ("NSM_PAYLOAD", "IP")]).await?;
    let client = world.client()?;
    let attached = client.attach("d17-0", "kernel://layer3/nsm-1").await?;
    same("the payload", attached.request.connection.payload.as_str(), "IP")?;
    let all = prints(&world.near, "ip", &["neigh", "show", "dev", "nsm-1"])?;
    ensure!(
        all.lines()
            .any(|line| line.starts_with("172.16.1.100 ") && line.contains("PERMANENT")),
        "the peer is no permanent neighbour: {all}"
    );
    client.close(attached.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn mac_addresses(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let done = with(&client, "d18-0", |request| {
        let context = request.connection.context.get_or_insert_default();
        context.ethernet_context = Some(EthernetContext {
            src_mac: "02:00:00:00:00:01".into(),
            dst_mac: "02:00:00:00:00:02".into(),
            ..Default::default()
        });
    });
    let done = done.await?;
    same(
        "the client's",
        only_link(&world.near)?["address"].as_str(),
        Some("02:00:00:00:00:01"),
    )?;
    same(
        "the endpoint's",
        only_link(&world.far)?["address"].as_str(),
        Some("02:00:00:00:00:02"),
    )?;
    client.close(done).await?;
    client.end().await;
    Ok(())
}

async fn every_group_may_ping(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("d19-0", "kernel://icmp-responder/nsm-1").await?;
    for pod in [&world.near, &world.far] {
        let range = prints(pod, "cat", &["/proc/sys/net/ipv4/ping_group_range"])?;
        let range: Vec<_> = range.split_whitespace().collect();
        same("the groups that may ping", range, vec!["0", "2147483647"])?;
    }
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn change(world: &mut World) -> Result<()> {
    let client = world.quiet()?;
    let done = with(&client, "d32-0", |request| {
        ip(request).src_ip_addrs = vec!["10.55.1.1/32".into()];
        ip(request).dst_ip_addrs = vec!["10.66.1.1/32".into()];
        ip(request).src_routes = vec![route("10.88.0.0/16", "")];
    });
    let mut done = done.await?;
    let before = crate::world::index(&world.near, "nsm-1")?;
    has_route(&world.near, "nsm-1", "-4", "10.88.0.0/16 via 10.66.1.1")?;
    ip(&mut done).src_ip_addrs = vec!["10.55.1.9/32".into()];
    ip(&mut done)
        .src_routes
        .retain(|route| route.prefix != "10.88.0.0/16");
    ip(&mut done).dst_routes.clear();
    let done = client.again(done).await?.request;
    let now = addresses(&world.near, "nsm-1")?;
    ensure!(
        now.contains(&"10.55.1.9/32 global".to_string()),
        "the new is not there: {now:?}"
    );
    ensure!(
        !now.contains(&"10.55.1.1/32 global".to_string()),
        "the old is there: {now:?}"
    );
    let left = routes(&world.near, "nsm-1", "-4")?;
    ensure!(
        !left.iter().any(|route| route.starts_with("10.88.")),
        "the route is there: {left:?}"
    );
    same("the index", crate::world::index(&world.near, "nsm-1")?, before)?;
    client.close(done).await?;
    client.end().await;
    Ok(())
}

async fn alias(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("d67-0", "kernel://icmp-responder/nsm-1").await?;
    for (pod, side) in [(&world.near, "server"), (&world.far, "client")] {
        let link = only_link(pod)?;
        let alias = link["ifalias"].as_str().unwrap_or_default();
        ensure!(
            alias.starts_with(side) && alias.ends_with("d67-0"),
            "the alias in {} is {alias:?}",
            pod.name()
        );
    }
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn office(world: &mut World) -> Result<()> {
    let file = world.node.programs_folder().join("examples/office");
    ensure!(
        file.is_file(),
        "{} is not built: run `cargo build -p nsm-sdk --example office`",
        file.display()
    );
    let listen_on = world.node.url("nse-2");
    let variables = [
        ("NSM_NAME", "nse-2".to_string()),
        ("NSM_SERVICE_NAMES", "office".to_string()),
        ("NSM_LISTEN_ON", listen_on),
        ("NSM_CONNECT_TO", world.nsmgr()),
        (
            "SPIFFE_ENDPOINT_SOCKET",
            format!("unix://{}/identity/nse-2.sock", world.node.folder().display()),
        ),
    ];
    let what = nsm::mesh::Start {
        name: "office",
        file: &file,
        pod: Some(&world.far),
        folder: world.node.folder(),
    };
    let mut program = nsm::mesh::Program::start(what, &[], &variables)?;
    says(&mut program, "INFO ready").await?;
    let client = world.client()?;
    let attached = client.attach("office-0", "kernel://office/nsm-1").await?;
    let ours = addresses(&world.near, "nsm-1")?;
    ensure!(
        ours.len() == 1 && ours[0].starts_with("10.9.1."),
        "our addresses are {ours:?}"
    );
    has_route(&world.near, "nsm-1", "-4", "10.9.0.0/16")?;
    let pings = ping(&world.near, "10.9.1.0".parse()?, 3)?;
    ensure!(pings.loss == 0.0, "{pings:?}");
    client.close(attached.request).await?;
    client.end().await;
    stops(program).await
}
