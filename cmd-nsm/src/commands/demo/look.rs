// SPDX-License-Identifier: Apache-2.0
//! What there is to see of a wire: on its managers, and in the kernel.

use crate::mesh::{Client, Node, Pod, Program};
use anyhow::{Context, Result};
use nsm_api::connection::{Connection, Mechanism, PathSegment};
use nsm_api::mechanism::key;
use serde_json::Value;

use super::facts::{End, Hop, Tunnel, Wire};
use super::plan::Plan;
use super::stage::Stage;

/// What the manager of `node` knows of the wire.
pub(crate) async fn look(node: &Node, plan: &Plan, near: &Pod) -> Result<Connection> {
    let watcher = Client::new(node, "demo", near.path())?;
    let known = watcher.look(&format!("{}-0", plan.client())).await;
    watcher.end().await;
    known?.with_context(|| format!("the manager does not know wire {}", plan.number))
}

/// Notes the path, what the kernel has at both ends, and the tunnel between.
pub(crate) async fn tell(stage: &Stage, plan: &Plan, wire: &mut Wire, connection: &Connection) -> Result<()> {
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
