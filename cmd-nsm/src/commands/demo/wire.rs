// SPDX-License-Identifier: Apache-2.0
//! One wire: its endpoint, its client, and what they tell of it.

use std::time::Duration;

use anyhow::{Context, Result};
use nsm::mesh::{Client, Node, Pod, Program, ping};
use nsm_api::connection::{Connection, Mechanism, PathSegment};
use nsm_api::mechanism::key;
use serde_json::Value;
use tokio::time::Instant;

use super::facts::{End, Hop, Latency, Tunnel, Wire};
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

/// What the manager of `node` knows of the wire.
async fn look(node: &Node, plan: &Plan, near: &Pod) -> Result<Connection> {
    let watcher = Client::new(node, "demo", near.path())?;
    let known = watcher.look(&format!("{}-0", plan.client())).await;
    watcher.end().await;
    known?.with_context(|| format!("the manager does not know wire {}", plan.number))
}

/// Notes the path, what the kernel has at both ends, and the tunnel between.
async fn tell(stage: &Stage, plan: &Plan, wire: &mut Wire, connection: &Connection) -> Result<()> {
    let [near, far] = stage.pods(plan)?;
    let [first, second] = stage.nodes().map(node_of);
    let there = if plan.is_remote { &second } else { &first };
    wire.ends = vec![end(near, &first)?, end(far, there)?];
    wire.mtu = wire.ends.iter().map(|end| end.mtu).min().unwrap_or_default();
    let segments = connection
        .path
        .as_ref()
        .map_or(&[][..], |path| &path.path_segments);
    let away: Vec<_> = stage.far(plan).programs().map(Program::name).collect();
    let own: Vec<_> = own_times(segments, wire.attach_ms.first).collect();
    for (segment, own_ms) in segments.iter().zip(own) {
        let is_there = plan.is_remote
            && (away.contains(&segment.name.as_str()) || segment.name.starts_with(&plan.endpoint()));
        wire.path.push(Hop {
            name: segment.name.clone(),
            node: if is_there { second.clone() } else { first.clone() },
            own_ms,
        });
    }
    if plan.is_remote {
        let between = look(stage.far(plan), plan, near).await?;
        let mechanism = between
            .mechanism
            .as_ref()
            .context("no mechanism between the nodes")?;
        wire.kind = mechanism.r#type.to_lowercase();
        wire.tunnel = Some(tunnel(mechanism));
    }
    Ok(())
}

/// What each hop took, less what the hop behind it took, in milliseconds. The first hop is the client, which waited
/// for all of it.
fn own_times(segments: &[PathSegment], whole: f64) -> impl Iterator<Item = Option<f64>> {
    let millis = |segment: &PathSegment| -> Option<f64> {
        let micros: f64 = segment.metrics.get("request_us")?.parse().ok()?;
        Some(micros / 1e3)
    };
    (0..segments.len()).map(move |at| {
        let own = if at == 0 {
            Some(whole)
        } else {
            segments.get(at).and_then(millis)
        };
        let behind = segments.get(at + 1).and_then(millis).unwrap_or_default();
        own.map(|own| (own - behind).max(0.0))
    })
}

fn node_of(node: &Node) -> String {
    node.host()
        .map_or_else(String::new, |host| host.pod().name().to_string())
}

/// The one interface of a pod besides its loopback, by the kernel's own words.
fn end(pod: &Pod, node: &str) -> Result<End> {
    let links = pod.ip(&["-details", "addr", "show"])?;
    let links = links.as_array().map_or(&[][..], Vec::as_slice);
    let link = links
        .iter()
        .find(|link| link["ifname"] != "lo")
        .with_context(|| format!("{} has no interface", pod.name()))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let addresses = link["addr_info"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(End {
        pod: pod.name().to_string(),
        node: node.to_string(),
        interface: text(&link["ifname"]),
        kind: text(&link["linkinfo"]["info_kind"]),
        mtu: link["mtu"].as_u64().unwrap_or_default(),
        addresses: addresses
            .iter()
            .filter(|address| address["scope"] != "link")
            .map(|address| format!("{}/{}", text(&address["local"]), address["prefixlen"]))
            .collect(),
    })
}

/// What the two forwarders have agreed on.
fn tunnel(mechanism: &Mechanism) -> Tunnel {
    let end = |ip: &str, port: &str| {
        let (ip, port) = (mechanism.parameter(ip), mechanism.parameter(port));
        if port.is_empty() {
            ip.to_string()
        } else {
            format!("{ip}:{port}")
        }
    };
    let id = mechanism.parameter(key::VNI);
    Tunnel {
        kind: mechanism.r#type.to_lowercase(),
        from: end(key::SRC_IP, key::SRC_PORT),
        to: end(key::DST_IP, key::DST_PORT),
        vni: id.parse().ok(),
    }
}
