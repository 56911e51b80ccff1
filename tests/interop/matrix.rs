// SPDX-License-Identifier: Apache-2.0
//! Every mixture of our programs and theirs on one node: a wire is asked for, carries packets, is refreshed, told of
//! by the manager, and closed, and nothing of it is left.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Node, Pod, ping_every};
use nsm_api::connection::{ConnectionEventType, State};

use crate::Bench;
use crate::caller::{Caller, Granted, ID};
use crate::mesh::Mesh;
use crate::mix::{Hop, Mix};
use crate::watch::Watch;

/// The pause between pings: what comes later than that counts as lost, and tunnels may be made by programs.
const PING_EVERY: Duration = Duration::from_millis(100);

/// Which programs are theirs. Neighbours of this list differ in the client only, or in few programs.
pub(crate) const MIXES: [&str; 32] = [
    "go_nobody",
    "go_client",
    "go_nsmgr",
    "go_client_nsmgr",
    "go_forwarder",
    "go_client_forwarder",
    "go_nsmgr_forwarder",
    "go_client_nsmgr_forwarder",
    "go_registry",
    "go_client_registry",
    "go_nsmgr_registry",
    "go_client_nsmgr_registry",
    "go_forwarder_registry",
    "go_client_forwarder_registry",
    "go_nsmgr_forwarder_registry",
    "go_client_nsmgr_forwarder_registry",
    "go_endpoint",
    "go_client_endpoint",
    "go_nsmgr_endpoint",
    "go_client_nsmgr_endpoint",
    "go_forwarder_endpoint",
    "go_client_forwarder_endpoint",
    "go_nsmgr_forwarder_endpoint",
    "go_client_nsmgr_forwarder_endpoint",
    "go_registry_endpoint",
    "go_client_registry_endpoint",
    "go_nsmgr_registry_endpoint",
    "go_client_nsmgr_registry_endpoint",
    "go_forwarder_registry_endpoint",
    "go_client_forwarder_registry_endpoint",
    "go_nsmgr_forwarder_registry_endpoint",
    "go_client_nsmgr_forwarder_registry_endpoint",
];

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    MIXES
        .map(|name| bench.listed(name, Mix::named(name), works))
        .into()
}

async fn works(mesh: &mut Mesh) -> Result<()> {
    let caller = Caller::new(&mesh.node, &mesh.near, mesh.mix().is_go(Hop::Client))?;
    let path = ["nsc", "nsmgr", "forwarder", "nse"];
    comes_and_goes(&mesh.node, caller, [&mesh.near, &mesh.far], &path).await
}

/// Has a wire between two pods over these programs: it is made, refreshed and closed, and told of by the manager.
pub(crate) async fn comes_and_goes(
    node: &Node,
    mut caller: Caller,
    [near, far]: [&Pod; 2],
    path: &[&str],
) -> Result<()> {
    let (mut watch, _) = Watch::new(node, &node.manager_url(), ID).await?;
    let granted = caller.asks().await?;
    ensure!(granted.path == path, "the path is {:?}", granted.path);
    watch
        .hears(ConnectionEventType::Update, |known| known.state() == State::Up)
        .await?;
    let links = carries_to(near, far, &granted)?;

    let again = caller.asks().await?;
    ensure!(again == granted, "a refresh has made {again:?} of {granted:?}");
    ensure!(
        carries_to(near, far, &again)? == links,
        "a refresh has changed the links"
    );

    let events = caller.ends().await?;
    watch.hears(ConnectionEventType::Delete, |_| true).await?;
    watch.ends().await;
    if let Some(events) = events {
        let told = |kind: &str| events.iter().position(|event| event == kind);
        let order = [told("initial_state_transfer"), told("update"), told("closed")];
        ensure!(
            order[0] == Some(0) && order.is_sorted(),
            "the client was told {events:?}"
        );
    }
    Ok(())
}

/// Checks that the wire is there, and pings over it both ways; answers with the indices of its links.
pub(crate) fn carries_to(near: &Pod, far: &Pod, granted: &Granted) -> Result<[u64; 2]> {
    let ends = [
        (near, &granted.near, &granted.far),
        (far, &granted.far, &granted.near),
    ];
    let mut links = [0; 2];
    for ((pod, own, other), link) in ends.into_iter().zip(&mut links) {
        *link = only_link(pod, own)?;
        for address in other {
            let pings = ping_every(PING_EVERY, pod, *address, 3)?;
            ensure!(pings.loss == 0.0, "{pings:?}");
        }
    }
    Ok(links)
}

/// The index of the one link of a pod, which has these addresses.
fn only_link(pod: &Pod, addresses: &[IpAddr]) -> Result<u64> {
    let shown = pod.ip(&["addr", "show"])?;
    let links: Vec<_> = shown
        .as_array()
        .into_iter()
        .flatten()
        .filter(|link| link["ifname"] != "lo")
        .collect();
    let [link] = links.as_slice() else {
        anyhow::bail!("{} has {} links: {links:?}", pod.name(), links.len());
    };
    for address in addresses {
        let has = link["addr_info"].as_array().into_iter().flatten();
        let mut has = has.filter_map(|known| known["local"].as_str()?.parse::<IpAddr>().ok());
        ensure!(
            has.any(|known| known == *address),
            "{} has no {address}: {link}",
            pod.name()
        );
    }
    Ok(link["ifindex"].as_u64().unwrap_or_default())
}
