// SPDX-License-Identifier: Apache-2.0
//! A node that loses its power: nothing of it says a word, and what it has on other nodes is found again afterwards.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Pod, Program, ping};

use crate::Bench;
use crate::remote::Apart;
use crate::world::{PATIENCE, addresses, links, same, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.apart(
            "a_client_whose_node_lost_its_power_has_its_address_again_by_vxlan",
            "ETHERNET",
            comes_again,
        ),
        bench.apart(
            "a_client_whose_node_lost_its_power_has_its_address_again_by_wireguard",
            "IP",
            comes_again,
        ),
    ]
}

/// The only pair of addresses that the endpoint has.
const PAIR: &str = "10.9.0.0/31";
const ENDPOINT: &str = "10.9.0.0";
const CLIENT: &str = "10.9.0.1/32 global";

/// The pod of the client, on the second node. It has this name in every life of the node.
fn pod() -> Result<Pod> {
    Pod::new("powered")
}

fn client(apart: &Apart, pod: &Pod) -> Result<Program> {
    let variables = [
        ("NSM_CONNECT_TO", apart.second.manager_url()),
        ("NSM_NETWORK_SERVICES", "kernel://narrow/nsm-1".to_string()),
        ("NODE_NAME", "node-2".to_string()),
        ("POD_NAME", pod.name().to_string()),
    ];
    apart.second.launch("nsc", "nsc", Some(pod), &variables)
}

async fn carries_pings(pod: &Pod) -> Result<()> {
    let to = ENDPOINT.parse()?;
    wait_for(PATIENCE, "the wire carries pings", async || {
        let pings = ping(pod, to, 1);
        Ok(pings.is_ok_and(|pings| pings.loss == 0.0).then_some(()))
    })
    .await?;
    same(
        "the client's address",
        addresses(pod, "nsm-1")?,
        vec![CLIENT.to_string()],
    )
}

/// The client's node dies and comes again with pods of the same names. Its client gets the wire that an endpoint without
/// a second address keeps for it, and what was there for the former one is gone.
async fn comes_again(apart: &mut Apart) -> Result<()> {
    let variables = [
        ("NSM_SERVICE_NAMES", "narrow".to_string()),
        ("NSM_CIDR_PREFIX", PAIR.to_string()),
        ("NSM_PAYLOAD", apart.payload.to_string()),
    ];
    let (endpoint, _) = apart
        .first
        .start_endpoint("nse-2", &apart.near, &variables)
        .await?;
    let powered = pod()?;
    let nsc = client(apart, &powered)?;
    carries_pings(&powered).await?;
    for program in [
        Some(nsc),
        apart.second.forwarder.take(),
        apart.second.nsmgr.take(),
    ] {
        program.context("it does not run")?.kill()?;
    }
    drop(powered);
    let powered = pod()?;
    apart.second.start_nsmgr().await?;
    apart.second.start_forwarder().await?;
    let nsc = client(apart, &powered)?;
    carries_pings(&powered).await?;
    same("the wires of the endpoint", links(&apart.near)?.len(), 1)?;
    stops(nsc).await?;
    let left = links(&apart.near)?;
    ensure!(left.is_empty(), "the endpoint still has {left:?}");
    stops(endpoint).await
}
