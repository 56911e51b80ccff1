// SPDX-License-Identifier: Apache-2.0
//! What a tunnel is to be, and what became of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use nsm_sdk::core::{Error, Result};

use crate::key::{PrivateKey, PublicKey};

/// How many peers a tunnel may have. A connection has one, or two while it changes.
pub const MAX_PEERS: usize = 16;

/// How many prefixes a peer may have.
pub const MAX_ALLOWED: usize = 64;

/// The bytes that WireGuard adds to a packet: an IPv4 underlay takes 60 of them, an IPv6 one 80.
const MTUS: std::ops::RangeInclusive<u32> = 576..=65_400;

/// How often a peer hears of us at least, in the reference: it keeps firewalls on the way open.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// A tunnel: a device in the namespace of a pod whose packets go encrypted to peers, by UDP from the namespace of
/// the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What the tunnel is of: the id of a connection, and its end. One id is one device.
    pub id: String,
    /// A file from which the pod's network namespace can be opened.
    pub netns: PathBuf,
    /// The device's name, at most 15 bytes.
    pub name: String,
    /// The MTU of the device, bytes.
    pub mtu: u32,
    /// The key of this end.
    pub private_key: PrivateKey,
    /// The UDP port of this end in the node's namespace. Zero leaves the choice to the engine, which keeps to it.
    pub listen_port: u16,
    /// The other ends. There may be none yet: so a port and a key are known before the other end is.
    pub peers: Vec<Peer>,
}

/// Another end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub public_key: PublicKey,
    /// Where it is. It may move: packets go to where it was last heard from, until this is changed.
    pub endpoint: SocketAddr,
    /// The addresses that it may send from and that packets are sent to it for.
    pub allowed: Vec<IpNet>,
    /// How often it hears of us at least; whole seconds. It also makes the first handshake begin at once.
    pub keepalive: Option<Duration>,
}

impl Peer {
    /// The only peer of a connection: everything goes to it, since routes decide what does.
    pub fn only(public_key: PublicKey, endpoint: SocketAddr) -> Self {
        Self {
            public_key,
            endpoint,
            allowed: everything().to_vec(),
            keepalive: Some(KEEPALIVE),
        }
    }

    /// The keepalive as the protocol counts it.
    pub(crate) fn keepalive_seconds(&self) -> Option<u16> {
        self.keepalive
            .map(|keepalive| u16::try_from(keepalive.as_secs()).unwrap_or(u16::MAX))
    }
}

/// All addresses of both families.
pub(crate) fn everything() -> [IpNet; 2] {
    [
        IpNet::V4(ipnet::Ipv4Net::default()),
        IpNet::V6(ipnet::Ipv6Net::default()),
    ]
}

/// A tunnel as it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// The device's index in the pod's namespace.
    pub index: u32,
    /// The UDP port in the node's namespace.
    pub listen_port: u16,
}

/// What went to and came from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// The peer.
    pub public_key: PublicKey,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// How long ago the last handshake was, if there was one.
    pub last_handshake: Option<Duration>,
}

/// Refuses what no engine could make.
///
/// Errors: `bad-tunnel`, `bad-interface-name`.
pub(crate) fn check(tunnel: &Tunnel) -> Result<()> {
    check_name(&tunnel.name)?;
    let bad = |what: String| {
        let id = tunnel.id.chars().take(64).collect::<String>();
        Err(Error::invalid("bad-tunnel", format!("tunnel {id}: {what}")))
    };
    if !MTUS.contains(&tunnel.mtu) {
        let (least, most) = (MTUS.start(), MTUS.end());
        return bad(format!(
            "the MTU {} is not between {least} and {most}",
            tunnel.mtu
        ));
    }
    if tunnel.peers.len() > MAX_PEERS {
        return bad(format!("{} peers are more than {MAX_PEERS}", tunnel.peers.len()));
    }
    let mut keys = BTreeSet::new();
    for peer in &tunnel.peers {
        let key = peer.public_key;
        if !keys.insert(key) {
            return bad(format!("the peer {key} is there twice"));
        }
        if key == tunnel.private_key.public() {
            return bad(format!("the peer {key} has this end's own key"));
        }
        if key.as_bytes() == &[0; 32] {
            return bad("a peer's key is all zero".into());
        }
        if peer.endpoint.port() == 0
            || peer.endpoint.ip().is_unspecified()
            || peer.endpoint.ip().is_multicast()
        {
            return bad(format!("nothing can be sent to a peer at {}", peer.endpoint));
        }
        if peer.allowed.len() > MAX_ALLOWED {
            return bad(format!(
                "{} prefixes of one peer are more than {MAX_ALLOWED}",
                peer.allowed.len()
            ));
        }
        let is_exact = |keepalive: Duration| {
            keepalive.subsec_nanos() == 0 && (1..=u64::from(u16::MAX)).contains(&keepalive.as_secs())
        };
        if peer.keepalive.is_some_and(|keepalive| !is_exact(keepalive)) {
            return bad(format!("a keepalive is 1 to {} whole seconds", u16::MAX));
        }
    }
    Ok(())
}

