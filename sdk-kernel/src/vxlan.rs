// SPDX-License-Identifier: Apache-2.0
//! VXLAN devices: made in place in a pod by one message, with their socket in our own namespace.
//!
//! **Guarantees**: point to point: the default entry of the forwarding table leads to the other node, and nothing is
//! learnt. The kernel lets one device of the node have a number on a port, in whatever namespace.
//! **Cost**: making one takes the kernel 0.3 ms, and no packet passes through this program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo};
use nsm_sdk::core::Error;
use nsm_sdk::dataplane::tunnel::Vxlan;
use tonic::Code;

use crate::answer::Refusal;
use crate::asked::Device;
use crate::netlink::Request;
use crate::veth::Half;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// The request for the device of a tunnel, which is down.
pub(crate) fn device(half: &Half<'_>, vxlan: &Vxlan, group: u32) -> Request {
    let mut message = half.message(group);
    let addresses = match (vxlan.local, vxlan.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => [InfoVxlan::Local(local), InfoVxlan::Group(remote)],
        (local, remote) => [InfoVxlan::Local6(v6(local)), InfoVxlan::Group6(v6(remote))],
    };
    let mut data = vec![
        InfoVxlan::Id(vxlan.vni),
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(false),
    ];
    data.extend(addresses);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(data)),
    ]));
    Request::create(RouteNetlinkMessage::NewLink(message))
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Reads what a link says of its kind, `IFLA_LINKINFO`.
pub(crate) fn parse(info: &[u8]) -> Device {
    let kind = attribute(info, IFLA_INFO_KIND).unwrap_or_default();
    match kind.strip_suffix(b"\0").unwrap_or(&kind) {
        b"vxlan" => tunnel(info).map_or(Device::Veth, Device::Vxlan),
        b"wireguard" | b"tun" => Device::WireGuard,
        _ => Device::Veth,
    }
}

/// The port and the number of a link of this kind.
pub(crate) fn number(info: &[u8]) -> Option<(u16, u32)> {
    attribute(info, IFLA_INFO_KIND).filter(|kind| kind.starts_with(b"vxlan"))?;
    let data = attribute(info, IFLA_INFO_DATA)?;
    let port = attribute(&data, IFLA_VXLAN_PORT)?.try_into().ok()?;
    let vni = attribute(&data, IFLA_VXLAN_ID)?.try_into().ok()?;
    Some((u16::from_be_bytes(port), u32::from_ne_bytes(vni)))
}

fn attribute(info: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut attributes = NlasIterator::new(info).flatten();
    let found = attributes.find(|attribute| attribute.kind() == kind)?;
    Some(found.value().to_vec())
}

/// `None`: it is not between two addresses.
fn tunnel(info: &[u8]) -> Option<Vxlan> {
    let data = attribute(info, IFLA_INFO_DATA)?;
    let (mut vni, mut port, mut local, mut remote) = (None, None, None, None);
    for attribute in NlasIterator::new(data.as_slice()).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            IFLA_VXLAN_ID => vni = value.try_into().ok().map(u32::from_ne_bytes),
            IFLA_VXLAN_PORT => port = value.try_into().ok().map(u16::from_be_bytes),
            IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => remote = ip(value),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => local = ip(value),
            _ => {}
        }
    }
    Some(Vxlan {
        local: local?,
        remote: remote?,
        port: port?,
        vni: vni?,
    })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(value).map(|bytes| Ipv4Addr::from(bytes).into());
    let six = || <[u8; 16]>::try_from(value).map(|bytes| Ipv6Addr::from(bytes).into());
    four.or_else(|_| six()).ok()
}

/// Whether the kernel says no to a device because of its number.
pub(crate) fn is_taken(refusal: &Refusal) -> bool {
    refusal.text.as_deref().is_some_and(|text| text.contains("VNI"))
}

/// Another device of the node has the number.
pub(crate) fn taken(vxlan: &Vxlan, holder: Option<&str>) -> Error {
    let Vxlan { vni, port, .. } = vxlan;
    let holder = match holder {
        Some(connection) => format!("that of connection {connection}"),
        None => "one that was not made by this forwarder".into(),
    };
    Error::new(
        Code::AlreadyExists,
        "vni-taken",
        format!(
            "another VXLAN device of this node, {holder}, has the VNI {vni} on UDP port {port}; ask for another VNI"
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse(&bytes), number(&bytes));
        }
    }
}
