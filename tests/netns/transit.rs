// SPDX-License-Identifier: Apache-2.0
//! Wires from one node by another to a third: in the middle they come by one tunnel and go on by another.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Attached, Client, Node, Pod, Program};
use nsm_api::registry::{NetworkService as Service, NetworkServiceEndpoint};
use nsm_sdk::chains::registry_client;
use nsm_sdk::core::{Component, Ctx, Registration};
use nsm_sdk::identity::{Identity, Tokens};
use nsm_sdk::policy::{self, Policies};
use nsm_sdk::transport::Pool;

use crate::Bench;
use crate::remote::{Apart, device, ping_both_ways};
use crate::world::{PATIENCE, links, prints, same, says, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.apart(
            "a_wire_by_vxlan_passes_through_a_node_in_between",
            "ETHERNET",
            passes,
        ),
        bench.apart(
            "a_wire_by_wireguard_passes_through_a_node_in_between",
            "IP",
            passes,
        ),
        bench.apart(
            "kill_9_in_between_loses_nothing_of_a_wire_that_passes_through",
            "ETHERNET",
            middle_killed,
        ),
        bench.apart(
            "a_wire_that_cannot_pass_through_leaves_nothing_on_the_way",
            "ETHERNET",
            refused_behind,
        ),
    ]
}

const SERVICE: &str = "kernel://icmp-responder/nsm-1";

/// A third node, whose registry knows the endpoint of the second one as behind the first one's manager.
struct Beyond {
    node: Node,
    registry: Program,
    /// Who keeps that registered.
    teller: Component,
}

impl Beyond {
    async fn new(apart: &Apart) -> Result<Self> {
        let host = Arc::new(apart.underlay.host(3)?);
        let url = apart.first.url("registry-3");
        let variables = [("NSM_LISTEN_ON", url.clone())];
        let mut registry =
            apart
                .first
                .launch("registry-3", "registry-memory", Some(host.pod()), &variables)?;
        says(&mut registry, "INFO ready").await?;
        let teller = tell(apart, &url).await?;
        let node = apart.first.join_with(3, host, url, |_, _| ()).await?;
        Ok(Self {
            node,
            registry,
            teller,
        })
    }

    fn client(&self, apart: &Apart) -> Result<Client> {
        Client::new(&self.node, "nsc", apart.near.path())?.pinging()
    }

    async fn end(self) -> Result<()> {
        self.teller.end().await;
        self.node.end().await?;
        stops(self.registry).await
    }
}

/// Registers service and endpoint in the registry at `url`.
async fn tell(apart: &Apart, url: &str) -> Result<Component> {
    let component = Component::new("nse-3");
    let identity: Identity = apart.first.identity().clone();
    let pool = Pool::new(&component, identity, Tokens::new(Duration::from_secs(600)));
    let settings = registry_client::Settings {
        connect_to: url.to_string(),
        policies: Policies::choose(policy::REGISTRY_CLIENT)?,
    };
    let registry = registry_client::client(&component, &settings, &Arc::new(pool));
    let ctx = Ctx::own(&component, PATIENCE);
    let entry = Service {
        name: "icmp-responder".into(),
        payload: apart.payload.into(),
        ..Default::default()
    };
    let mut service = Registration {
        entry,
        ..Default::default()
    };
    registry.ns.request(&ctx, &mut service).await?;
    let entry = NetworkServiceEndpoint {
        name: "nse".into(),
        network_service_names: vec!["icmp-responder".into()],
        url: format!("tcp://{}:5001", apart.hosts[0].ip()),
        ..Default::default()
    };
    let mut endpoint = Registration {
        entry,
        ..Default::default()
    };
    registry.nse.request(&ctx, &mut endpoint).await?;
    Ok(component)
}

fn passes_eight_hops(attached: &Attached) -> Result<()> {
    let path = attached.request.connection.path.as_ref().context("no path")?;
    let hops = path.path_segments.iter().map(|segment| segment.name.as_str());
    let should = [
        "nsc",
        "nsmgr-3",
        "forwarder-3",
        "nsmgr",
        "forwarder",
        "nsmgr-2",
        "forwarder-2",
        "nse",
    ];
    same("the path", hops.collect::<Vec<_>>(), should.to_vec())
}