/// Refuses what the kernel does not take as the name of one interface.
fn check_name(name: &str) -> Result<()> {
    let is_bad_byte = |byte: u8| byte == b'/' || byte == b':' || byte == b'%' || !byte.is_ascii_graphic();
    if name.is_empty()
        || name.len() > 15
        || [".", "..", "all", "default"].contains(&name)
        || name.bytes().any(is_bad_byte)
    {
        let name = name.escape_default().take(64).collect::<String>();
        return Err(Error::invalid(
            "bad-interface-name",
            format!(
                "{name:?} cannot be the name of an interface: 1 to 15 printable characters, none of / : %"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel() -> Tunnel {
        let peer = PrivateKey::random().expect("randomness").public();
        Tunnel {
            id: "c".into(),
            netns: "/proc/self/ns/net".into(),
            name: "nsm".into(),
            mtu: 1420,
            private_key: PrivateKey::random().expect("randomness"),
            listen_port: 0,
            peers: vec![Peer::only(peer, "192.0.2.1:51820".parse().expect("an address"))],
        }
    }

    fn refused(change: impl FnOnce(&mut Tunnel)) -> Error {
        let mut tunnel = tunnel();
        check(&tunnel).expect("good");
        change(&mut tunnel);
        check(&tunnel).expect_err("bad")
    }

    #[test]
    fn what_no_engine_could_make_is_refused() {
        let reasons = [
            refused(|tunnel| tunnel.mtu = 100),
            refused(|tunnel| tunnel.mtu = 70_000),
            refused(|tunnel| tunnel.peers.push(tunnel.peers[0].clone())),
            refused(|tunnel| tunnel.peers[0].public_key = tunnel.private_key.public()),
            refused(|tunnel| tunnel.peers[0].public_key = PublicKey([0; 32])),
            refused(|tunnel| tunnel.peers[0].endpoint.set_port(0)),
            refused(|tunnel| tunnel.peers[0].endpoint = "0.0.0.0:1".parse().expect("an address")),
            refused(|tunnel| tunnel.peers[0].keepalive = Some(Duration::ZERO)),
            refused(|tunnel| tunnel.peers[0].keepalive = Some(Duration::from_millis(1500))),
            refused(|tunnel| tunnel.peers[0].allowed = vec![everything()[0]; MAX_ALLOWED + 1]),
        ];
        for error in reasons {
            assert_eq!(error.reason(), "bad-tunnel", "{error}");
        }
    }

    #[test]
    fn a_name_that_the_kernel_does_not_take_is_refused() {
        for name in ["", ".", "all", "a/b", "a b", "wg%d", "sixteen-bytes-ab", "\u{e4}"] {
            let error = refused(|tunnel| tunnel.name = name.into());
            assert_eq!(error.reason(), "bad-interface-name", "{name}");
        }
    }

    #[test]
    fn a_tunnel_can_be_logged() {
        let tunnel = tunnel();
        let secret = format!("{:?}", tunnel.private_key.bytes());
        assert!(!format!("{tunnel:?}").contains(&secret));
    }
}
