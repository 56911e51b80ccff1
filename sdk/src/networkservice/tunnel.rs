// SPDX-License-Identifier: Apache-2.0
//! What the mechanisms of tunnels have in common: how the parameters of a peer are read.

use std::net::IpAddr;

use nsm_api::connection::{Connection, Mechanism};

use crate::core::{Error, Result};

/// The smaller of two MTUs, of which 0 says nothing.
pub(super) fn lowest(theirs: u32, ours: u32) -> u32 {
    if theirs == 0 { ours } else { theirs.min(ours) }
}

/// Makes the connection carry no more in one packet than a tunnel does.
pub(super) fn narrow(connection: &mut Connection, mtu: u32) {
    let context = connection.context.get_or_insert_default();
    context.mtu = lowest(context.mtu, mtu);
}

/// The port under `key`. Errors: `bad-port`.
pub(super) fn port(mechanism: &Mechanism, key: &str) -> Result<u16> {
    let text = mechanism.parameter(key);
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| {
        let kind = &mechanism.r#type;
        let text = format!("{key} of the {kind} tunnel is {text:?}, which is no port between 1 and 65535");
        Error::invalid("bad-port", text)
    })
}

/// The address of the other node under `key`, of the family of `local`. Errors: `bad-tunnel-ip`.
pub(super) fn remote(mechanism: &Mechanism, key: &str, local: IpAddr) -> Result<IpAddr> {
    let (kind, text) = (&mechanism.r#type, mechanism.parameter(key));
    let bad = |why: &str| {
        let text = format!("{key} of the {kind} tunnel is {text:?}, {why}");
        Err(Error::invalid("bad-tunnel-ip", text))
    };
    match text.parse::<IpAddr>() {
        Err(_) => bad("which is no IP address"),
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => bad("which is no address of a node"),
        Ok(ip) if ip.is_ipv4() != local.is_ipv4() => {
            let families = if local.is_ipv4() { "IPv4" } else { "IPv6" };
            bad(&format!(
                "but tunnels of this node go from {local}: give both nodes tunnel addresses of {families}"
            ))
        }
        Ok(ip) if ip == local => bad("which is this node's own tunnel address"),
        Ok(ip) => Ok(ip),
    }
}

#[cfg(test)]
mod tests {
    use nsm_api::mechanism::{REMOTE, VXLAN};

    use super::*;

    fn with(key: &str, value: &str) -> Mechanism {
        let mut mechanism = Mechanism::new(REMOTE, VXLAN);
        mechanism.set_parameter(key, value);
        mechanism
    }

    #[test]
    fn what_is_no_port_is_refused_by_its_text() {
        assert_eq!(port(&with("src_port", "4789"), "src_port").unwrap(), 4789);
        for bad in ["", "0", "70000", "-1", "http"] {
            let error = port(&with("src_port", bad), "src_port").unwrap_err();
            assert!(error.reason() == "bad-port" && error.text().contains(&format!("{bad:?}")));
        }
    }

    #[test]
    fn what_is_no_address_of_another_node_is_refused_by_its_text() {
        let local = "10.0.0.1".parse().unwrap();
        let far = remote(&with("src_ip", "10.0.0.2"), "src_ip", local).unwrap();
        assert_eq!(far, "10.0.0.2".parse::<IpAddr>().unwrap());
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.300",
            "0.0.0.0",
            "224.0.0.1",
            "2001:db8::1",
        ] {
            let error = remote(&with("src_ip", bad), "src_ip", local).unwrap_err();
            assert!(
                error.reason() == "bad-tunnel-ip" && error.text().contains(bad),
                "{error}"
            );
        }
    }

    #[test]
    fn an_mtu_of_0_says_nothing() {
        assert_eq!(
            (lowest(0, 1446), lowest(1400, 1446), lowest(9000, 1446)),
            (1446, 1400, 1446)
        );
    }
}
