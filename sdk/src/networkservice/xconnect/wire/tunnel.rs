// SPDX-License-Identifier: Apache-2.0
//! The way to another node, as a mechanism tells it.

use std::net::SocketAddr;

use nsm_api::connection::{Connection, Mechanism};
use nsm_api::mechanism::{VXLAN, Vxlan as VxlanView, WIREGUARD, Wireguard, key};

use uuid::Uuid;

use super::super::plane::Part;
use crate::core::{Error, Result};
use crate::dataplane::tunnel::{NODE, RemoteWire, Transit, Tunnel, Vxlan, WireGuard};
use crate::dataplane::wireguard::{Towards, TunnelId};
use crate::dataplane::{Interface, Payload};
use crate::networkservice::tunnel::{lowest, port, remote};
use crate::networkservice::wireguard::public_key;
use crate::networkservice::wireid::wire_id;

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

/// The wire from one tunnel to another of the same kind.
///
/// Errors: those of [`of`], `no-path`, `bad-mtu`.
pub(super) fn transit(
    connection: &Connection,
    payload: Payload,
    upstream: &Mechanism,
    downstream: &Mechanism,
) -> Result<Part> {
    let half = |towards, mechanism: &Mechanism| -> Result<RemoteWire> {
        let id = TunnelId {
            connection: wire_id(connection)?,
            towards,
        };
        let interface = Interface {
            netns: NODE.into(),
            name: name(&id),
            passes: true,
            ..Interface::default()
        };
        let fits = lowest(mtu(upstream), mtu(downstream));
        Ok(RemoteWire {
            mtu: super::mtu(connection, fits, [&interface])?,
            id,
            payload,
            interface,
            tunnel: of(mechanism, towards)?,
        })
    };
    Ok(Part::Transit(Box::new(Transit {
        client: half(Towards::Client, upstream)?,
        endpoint: half(Towards::Endpoint, downstream)?,
    })))
}

/// What the device of a tunnel is called on the node: always the same, so that the next life of the program finds it.
fn name(id: &TunnelId) -> String {
    const DIGITS: usize = 10;
    let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, id.connection.as_bytes()).simple();
    let towards = match id.towards {
        Towards::Client => 'c',
        Towards::Endpoint => 'e',
    };
    format!("nsm-{:.DIGITS$}{towards}", digest.to_string())
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