/// The devices of a node's own, by name and index; that of the client's side first.
fn devices(host: &Pod) -> Result<Vec<(String, u64)>> {
    let all = links(host)?.into_iter().filter_map(|link| {
        let name = link["ifname"].as_str()?;
        let is_ours = name.starts_with("nsm-");
        is_ours.then(|| Some((name.to_string(), link["ifindex"].as_u64()?)))?
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    Ok(all)
}

async fn passes(apart: &mut Apart) -> Result<()> {
    let beyond = Beyond::new(apart).await?;
    let client = beyond.client(apart)?;
    let attached = client.attach("through-0", SERVICE).await?;
    passes_eight_hops(&attached)?;
    ping_both_ways(apart, &attached)?;
    let host = apart.hosts[0].pod();
    let between = devices(host)?;
    same("devices in between", between.len(), 2)?;
    let near = device(&apart.near)?["mtu"].as_u64();
    let far = links(&apart.far)?.first().and_then(|link| link["mtu"].as_u64());
    same("the MTU at both ends", near, far)?;
    let attached = client.again(attached.request).await?;
    same("the devices after a refresh", devices(host)?, between)?;
    let metrics = attached.request.connection.path.as_ref().context("no path")?;
    let metrics = metrics.path_segments.get(4).map(|hop| &hop.metrics);
    let came = metrics.and_then(|metrics| metrics.get("server_interface"));
    let kind = if apart.payload == "IP" {
        "WIREGUARD/"
    } else {
        "VXLAN/"
    };
    ensure!(came.is_some_and(|name| name.starts_with(kind)), "{metrics:?}");
    client.close(attached.request).await?;
    wait_for(PATIENCE, "nothing is in between", async || {
        Ok(devices(host)?.is_empty().then_some(()))
    })
    .await?;
    client.end().await;
    beyond.end().await
}

/// The forwarder in between dies under packets, and comes back.
async fn middle_killed(apart: &mut Apart) -> Result<()> {
    let beyond = Beyond::new(apart).await?;
    let client = beyond.client(apart)?;
    let attached = client.attach("killed-0", SERVICE).await?;
    let host = Arc::clone(&apart.hosts[0]);
    let between = devices(host.pod())?;
    same("devices in between", between.len(), 2)?;
    apart.first.forwarder.take().context("no forwarder")?.kill()?;
    ping_both_ways(apart, &attached)?;
    apart.first.start_forwarder().await?;
    let attached = wait_for(PATIENCE, "the wire is refreshed", async || {
        Ok(client.again(attached.request.clone()).await.ok())
    })
    .await?;
    let now = devices(host.pod())?;
    same("devices in between", now.len(), 2)?;
    same("that of the client's side", now.first(), between.first())?;
    ping_both_ways(apart, &attached)?;
    client.close(attached.request).await?;
    client.end().await;
    beyond.end().await
}

/// The node in between makes its part last, when there is an answer: a request that fails there takes everything along.
async fn refused_behind(apart: &mut Apart) -> Result<()> {
    let beyond = Beyond::new(apart).await?;
    let client = beyond.client(apart)?;
    let host = apart.hosts[0].pod();
    let before = devices(host)?;
    let add = [
        "link", "add", "stranger", "type", "vxlan", "external", "dstport", "4789",
    ];
    prints(host, "ip", &add)?;
    prints(host, "ip", &["link", "set", "stranger", "up"])?;
    let error = client.attach("refused-0", SERVICE).await.err();
    let error = format!("{:#}", error.context("it was not refused")?);
    ensure!(error.contains("set another port"), "{error}");
    for pod in [&apart.near, &apart.far] {
        wait_for(PATIENCE, "no interface is left", async || {
            Ok(links(pod)?.is_empty().then_some(()))
        })
        .await?;
    }
    same("devices in between", devices(host)?, before)?;
    prints(host, "ip", &["link", "del", "stranger"])?;
    let attached = client.attach("refused-0", SERVICE).await?;
    client.close(attached.request).await?;
    client.end().await;
    beyond.end().await
}
