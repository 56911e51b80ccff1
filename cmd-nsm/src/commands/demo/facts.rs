// SPDX-License-Identifier: Apache-2.0
//! What the demo found out, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::mesh::Pings;
use serde::Serialize;

use super::picture;
use super::plan::Plan;

/// What the demo found out; its JSON is a promise to scripts.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Facts {
    /// From the request for the first wire until it carried a ping.
    pub(crate) attach_ms: Latency,
    /// The pings through all wires.
    pub(crate) ping: Vec<Pings>,
    /// Resident memory by program.
    pub(crate) rss_mib: BTreeMap<String, f64>,
    /// What was still there at the end.
    pub(crate) left_behind: Vec<String>,
    /// Each wire.
    pub(crate) wires: Vec<Wire>,
    /// What the network between the nodes carries in one packet, bytes.
    pub(crate) underlay_mtu: u32,
    /// The programs that ran, and their process ids.
    #[serde(skip)]
    pub(crate) running: Vec<(String, u32)>,
}

/// What there is to know of one wire.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Wire {
    /// Counts from 1.
    pub(crate) number: u8,
    /// What is special about it.
    pub(crate) name: String,
    /// What goes between its ends: `kernel` on one node, `vxlan` or `wireguard` between two.
    pub(crate) kind: String,
    /// Why this machine cannot have it; then nothing below is known.
    pub(crate) withheld: Option<String>,
    /// The programs that a request for it passes, the client first.
    pub(crate) path: Vec<Hop>,
    /// The client's end and the endpoint's.
    pub(crate) ends: Vec<End>,
    /// What is between the nodes.
    pub(crate) tunnel: Option<Tunnel>,
    /// What it carries in one packet, bytes.
    pub(crate) mtu: u64,
    /// The pings through it, of each family, both ways.
    pub(crate) ping: Vec<Pings>,
    /// From a request until it carried a ping; the first until the client had its answer.
    pub(crate) attach_ms: Latency,
    /// What it carries, if that could be measured.
    pub(crate) speed: Option<Speed>,
}

/// A program on the path of a request.
#[derive(Debug, Serialize)]
pub(crate) struct Hop {
    /// The program.
    pub(crate) name: String,
    /// Where it runs.
    pub(crate) node: String,
    /// What it took for itself, milliseconds.
    pub(crate) own_ms: Option<f64>,
}

/// One end of a wire, as the kernel shows it.
#[derive(Debug, Serialize)]
pub(crate) struct End {
    /// The pod.
    pub(crate) pod: String,
    /// Its node.
    pub(crate) node: String,
    /// The name of the interface.
    pub(crate) interface: String,
    /// Its kind: `veth`, `vxlan`, `wireguard`, or `tun` for WireGuard by a program.
    pub(crate) kind: String,
    /// Its MTU, bytes.
    pub(crate) mtu: u64,
    /// Its addresses with their prefix lengths, without those that every device gives itself.
    pub(crate) addresses: Vec<String>,
}

/// What carries a wire between two nodes.
#[derive(Debug, Serialize)]
pub(crate) struct Tunnel {
    /// `vxlan` or `wireguard`.
    pub(crate) kind: String,
    /// The client's node, address and port.
    pub(crate) from: String,
    /// The endpoint's node, address and port.
    pub(crate) to: String,
    /// The number of a VXLAN.
    pub(crate) vni: Option<u32>,
}

/// Gigabits in a second, of one TCP stream.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Speed {
    /// Through the wire.
    pub(crate) wire: f64,
    /// Through the same device made by hand, where that can be made.
    pub(crate) by_hand: Option<f64>,
    /// What was made by hand: `veth`, `vxlan`, `wireguard`, or `wireguard-go` for WireGuard by a program.
    pub(crate) hand: Option<String>,
    /// Why nothing was, and the remedy.
    pub(crate) not_compared: Option<String>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    /// The very first, with nothing warm.
    pub(crate) first: f64,
    /// The median of those after it.
    pub(crate) p50: f64,
    /// 99 of 100 of those after it were faster.
    pub(crate) p99: f64,
}

impl Latency {
    /// The first one.
    pub(crate) fn first(first: f64) -> Self {
        Self {
            first,
            p50: f64::NAN,
            p99: f64::NAN,
        }
    }

    /// The same with the quantiles of the others.
    pub(crate) fn and(self, mut others: Vec<Duration>) -> Self {
        others.sort_unstable();
        let quantile = |share: f64| {
            let at = (others.len() as f64 * share) as usize;
            let at = at.min(others.len().saturating_sub(1));
            others.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
        };
        Self {
            first: self.first,
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

impl Wire {
    /// One of which nothing is known yet.
    pub(crate) fn planned(plan: &Plan) -> Self {
        Self {
            number: plan.number,
            name: plan.name.to_string(),
            kind: plan.kind().to_string(),
            attach_ms: Latency::first(f64::NAN),
            ..Self::default()
        }
    }

    /// Whether it carried every ping, or this machine cannot have it.
    fn is_good(&self) -> bool {
        let answered = !self.ping.is_empty() && self.ping.iter().all(|ping| ping.loss == 0.0);
        answered || self.withheld.is_some()
    }
}

impl Facts {
    /// Tells of all what is told of each.
    pub(crate) fn sum_up(&mut self) {
        self.attach_ms = self.wires.first().map(|wire| wire.attach_ms).unwrap_or_default();
        self.ping = self.wires.iter().flat_map(|wire| wire.ping.clone()).collect();
    }

    /// Whether everything that this machine can have was there, and nothing is left.
    pub(crate) fn is_good(&self) -> bool {
        !self.ping.is_empty() && self.wires.iter().all(Wire::is_good) && self.left_behind.is_empty()
    }

    /// What is left, for people.
    pub(crate) fn left(&self) -> String {
        match self.left_behind.as_slice() {
            [] => "  left behind: nothing, on neither node nor in any pod, and no process".to_string(),
            left => format!("  LEFT BEHIND:\n    {}", left.join("\n    ")),
        }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for wire in &self.wires {
            writeln!(f, "{}", picture::of(wire))?;
        }
        writeln!(
            f,
            "  the network between the nodes carries {} bytes in a packet",
            self.underlay_mtu
        )?;
        let memory: Vec<_> = self
            .rss_mib
            .iter()
            .map(|(name, mib)| format!("{name} {mib:.1}"))
            .collect();
        for (row, names) in memory.chunks(7).enumerate() {
            let head = if row == 0 { "memory, MiB:" } else { "" };
            writeln!(f, "  {head:<12} {}", names.join(", "))?;
        }
        Ok(())
    }
}
