// SPDX-License-Identifier: Apache-2.0
//! Whether what is asked for can be at all.

use std::net::IpAddr;

use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::tunnel::Vxlan;
use nsm_sdk::dataplane::{Interface, Payload};

use crate::asked::{Asked, Device};

/// How many addresses, routes, neighbours, peers and policies an interface can have, of each.
const MAX_ITEMS: usize = 4096;

/// How long the id of a connection can be: an alias has room for 255 bytes.
const MAX_ID: usize = 240;

/// The numbers of VXLAN tunnels (RFC 7348).
const VNIS: std::ops::RangeInclusive<u32> = 1..=0x00ff_ffff;

/// How long an interface's name can be, from `IFNAMSIZ`.
const MAX_NAME: usize = 15;

/// Whether `wire` can be made at all.
///
/// Errors: `bad-connection-id`, `bad-interface-name`, `bad-vni`, `bad-port`, `bad-tunnel-ip`, `bad-payload`,
/// `too-many-items`.
pub(crate) fn check(wire: &Asked) -> Result<()> {
    carried(&wire.device, wire.payload)?;
    if let Device::Vxlan(vxlan) = &wire.device {
        tunnel(vxlan)?;
    }
    let id = &wire.connection;
    if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
        return Err(Error::invalid(
            "bad-connection-id",
            format!("the connection id {id:?} must have 1 to {MAX_ID} bytes and no control characters"),
        ));
    }
    for interface in wire.interfaces() {
        let name = &interface.name;
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
        let is_special = [".", "..", "all", "default"].contains(&name.as_str());
        if name.is_empty() || name.len() > MAX_NAME || is_special || name.contains(is_bad) {
            return Err(bad_name(name, "is not one"));
        }
        let Interface {
            addresses,
            routes,
            neighbours,
            peers,
            policies,
            ..
        } = interface;
        let lengths = [
            addresses.len(),
            routes.len(),
            neighbours.len(),
            peers.len(),
            policies.len(),
        ];
        let in_policies: usize = policies.iter().map(|policy| policy.routes.len()).sum();
        if lengths
            .into_iter()
            .chain([in_policies])
            .any(|length| length > MAX_ITEMS)
        {
            return Err(Error::exhausted(
                "too-many-items",
                format!(
                    "the interface {name} is to have more than {MAX_ITEMS} addresses, routes or policies"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether the device carries the payload.
fn carried(device: &Device, payload: Payload) -> Result<()> {
    let text = match (device, payload) {
        (Device::Vxlan(_), Payload::Ip) => "a VXLAN tunnel carries Ethernet frames, and the payload is IP",
        (Device::WireGuard, Payload::Ethernet) => {
            "a WireGuard tunnel carries IP, and the payload is ETHERNET"
        }
        _ => return Ok(()),
    };
    Err(Error::invalid("bad-payload", text))
}

/// Whether a tunnel can be.
fn tunnel(vxlan: &Vxlan) -> Result<()> {
    let Vxlan {
        local,
        remote,
        port,
        vni,
    } = vxlan;
    if !VNIS.contains(vni) {
        let text = format!("the VNI {vni} is not between {} and {}", VNIS.start(), VNIS.end());
        return Err(Error::invalid("bad-vni", text));
    }
    if *port == 0 {
        return Err(Error::invalid(
            "bad-port",
            "a tunnel needs a UDP port other than 0",
        ));
    }
    let is_one = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast();
    if local.is_ipv4() != remote.is_ipv4() || !is_one(local) || !is_one(remote) {
        let text =
            format!("a tunnel cannot lead from {local} to {remote}: two addresses of one family are needed");
        return Err(Error::invalid("bad-tunnel-ip", text));
    }
    Ok(())
}

pub(crate) fn bad_name(name: &str, why: &str) -> Error {
    Error::invalid(
        "bad-interface-name",
        format!(
            "the interface name {name:?} {why}: 1 to {MAX_NAME} bytes without white space, /, : or %, and none of \
             ., .., all and default"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(device: Device, payload: Payload) -> Asked {
        Asked {
            connection: "c".into(),
            payload,
            mtu: 1400,
            device,
            ends: Vec::new(),
        }
    }

    #[test]
    fn a_tunnel_carries_what_its_kind_can() {
        let vxlan = Device::Vxlan(Vxlan {
            local: [10, 77, 0, 1].into(),
            remote: [10, 77, 0, 2].into(),
            port: 4789,
            vni: 7,
        });
        for (device, carries, refuses) in [
            (vxlan, Payload::Ethernet, Payload::Ip),
            (Device::WireGuard, Payload::Ip, Payload::Ethernet),
        ] {
            check(&asked(device, carries)).expect("can be");
            let error = check(&asked(device, refuses)).expect_err("cannot be");
            assert_eq!(error.reason(), "bad-payload", "{device:?}: {error}");
        }
        for payload in [Payload::Ethernet, Payload::Ip] {
            check(&asked(Device::Veth, payload)).expect("a pair carries both");
        }
    }
}
