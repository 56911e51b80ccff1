// SPDX-License-Identifier: Apache-2.0
//! Our address for tunnels to other nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use tracing::{info, warn};

/// Addresses that belong to nobody (RFC 5737, RFC 3849), so that the way there is the default route. IPv4 counts first.
const ANYBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The address that is set, or else that of the default route; none when wires stay on this node.
pub(crate) fn choose(set: Option<IpAddr>) -> Option<IpAddr> {
    match set {
        Some(ip) if ip.is_loopback() => {
            info!(%ip, "NSM_TUNNEL_IP is reached from this node only: wires stay on it");
            None
        }
        Some(ip) => Some(ip),
        None => {
            let found = ANYBODY.into_iter().find_map(source);
            match found {
                Some(ip) => info!(%ip, "NSM_TUNNEL_IP is not set: the address of the default route is taken"),
                None => warn!("no NSM_TUNNEL_IP and no default route: wires stay on this node"),
            }
            found
        }
    }
}

/// The address from which packets to another one would go. None is sent.
fn source(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // The port is that of discard; any will do.
    socket.connect((to, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    let is_of_a_link = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    (!ip.is_loopback() && !ip.is_unspecified() && !is_of_a_link).then_some(ip)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The source of the route to `to`, as `ip` tells it.
    fn told(to: IpAddr) -> Option<IpAddr> {
        let route = Command::new("ip")
            .args(["route", "get", &to.to_string()])
            .output()
            .expect("ip starts");
        let text = String::from_utf8(route.stdout).expect("a text");
        let mut words = text.split_whitespace().skip_while(|word| *word != "src");
        words.nth(1).map(|ip| ip.parse().expect("an address"))
    }

    #[test]
    fn without_a_setting_it_is_the_address_of_the_default_route() {
        let expected = ANYBODY.into_iter().find_map(told);
        assert_eq!(choose(None), expected);
    }

    #[test]
    fn what_is_set_counts_unless_no_other_node_can_reach_it() {
        let ip = |text: &str| Some(text.parse().expect("an address"));
        for set in ["10.0.0.1", "2001:db8::7"] {
            assert_eq!(choose(ip(set)), ip(set));
        }
        for set in ["127.0.0.1", "::1"] {
            assert_eq!(choose(ip(set)), None, "{set}");
        }
    }

    #[test]
    fn an_address_of_this_node_alone_is_none() {
        assert_eq!(source(Ipv4Addr::LOCALHOST.into()), None);
    }
}
