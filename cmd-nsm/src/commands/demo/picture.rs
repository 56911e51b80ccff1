// SPDX-License-Identifier: Apache-2.0
//! A wire, drawn.

use std::fmt::Write;

use super::facts::{End, Hop, Latency, Tunnel, Wire};

/// The width of one hop.
const WIDTH: usize = 17;

/// The path of the request over the nodes with the time that each hop took for itself, the wire with its two ends and
/// the tunnel between them, and what it was measured to do; or why there is none.
pub(crate) fn of(wire: &Wire) -> String {
    let mut drawn = format!("  {}  {}", wire.number, wire.name);
    if let Some(why) = &wire.withheld {
        let _always = write!(drawn, ": WITHHELD by this machine\n     {why}\n");
        return drawn;
    }
    let _always = write!(drawn, ", {}\n\n", how(wire));
    drawn += &path(&wire.path);
    if let [near, far] = wire.ends.as_slice() {
        drawn += "\n";
        drawn += &ends(near, far, wire.tunnel.as_ref());
    }
    drawn += "\n";
    drawn += &measured(wire);
    drawn
}

fn how(wire: &Wire) -> String {
    let by = match wire.kind.as_str() {
        "kernel" => "a pair of devices",
        "vxlan" => "by VXLAN",
        "wireguard" if wire.ends.iter().all(|end| end.kind == "tun") => "by WireGuard of the forwarders",
        "wireguard" => "by WireGuard of the kernel",
        other => other,
    };
    format!("{by}, MTU {}", wire.mtu)
}

/// The hops below a line for each node.
fn path(hops: &[Hop]) -> String {
    let mut lines: [String; 4] = std::array::from_fn(|_| "  ".to_string());
    for nodes in hops.chunk_by(|one, next| one.node == next.node) {
        let node = nodes.first().map_or("", |hop| &hop.node);
        let width = nodes.len() * WIDTH - 2;
        lines[0] += &format!("{:─<width$}  ", format!("── {node} "));
    }
    for (at, hop) in hops.iter().enumerate() {
        let own = hop.own_ms.map_or_else(String::new, |own| format!("{own:.2} ms"));
        let arrow = if at + 1 < hops.len() {
            "request ───────▶"
        } else {
            ""
        };
        for (line, text) in lines
            .iter_mut()
            .skip(1)
            .zip([hop.name.as_str(), arrow, own.as_str()])
        {
            *line += &format!("{text:<WIDTH$}");
        }
    }
    lines.map(|line| format!("{}\n", line.trim_end())).concat()
}

/// Two boxes and what is between them.
fn ends(near: &End, far: &End, tunnel: Option<&Tunnel>) -> String {
    let (left, right) = (side(near), side(far));
    let rows = left.len().max(right.len());
    let width = |lines: &[String]| lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let (l, r) = (width(&left), width(&right));
    let labels = tunnel.map_or_else(Default::default, labels);
    let m = width(&labels).max(8) + 2;
    let (gap, wire) = (" ".repeat(m), "═".repeat(m));
    let mut lines = vec![format!("  ┌─{}─┐{gap}┌─{}─┐", "─".repeat(l), "─".repeat(r))];
    for row in 0..rows {
        let text = |lines: &[String]| lines.get(row).cloned().unwrap_or_default();
        let (near, far) = (text(&left), text(&right));
        let line = match row {
            1 => format!("  │ {near:<l$} ╞{wire}╡ {far:<r$} │"),
            0 => format!("  │ {near:<l$} │{:^m$}│ {far:<r$} │", labels[0]),
            2 => format!("  │ {near:<l$} │{:^m$}│ {far:<r$} │", labels[1]),
            _ => format!("  │ {near:<l$} │{gap}│ {far:<r$} │"),
        };
        lines.push(line);
    }
    lines.push(format!("  └─{}─┘{gap}└─{}─┘\n", "─".repeat(l), "─".repeat(r)));
    lines.join("\n")
}

fn side(end: &End) -> Vec<String> {
    let mut lines = vec![
        format!("{} on {}", end.pod, end.node),
        format!("{} ({})", end.interface, end.kind),
    ];
    lines.extend(end.addresses.iter().cloned());
    lines
}

/// What is said above and below the line between the boxes.
fn labels(tunnel: &Tunnel) -> [String; 2] {
    let kind = match tunnel.kind.as_str() {
        "vxlan" => "VXLAN",
        "wireguard" => "WireGuard",
        other => other,
    };
    let number = tunnel.vni.map(|vni| format!(" {vni}")).unwrap_or_default();
    [
        format!("{kind}{number}"),
        format!("{} ↔ {}", tunnel.from, tunnel.to),
    ]
}

/// Pings, times and speed, a line each.
fn measured(wire: &Wire) -> String {
    let mut lines = String::new();
    for ping in &wire.ping {
        let verdict = if ping.loss == 0.0 { "all answered" } else { "LOST" };
        let (from, to, took) = (&ping.from, ping.to, ping.round_trip_ms);
        lines += &format!("  ping {from} → {to}: {verdict}, {took:.3} ms\n");
    }
    let Latency { first, p50, p99 } = wire.attach_ms;
    lines += &format!("  attach: first {first:.1} ms");
    if !p50.is_nan() {
        lines += &format!(", then p50 {p50:.1} ms, p99 {p99:.1} ms until a ping came back");
    }
    lines += "\n";
    if let Some(speed) = &wire.speed {
        lines += &format!("  carries {:.1} Gbit/s", speed.wire);
        if let (Some(by_hand), Some(hand)) = (speed.by_hand, &speed.hand) {
            lines += &format!("; {hand} made by hand {by_hand:.1} Gbit/s");
        }
        if let Some(lacking) = &speed.not_compared {
            lines += &format!("; not compared: {lacking}");
        }
        lines += "\n";
    }
    lines
}
