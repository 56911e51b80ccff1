// SPDX-License-Identifier: Apache-2.0
//! Keys, ports and peers of a device, said to the kernel and read from it.
//!
//! **Placement**: on a thread that is in the device's namespace: the crate behind this opens its sockets there.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use nsm_sdk::core::{Error, Result};
use rustix::io::Errno;
use wireguard_control::{
    Backend, Device as Seen, DeviceUpdate, InterfaceName, Key, PeerConfig, PeerConfigBuilder,
};

use crate::key::{PrivateKey, PublicKey};
use crate::link::{Link, Netlink, refused};
use crate::tunnel::{Peer, Tunnel};

/// What is being tried, for errors.
pub(super) fn aim(tunnel: &Tunnel) -> String {
    let (name, netns) = (&tunnel.name, tunnel.netns.display());
    format!(
        "make the WireGuard device {name} in {netns} with port {}",
        tunnel.listen_port
    )
}

fn named(name: &str) -> Result<InterfaceName> {
    name.parse()
        .map_err(|error| Error::invalid("bad-interface-name", format!("{name:?}: {error}")))
}

/// Configures the device `index`, which is in the namespace of the calling thread.
pub(super) fn apply(netlink: &mut Netlink, index: u32, tunnel: &Tunnel, update: DeviceUpdate) -> Result<()> {
    let applied = update.apply(&named(&tunnel.name)?, Backend::Kernel);
    applied.map_err(|error| unapplied(&aim(tunnel), &error))?;
    let now = netlink.find(&tunnel.name).ok().flatten();
    match now {
        Some(link) if link.index == index => Ok(()),
        stray => {
            // The device had just been removed, so that the call made one of its own, which is nobody's.
            if let Some(stray) = stray.filter(|link| link.is_wireguard && link.group == 0 && !link.is_up) {
                let _ = netlink.remove(stray.index);
            }
            Err(refused(&aim(tunnel), Errno::NODEV))
        }
    }
}

fn unapplied(aim: &str, error: &io::Error) -> Error {
    refused(aim, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// What the kernel has under this name in the namespace of the calling thread.
pub(super) fn look(name: &str) -> Result<Seen> {
    Seen::get(&named(name)?, Backend::Kernel)
        .map_err(|error| unapplied(&format!("read the WireGuard device {name}"), &error))
}

/// All that a tunnel is but its port.
pub(super) fn whole(tunnel: &Tunnel) -> DeviceUpdate {
    let update = DeviceUpdate::new()
        .set_private_key(Key(*tunnel.private_key.bytes()))
        .replace_peers();
    tunnel
        .peers
        .iter()
        .fold(update, |update, peer| update.add_peer(builder(peer, true)))
}

/// What differs between `before` and `after`. Where a peer was heard from stays, unless its endpoint was changed.
pub(super) fn difference(before: &Tunnel, after: &Tunnel, port: Option<u16>) -> DeviceUpdate {
    // Handshakes with another key are nobody's any more, and the kernel forgets them with their peers only.
    let is_other = before.private_key != after.private_key;
    let mut update = if is_other {
        whole(after)
    } else {
        DeviceUpdate::new()
    };
    if let Some(port) = port {
        update = update.set_listen_port(port);
    }
    if is_other {
        return update;
    }
    for old in &before.peers {
        if !after.peers.iter().any(|peer| peer.public_key == old.public_key) {
            update = update.remove_peer_by_key(&Key(*old.public_key.as_bytes()));
        }
    }
    for new in &after.peers {
        let old = before.peers.iter().find(|old| old.public_key == new.public_key);
        if old != Some(new) {
            let has_moved = old.is_none_or(|old| old.endpoint != new.endpoint);
            update = update.add_peer(builder(new, has_moved));
        }
    }
    update
}

fn builder(peer: &Peer, with_endpoint: bool) -> PeerConfigBuilder {
    let mut builder = PeerConfigBuilder::new(&Key(*peer.public_key.as_bytes())).replace_allowed_ips();
    if with_endpoint {
        builder = builder.set_endpoint(peer.endpoint);
    }
    builder = match peer.keepalive_seconds() {
        Some(keepalive) => builder.set_persistent_keepalive_interval(keepalive),
        None => builder.unset_persistent_keepalive(),
    };
    (peer.allowed.iter()).fold(builder, |builder, net| {
        builder.add_allowed_ip(net.network(), net.prefix_len())
    })
}

/// What the kernel has, as a tunnel. Peers without an endpoint cannot be ours.
pub(super) fn as_tunnel(seen: &Seen, link: &Link, netns: &Path, name: &str) -> Tunnel {
    let key = seen.private_key.as_ref().map_or([0; 32], |key| key.0);
    Tunnel {
        id: link.alias.clone(),
        netns: netns.to_path_buf(),
        name: name.to_owned(),
        mtu: link.mtu,
        private_key: PrivateKey::from_bytes(&key),
        listen_port: seen.listen_port.unwrap_or_default(),
        peers: seen
            .peers
            .iter()
            .filter_map(|peer| as_peer(&peer.config))
            .collect(),
    }
}

fn as_peer(config: &PeerConfig) -> Option<Peer> {
    let prefix = |address: IpAddr, length: u8| IpNet::new(address, length).ok();
    let mut allowed: Vec<_> = (config.allowed_ips.iter())
        .filter_map(|allowed| prefix(allowed.address, allowed.cidr))
        .collect();
    allowed.sort_unstable();
    Some(Peer {
        public_key: PublicKey::from(config.public_key.0),
        endpoint: config.endpoint?,
        allowed,
        keepalive: (config.persistent_keepalive_interval)
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.into())),
    })
}
