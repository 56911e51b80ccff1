// SPDX-License-Identifier: Apache-2.0
//! One wire: its endpoint, its client, and what they tell of it.

use std::time::Duration;

use crate::mesh::{Node, Program, ping};
use anyhow::{Context, Result};
use serde_json::Value;
use tokio::time::Instant;

use super::facts::{Latency, Wire};
use super::look::{look, tell};
use super::plan::Plan;
use super::progress;
use super::stage::Stage;

/// How long a client may try.
const TO_ATTACH: Duration = Duration::from_secs(20);

/// How many pings go each way.
const PINGS: u32 = 10;

/// What the forwarder says when it has no engine for WireGuard, before it says why.
const NO_WIREGUARD: &str = "no WireGuard: services of IP on other nodes cannot be reached from here";

/// What is in errors that are the machine's fault, and what helps where the error does not say it.
const WITHHELD: [(&str, &str); 2] = [
    (
        "the kernel lacks a module",
        ": load it by `modprobe vxlan`, as root",
    ),
    ("/dev/net/tun", ""),
];

/// The programs of a wire that is there.
pub(crate) struct Shown {
    client: Program,
    endpoint: Program,
}

impl Shown {
    /// Both.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &Program> {
        [&self.client, &self.endpoint].into_iter()
    }

    /// Ends the client, which closes the wire, and then the endpoint.
    pub(crate) async fn close(self) -> Result<()> {
        self.client.stop().await?;
        self.endpoint.stop().await?;
        Ok(())
    }
}

/// Makes a wire and pings through it; no programs run for one that the machine withholds.
pub(crate) async fn make(stage: &Stage, plan: &Plan) -> Result<(Wire, Option<Shown>)> {
    let mut wire = Wire::planned(plan);
    if plan.is_remote
        && plan.payload == "IP"
        && let Some(why) = stage.nodes().into_iter().find_map(no_wireguard)
    {
        return Ok((withheld(wire, why), None));
    }
    let [near, far] = stage.pods(plan)?;
    let variables = [
        ("NSM_SERVICE_NAMES", plan.service.to_string()),
        ("NSM_PAYLOAD", plan.payload.to_string()),
        ("NSM_CIDR_PREFIX", plan.prefixes.to_string()),
    ];
    let (endpoint, _) = stage
        .far(plan)
        .start_endpoint(&plan.endpoint(), far, &variables)
        .await?;
    let mut client = stage
        .first
        .start_client(&plan.client(), near, &plan.url("nsm-1"))?;
    match attach(&mut client).await? {
        Ok(first) => wire.attach_ms = Latency::first(first),
        Err(why) => {
            client.stop().await?;
            endpoint.stop().await?;
            return Ok((withheld(wire, why), None));
        }
    }
    let connection = look(&stage.first, plan, near).await?;
    tell(stage, plan, &mut wire, &connection).await?;
    let ip = connection
        .ip_context()
        .context("the connection has no addresses")?;
    let ways = [(near, ip.dst_nets()), (far, ip.src_nets())];
    for (pod, net) in ways
        .iter()
        .flat_map(|(pod, nets)| nets.iter().map(move |net| (pod, net)))
    {
        wire.ping.push(ping(pod, net.addr(), PINGS)?);
    }
    let took = Duration::from_secs_f64(wire.attach_ms.first / 1e3);
    progress(
        &format!("wire {}, {}, is there and answers", plan.number, plan.name),
        Some(took),
    );
    Ok((wire, Some(Shown { client, endpoint })))
}

fn withheld(wire: Wire, why: String) -> Wire {
    progress(
        &format!("wire {}, {}, is withheld by this machine", wire.number, wire.name),
        None,
    );
    Wire {
        withheld: Some(why),
        ..wire
    }
}

/// Why a node makes no WireGuard tunnels, if it makes none; its forwarder has looked at its start.
fn no_wireguard(node: &Node) -> Option<String> {
    let printed = node.forwarder.as_ref()?.printed();
    let line = printed.lines().find(|line| line.contains(NO_WIREGUARD))?;
    let (_, why) = line.split_once("error=").unwrap_or(("", line));
    Some(why.to_string())
}

/// Waits for the wire of a client; answers with what the client says that it took, in milliseconds, or with the error
/// that is the machine's fault.
async fn attach(client: &mut Program) -> Result<Result<f64, String>> {
    let until = Instant::now() + TO_ATTACH;
    client
        .wait_for("it had its wire", until, async |client| {
            client.printed().lines().find_map(outcome)
        })
        .await
}

/// What a line of a client's log says about its wire.
fn outcome(line: &str) -> Option<Result<f64, String>> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = &line["fields"];
    if let Some(took) = fields["attached_ms"].as_f64() {
        return Some(Ok(took));
    }
    let error = fields["error"].as_str()?;
    let (_, remedy) = WITHHELD.iter().find(|(sign, _)| error.contains(sign))?;
    Some(Err(format!("{error}{remedy}")))
}
