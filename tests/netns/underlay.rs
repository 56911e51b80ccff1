// SPDX-License-Identifier: Apache-2.0
//! The network between nodes: how tunnels follow it, and what people are told when it does not work.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Client, Pod};
use nsm_api::registry::NetworkService as Service;
use tokio::time::{Duration, Instant};

use crate::Bench;
use crate::remote::{Apart, device, ends, ping_both_ways};
use crate::world::{
    PATIENCE, inside, links, only_link, prints, register_service, same, says, stops, wait_for,
};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.apart(
            "d54_frames_that_are_not_ip_and_broadcasts_pass",
            "ETHERNET",
            frames,
        ),
        bench.apart("d56_a_service_without_payload_is_ip", "ETHERNET", no_payload),
        bench.apart("d60_the_mtu_is_that_of_the_link_by_vxlan", "ETHERNET", narrow),
        bench.apart("d60_the_mtu_is_that_of_the_link_by_wireguard", "IP", narrow),
        bench.apart("d60_the_mtu_follows_the_link_by_vxlan", "ETHERNET", narrower),
        bench.apart("d60_the_mtu_follows_the_link_by_wireguard", "IP", narrower),
        bench.apart("a_link_too_narrow_for_ipv6_is_named", "ETHERNET", too_narrow),
        bench.apart("a_network_without_a_way_back_is_named", "IP", one_way),
        bench.apart(
            "a_program_that_has_the_port_of_vxlan_is_told_of",
            "ETHERNET",
            port_taken,
        ),
        bench.apart(
            "a_vxlan_device_of_another_kind_is_told_of",
            "ETHERNET",
            other_flags,
        ),
        bench.apart(
            "a_node_that_cannot_be_reached_gives_way_to_another_endpoint",
            "ETHERNET",
            fails_over,
        ),
        bench.apart(
            "a_forwarder_that_dies_with_its_half_leaves_nothing_of_vxlan",
            "ETHERNET",
            forwarder_dies,
        ),
        bench.apart(
            "a_forwarder_that_dies_with_its_half_leaves_nothing_of_wireguard",
            "IP",
            forwarder_dies,
        ),
        bench.apart(
            "a_pod_that_goes_while_a_tunnel_is_made_leaves_nothing",
            "ETHERNET",
            pod_goes,
        ),
        bench.apart(
            "a_pod_that_goes_while_a_wireguard_tunnel_is_made_leaves_nothing",
            "IP",
            pod_goes,
        ),
    ]
}

const SERVICE: &str = "kernel://icmp-responder/nsm-1";

/// What the tunnel leaves of a link of so many bytes.
fn leaves(apart: &Apart, link: u64) -> u64 {
    link - if apart.payload == "IP" { 60 } else { 54 }
}

