// SPDX-License-Identifier: Apache-2.0
//! The wires that are shown.

/// One wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Counts from 1: the wire goes from the pod `nsc-<number>` to the pod `nse-<number>`.
    pub(crate) number: u8,
    /// What is special about it.
    pub(crate) name: &'static str,
    /// The network service.
    pub(crate) service: &'static str,
    /// Whether the endpoint is on the second node.
    pub(crate) is_remote: bool,
    /// What it carries.
    pub(crate) payload: &'static str,
    /// Where its addresses come from.
    pub(crate) prefixes: &'static str,
}

/// All of them.
pub(crate) const PLANS: [Plan; 4] = [
    Plan {
        number: 1,
        name: "same node",
        service: "same-node",
        is_remote: false,
        payload: "ETHERNET",
        prefixes: "10.1.0.0/24",
    },
    Plan {
        number: 2,
        name: "another node, Ethernet",
        service: "ethernet",
        is_remote: true,
        payload: "ETHERNET",
        prefixes: "10.2.0.0/24",
    },
    Plan {
        number: 3,
        name: "another node, IP",
        service: "ip",
        is_remote: true,
        payload: "IP",
        prefixes: "10.3.0.0/24",
    },
    Plan {
        number: 4,
        name: "dual stack",
        service: "dual-stack",
        is_remote: false,
        payload: "ETHERNET",
        prefixes: "[10.4.0.0/24],[fd04::/64]",
    },
];

impl Plan {
    /// What goes between its ends.
    pub(crate) fn kind(&self) -> &'static str {
        match (self.is_remote, self.payload) {
            (false, _) => "kernel",
            (true, "IP") => "wireguard",
            (true, _) => "vxlan",
        }
    }

    /// The pod of the client, and the client.
    pub(crate) fn client(&self) -> String {
        format!("nsc-{}", self.number)
    }

    /// The pod of the endpoint, and the endpoint.
    pub(crate) fn endpoint(&self) -> String {
        format!("nse-{}", self.number)
    }

    /// The interface `name` of the client, as it asks for it.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("kernel://{}/{name}", self.service)
    }
}
