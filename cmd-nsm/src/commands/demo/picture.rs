// SPDX-License-Identifier: Apache-2.0
//! The path of a wire, drawn.

use nsm_api::connection::{Connection, PathSegment};

/// The width of one hop.
const WIDTH: usize = 17;

/// The hops with the time that each took for itself, and the wire with its two ends.
pub fn of(connection: &Connection) -> String {
    let segments = connection
        .path
        .as_ref()
        .map_or(&[][..], |path| &path.path_segments);
    let names: Vec<_> = segments
        .iter()
        .map(|segment| format!("{:<WIDTH$}", segment.name))
        .collect();
    let arrows = "request ───────▶ ".repeat(segments.len().saturating_sub(1));
    let times: Vec<_> = (0..segments.len())
        .map(|at| format!("{:<WIDTH$}", own_time(segments, at)))
        .collect();
    format!(
        "  {}\n  {arrows}\n  {}\n\n{}",
        names.concat().trim_end(),
        times.concat().trim_end(),
        wire(connection, segments),
    )
}

/// What a hop took, less what the hop behind it took.
fn own_time(segments: &[PathSegment], at: usize) -> String {
    let micros = |at: usize| -> Option<u64> { segments.get(at)?.metrics.get("request_us")?.parse().ok() };
    match (micros(at), micros(at + 1)) {
        (Some(own), behind) => format!(
            "{:.2} ms",
            own.saturating_sub(behind.unwrap_or_default()) as f64 / 1e3
        ),
        (None, _) => String::new(),
    }
}

fn wire(connection: &Connection, segments: &[PathSegment]) -> String {
    let ip = connection
        .context
        .as_ref()
        .and_then(|context| context.ip_context.as_ref());
    let (near, far) = ip.map_or_else(Default::default, |ip| {
        (ip.src_ip_addrs.join(" "), ip.dst_ip_addrs.join(" "))
    });
    let metric = |key: &str| {
        segments
            .iter()
            .find_map(|segment| segment.metrics.get(key))
            .cloned()
            .unwrap_or_default()
    };
    let first = segments.first().map_or("", |segment| &segment.name);
    let (client, endpoint) = (metric("server_interface"), metric("client_interface"));
    let left = [first.to_string(), client, near];
    let right = [connection.network_service_endpoint_name.clone(), endpoint, far];
    let width = |side: &[String; 3]| {
        side.iter()
            .map(|line| line.chars().count())
            .max()
            .unwrap_or_default()
    };
    let (l, r) = (width(&left), width(&right));
    let mut lines = vec![format!("  ┌─{}─┐          ┌─{}─┐", "─".repeat(l), "─".repeat(r))];
    for (row, (near, far)) in left.iter().zip(&right).enumerate() {
        let (open, middle, close) = if row == 1 {
            ("╞", "══════════", "╡")
        } else {
            ("│", "          ", "│")
        };
        lines.push(format!("  │ {near:<l$} {open}{middle}{close} {far:<r$} │"));
    }
    lines.push(format!(
        "  └─{}─┘          └─{}─┘\n",
        "─".repeat(l),
        "─".repeat(r)
    ));
    lines.join("\n")
}
