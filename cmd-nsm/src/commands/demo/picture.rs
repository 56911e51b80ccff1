// SPDX-License-Identifier: Apache-2.0
//! The path of a wire, drawn.

use nsm_api::connection::{Connection, PathSegment};

/// The width of one hop.
const WIDTH: usize = 17;

/// The hops with the time that each took for itself, of `whole` milliseconds that the client waited, and the wire with
/// its two ends.
pub(crate) fn of(connection: &Connection, whole: f64) -> String {
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
        .map(|at| format!("{:<WIDTH$}", own_time(segments, at, whole)))
        .collect();
    format!(
        "  {}\n  {arrows}\n  {}\n\n{}",
        names.concat().trim_end(),
        times.concat().trim_end(),
        wire(connection, segments),
    )
}

/// What a hop took, less what the hop behind it took. The first hop is the client, which waited for all of it.
fn own_time(segments: &[PathSegment], at: usize, whole: f64) -> String {
    let millis = |at: usize| -> Option<f64> {
        let micros: f64 = segments.get(at)?.metrics.get("request_us")?.parse().ok()?;
        Some(micros / 1e3)
    };
    let own = if at == 0 { Some(whole) } else { millis(at) };
    let behind = millis(at + 1).unwrap_or_default();
    own.map_or_else(String::new, |own| format!("{:.2} ms", (own - behind).max(0.0)))
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