/// Bridges that elect a root by frames of LLC (IEEE 802.1D), through the wire.
async fn frames(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("frames-0", SERVICE).await?;
    let far = only_link(&apart.far)?["ifname"]
        .as_str()
        .context("no name")?
        .to_string();
    let pods = [(&apart.near, "nsm-1"), (&apart.far, far.as_str())];
    // Nobody knows the other's MAC address: the question is a broadcast.
    for ((pod, name), ip) in pods.iter().zip(["192.0.2.1/24", "192.0.2.2/24"]) {
        prints(pod, "ip", &["addr", "add", ip, "dev", name])?;
    }
    prints(
        &apart.near,
        "ping",
        &["-n", "-q", "-c", "1", "-W", "2", "192.0.2.2"],
    )?;
    for (at, (pod, name)) in pods.iter().enumerate() {
        let mac = format!("02:00:00:00:00:0{at}");
        let add = ["link", "add", "bridge", "address", &mac, "type", "bridge"];
        prints(
            pod,
            "ip",
            &[&add[..], &["stp_state", "1", "hello_time", "100"]].concat(),
        )?;
        prints(pod, "ip", &["link", "set", name, "master", "bridge"])?;
        prints(pod, "ip", &["link", "set", "bridge", "up"])?;
    }
    wait_for(
        PATIENCE,
        "the second bridge has its root behind the wire",
        async || {
            let shown = apart.far.ip(&["-details", "link", "show", "dev", "bridge"])?;
            let port = shown[0]["linkinfo"]["info_data"]["root_port"].as_u64();
            Ok(port.is_some_and(|port| port > 0).then_some(()))
        },
    )
    .await?;
    for (pod, _) in pods {
        prints(pod, "ip", &["link", "del", "bridge"])?;
    }
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn no_payload(apart: &mut Apart) -> Result<()> {
    let service = Service {
        name: "plain".into(),
        ..Default::default()
    };
    register_service(
        apart.first.identity().clone(),
        &apart.first.manager_url(),
        service,
    )
    .await?;
    let variables = [
        ("NSM_SERVICE_NAMES", "plain".to_string()),
        ("NSM_REGISTER_SERVICE", "false".to_string()),
    ];
    let (mut endpoint, _) = apart
        .second
        .start_endpoint("nse-2", &apart.far, &variables)
        .await?;
    says(&mut endpoint, "INFO ready").await?;
    let client = apart.client()?;
    let attached = client.attach("plain-0", "kernel://plain/nsm-1").await?;
    let link = device(&apart.near)?;
    let kind = link["linkinfo"]["info_kind"].as_str();
    ensure!(matches!(kind, Some("wireguard" | "tun")), "the kind is {kind:?}");
    client.close(attached.request).await?;
    client.end().await;
    stops(endpoint).await
}

async fn narrow(apart: &mut Apart) -> Result<()> {
    for host in &apart.hosts {
        host.set_mtu(1400)?;
    }
    let client = apart.client()?;
    let attached = client.attach("narrow-0", SERVICE).await?;
    same(
        "the MTU",
        device(&apart.near)?["mtu"].as_u64(),
        Some(leaves(apart, 1400)),
    )?;
    same(
        "the other's",
        only_link(&apart.far)?["mtu"].as_u64(),
        Some(leaves(apart, 1400)),
    )?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

/// The link of either node becomes narrower, and nobody asks for anything.
async fn narrower(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("narrower-0", SERVICE).await?;
    let before = device(&apart.near)?["ifindex"].clone();
    for (host, link) in [(&apart.hosts[0], 1450), (&apart.hosts[1], 1400)] {
        let began = Instant::now();
        host.set_mtu(link)?;
        let wanted = Some(leaves(apart, link.into()));
        wait_for(PATIENCE, "both ends are as narrow as the link", async || {
            let ends = [device(&apart.near)?, only_link(&apart.far)?];
            Ok(ends.iter().all(|end| end["mtu"].as_u64() == wanted).then_some(()))
        })
        .await?;
        println!("at {link} after {:?}", began.elapsed());
        // An engine in the forwarder takes a moment to read packets of another size.
        wait_for(PATIENCE, "every packet passes", async || {
            Ok(ping_both_ways(apart, &attached).ok())
        })
        .await?;
    }
    same("the interface", &device(&apart.near)?["ifindex"], &before)?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

/// The error of a request that has left nothing.
async fn fails(apart: &Apart, client: &Client, service: &str) -> Result<String> {
    let error = client.attach("fails-0", service).await.err();
    let error = format!("{:#}", error.context("it was not refused")?);
    for pod in [&apart.near, &apart.far] {
        let what = format!("no interface is left in {}", pod.name());
        wait_for(PATIENCE, &what, async || Ok(links(pod)?.is_empty().then_some(()))).await?;
    }
    Ok(error)
}

/// Checks that an error has these words.
fn names(error: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(error.contains(word), "it does not name {word:?}: {error}");
    }
    Ok(())
}

async fn too_narrow(apart: &mut Apart) -> Result<()> {
    let variables = [
        ("NSM_SERVICE_NAMES", "six".to_string()),
        ("NSM_PAYLOAD", "ETHERNET".to_string()),
        ("NSM_CIDR_PREFIX", "2001:db8:6::/64".to_string()),
    ];
    let (mut endpoint, _) = apart
        .second
        .start_endpoint("nse-2", &apart.far, &variables)
        .await?;
    says(&mut endpoint, "INFO ready").await?;
    apart.hosts[0].set_mtu(1300)?;
    let client = Client::new(&apart.first, "nsc", apart.near.path())?;
    let error = fails(apart, &client, "kernel://six/nsm-1").await?;
    names(&error, &["1246", "1280", "IPv6"])?;
    client.end().await;
    stops(endpoint).await
}

async fn one_way(apart: &mut Apart) -> Result<()> {
    let rule = ["ipproto", "udp", "to", "10.77.0.1", "blackhole"];
    let host = apart.hosts[1].pod();
    prints(host, "ip", &[&["rule", "add"][..], &rule].concat())?;
    let client = apart.client()?;
    let error = fails(apart, &client, SERVICE).await?;
    names(&error, &["forwarder-2", "no route from 10.77.0.2 to 10.77.0.1"])?;
    prints(host, "ip", &[&["rule", "del"][..], &rule].concat())?;
    let attached = client.attach("fails-0", SERVICE).await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

/// A socket of somebody else's on a node.
fn socket(pod: &Pod, port: u16) -> Result<UdpSocket> {
    let netns = std::fs::File::open(pod.path())?;
    inside(netns, move || UdpSocket::bind(("0.0.0.0", port)))
}

async fn port_taken(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    for host in &apart.hosts {
        let stranger = socket(host.pod(), 4789)?;
        let error = fails(apart, &client, SERVICE).await?;
        names(&error, &["another program", "UDP port", "set another port"])?;
        drop(stranger);
    }
    let attached = client.attach("fails-0", SERVICE).await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn other_flags(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    for host in &apart.hosts {
        let add = [
            "link", "add", "stranger", "type", "vxlan", "external", "dstport", "4789",
        ];
        prints(host.pod(), "ip", &add)?;
        prints(host.pod(), "ip", &["link", "set", "stranger", "up"])?;
        let error = fails(apart, &client, SERVICE).await?;
        names(
            &error,
            &["VXLAN devices that work in another way", "set another port"],
        )?;
        prints(host.pod(), "ip", &["link", "del", "stranger"])?;
    }
    client.end().await;
    Ok(())
}

async fn fails_over(apart: &mut Apart) -> Result<()> {
    let pod = Pod::new("here")?;
    let program = apart.join(&apart.first, "nse-2", &pod).await?;
    apart.underlay.plug(2, false)?;
    let client = apart.client()?;
    // Each endpoint has its turn to be the first.
    for number in 0..2 {
        let began = Instant::now();
        let attached = client.attach(&format!("over-{number}"), SERVICE).await?;
        println!("attached after {:?}", began.elapsed());
        let endpoint = &attached.request.connection.network_service_endpoint_name;
        same("the endpoint", endpoint.as_str(), "nse-2")?;
        client.close(attached.request).await?;
    }
    apart.underlay.plug(2, true)?;
    client.end().await;
    stops(program).await?;
    drop(pod);
    // What did not reach the other node while it was cut off.
    wait_for(
        Duration::from_secs(20),
        "the endpoint there can be reached",
        async || {
            let client = apart.client()?;
            let attached = client.attach("after-0", SERVICE).await;
            if let Ok(attached) = attached {
                client.close(attached.request).await?;
                client.end().await;
                return Ok(Some(()));
            }
            client.end().await;
            Ok(None)
        },
    )
    .await
}

async fn forwarder_dies(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("dies-0", SERVICE).await?;
    apart.second.forwarder.take().context("no forwarder")?.kill()?;
    // It may fail, since nobody is there who could remove the other half.
    let closed = client.close(attached.request.clone()).await;
    wait_for(PATIENCE, "our half is gone", async || {
        Ok(links(&apart.near)?.is_empty().then_some(()))
    })
    .await?;
    apart.second.start_forwarder().await?;
    if closed.is_err() {
        client.close(attached.request).await?;
    }
    let attached = client.attach("dies-0", SERVICE).await?;
    same("wires of the endpoint", links(&apart.far)?.len(), 1)?;
    ends(&attached)?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn pod_goes(apart: &mut Apart) -> Result<()> {
    let (mut made, mut refused) = (0, 0);
    for round in 0..20_u32 {
        let pod = Pod::new(&format!("gone-{round}"))?;
        let client = Client::new(&apart.first, "nsc", pod.path())?;
        let goes = async {
            tokio::time::sleep(Duration::from_millis(u64::from(round) * 2)).await;
            drop(pod);
        };
        let (attached, ()) = tokio::join!(client.attach("gone-0", SERVICE), goes);
        match attached {
            Ok(attached) => {
                made += 1;
                client.close(attached.request).await?;
            }
            Err(_) => refused += 1,
        }
        client.end().await;
    }
    println!("{made} wires were made and {refused} refused");
    apart.clean().await
}
