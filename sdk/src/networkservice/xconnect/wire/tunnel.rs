// SPDX-License-Identifier: Apache-2.0
//! The way to another node, as a mechanism tells it.

use std::net::SocketAddr;

use nsm_api::connection::Mechanism;
use nsm_api::mechanism::{VXLAN, Vxlan as VxlanView, WIREGUARD, Wireguard, key};

use crate::core::{Error, Result};
use crate::dataplane::tunnel::{Tunnel, Vxlan, WireGuard};
use crate::dataplane::wireguard::Towards;
use crate::networkservice::tunnel::{port, remote};
use crate::networkservice::wireguard::public_key;

/// Whether a mechanism is a tunnel that can be made.
pub(super) fn is(mechanism: &Mechanism) -> bool {
    [VXLAN, WIREGUARD].contains(&mechanism.r#type.as_str())
}

/// The bytes that fit into one packet of the tunnel; 0 when unknown.
pub(super) fn mtu(mechanism: &Mechanism) -> u32 {
    let vxlan = VxlanView::of(mechanism).map(|vxlan| vxlan.mtu());
    let wireguard = Wireguard::of(mechanism).map(|wireguard| wireguard.mtu());
    vxlan.or(wireguard).unwrap_or(0)
}

/// The tunnel, seen from the node whose peer is `towards` there.
///
/// Errors: `bad-tunnel-ip`, `bad-port`, `bad-vni`, `bad-key`.
pub(super) fn of(mechanism: &Mechanism, towards: Towards) -> Result<Tunnel> {
    let (ours, theirs) = match towards {
        Towards::Client => (key::DST_IP, key::SRC_IP),
        Towards::Endpoint => (key::SRC_IP, key::DST_IP),
    };
    let local = mechanism.parameter(ours).parse().map_err(|_| {
        let text = format!(
            "{ours} of the tunnel is {:?}, which is no IP address",
            mechanism.parameter(ours)
        );
        Error::invalid("bad-tunnel-ip", text)
    })?;
    let far = remote(mechanism, theirs, local)?;
    if let Some(vxlan) = VxlanView::of(mechanism) {
        let vni = vxlan.vni();
        if vni == 0 {
            let text = format!("the VNI of the tunnel is {:?}", mechanism.parameter(key::VNI));
            return Err(Error::invalid("bad-vni", text));
        }
        return Ok(Tunnel::Vxlan(Vxlan {
            local,
            remote: far,
            port: port(mechanism, key::DST_PORT)?,
            vni,
        }));
    }
    let (their_port, their_key) = match towards {
        Towards::Client => (key::SRC_PORT, key::SRC_PUBLIC_KEY),
        Towards::Endpoint => (key::DST_PORT, key::DST_PUBLIC_KEY),
    };
    Ok(Tunnel::WireGuard(WireGuard {
        remote: SocketAddr::new(far, port(mechanism, their_port)?),
        public_key: public_key(mechanism, their_key)?,
    }))
}
