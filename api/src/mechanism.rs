// SPDX-License-Identifier: Apache-2.0
//! Mechanisms: how two neighbours on a path pass packets, and typed views of their parameters.
//!
//! On the wire a mechanism is a class, a type and a map of strings. A view such as [`Kernel`] gives its
//! parameters names and types. `Kernel::of(&mechanism)` reads, `Kernel::of(&mut mechanism)` also writes; both
//! are `None` when the mechanism is of another type:
//!
//! ```
//! use nsm_api::connection::Connection;
//! use nsm_api::mechanism::Kernel;
//!
//! let mechanism = Some(Kernel::at("file:///proc/7/ns/net"));
//! let mut connection = Connection { mechanism, ..Default::default() };
//! if let Some(mut kernel) = connection.mechanism.as_mut().and_then(Kernel::of) {
//!     kernel.set_interface_name("nsm-1");
//! }
//! let kernel = connection.mechanism.as_ref().and_then(Kernel::of).expect("of type KERNEL");
//! assert_eq!((kernel.interface_name(), kernel.vlan()), ("nsm-1", 0));
//! ```
//!
//! Peers write parameters as they like, so reading is lenient, as in every implementation of this protocol:
//! what is absent or cannot be read is the empty text, zero, false or `None`.

mod kernel;
mod other;
mod parameter;
mod tunnel;

pub use kernel::{Kernel, NatError};
pub use other::{Memif, Noop, Srv6, Vfio, Vlan};
pub use tunnel::{Ipsec, Vxlan, Wireguard};

use crate::connection::Mechanism;

/// The class of mechanisms between two programs on one node.
pub const LOCAL: &str = "LOCAL";
/// The class of mechanisms between two nodes.
pub const REMOTE: &str = "REMOTE";

/// A network interface of the kernel.
pub const KERNEL: &str = "KERNEL";
/// Memory that two VPP instances share.
pub const MEMIF: &str = "MEMIF";
/// A PCI function that a user-space driver owns.
pub const VFIO: &str = "VFIO";
/// Nothing: the wire is made by other means.
pub const NOOP: &str = "NOOP";
/// VXLAN, for Ethernet payloads.
pub const VXLAN: &str = "VXLAN";
/// WireGuard, for IP payloads.
pub const WIREGUARD: &str = "WIREGUARD";
/// IPsec, for IP payloads.
pub const IPSEC: &str = "IPSEC";
/// A VLAN of the network between the nodes.
pub const VLAN: &str = "VLAN";
/// Segment routing over IPv6.
pub const SRV6: &str = "SRV6";

/// The keys of parameters, as the wire spells them.
pub mod key {
    /// The tunnel address of the client's forwarder.
    pub const SRC_IP: &str = "src_ip";
    /// The tunnel address of the endpoint's forwarder.
    pub const DST_IP: &str = "dst_ip";
    /// The tunnel port of the client's forwarder.
    pub const SRC_PORT: &str = "src_port";
    /// The tunnel port of the endpoint's forwarder.
    pub const DST_PORT: &str = "dst_port";
    /// `src_ip` before a proxy between clusters replaced it.
    pub const SRC_ORIGINAL_IP: &str = "orig_src_ip";
    /// `dst_ip` before a proxy between clusters replaced it.
    pub const DST_ORIGINAL_IP: &str = "orig_dst_ip";
    /// The bytes that fit into one packet of a tunnel, layer 3.
    pub const MTU: &str = "MTU";
    /// The name of an interface.
    pub const INTERFACE_NAME: &str = "name";
    /// A file that one process lends another, as `file://` or, on the wire, `inode://`.
    pub const INODE_URL: &str = "inodeURL";
    /// The inode of a network namespace; no longer used.
    pub const NETNS_INODE: &str = "netnsInode";
    /// The address of a PCI function.
    pub const PCI_ADDRESS: &str = "pciAddress";
    /// The token under which a pod owns an SR-IOV function.
    pub const DEVICE_TOKEN_ID: &str = "tokenID";
    /// Whether a forwarder can trunk VLANs to an endpoint's interface.
    pub const SUPPORTS_VLAN: &str = "supportsVlan";
    /// The VLAN that an endpoint chose on its trunk.
    pub const KERNEL_VLAN: &str = "vlan";
    /// Whether loopback addresses may be routed through an interface.
    pub const ROUTE_LOCAL_NET: &str = "routeLocalNet";
    /// Rules of the NAT table, separated by semicolons, as templates.
    pub const NAT_TEMPLATE: &str = "IPTables4NatTemplate";
    /// The name of an abstract memif socket.
    pub const SOCKET_FILE: &str = "socketfile";
    /// The directory of a container's control group on the node.
    pub const CGROUP_DIR: &str = "cgroupDir";
    /// The IOMMU group of a PCI function.
    pub const IOMMU_GROUP: &str = "iommuGroup";
    /// The major number of `/dev/vfio/vfio`.
    pub const VFIO_MAJOR: &str = "vfioMajor";
    /// The minor number of `/dev/vfio/vfio`.
    pub const VFIO_MINOR: &str = "vfioMinor";
    /// The major number of the group's device.
    pub const DEVICE_MAJOR: &str = "deviceMajor";
    /// The minor number of the group's device.
    pub const DEVICE_MINOR: &str = "deviceMinor";
    /// The VXLAN network identifier.
    pub const VNI: &str = "vni";
    /// The client side's public key or certificate.
    pub const SRC_PUBLIC_KEY: &str = "src_public_key";
    /// The endpoint side's public key or certificate.
    pub const DST_PUBLIC_KEY: &str = "dst_public_key";
    /// The VLAN between two nodes.
    pub const VLAN_ID: &str = "vlan-id";
    /// The management address of the client's host.
    pub const SRC_HOST_IP: &str = "src_host_ip";
    /// The management address of the endpoint's host.
    pub const DST_HOST_IP: &str = "dst_host_ip";
    /// The binding segment of the client's side.
    pub const SRC_BSID: &str = "src_bsid";
    /// The binding segment of the endpoint's side.
    pub const DST_BSID: &str = "dst_bsid";
    /// The local segment of the client's side.
    pub const SRC_LOCAL_SID: &str = "src_localsid";
    /// The local segment of the endpoint's side.
    pub const DST_LOCAL_SID: &str = "dst_localsid";
    /// The local segment of the client's host.
    pub const SRC_HOST_LOCAL_SID: &str = "src_host_localsid";
    /// The local segment of the endpoint's host.
    pub const DST_HOST_LOCAL_SID: &str = "dst_host_localsid";
    /// The hardware address of the client's side.
    pub const SRC_HW_ADDR: &str = "src_hw_addr";
    /// The hardware address of the endpoint's side.
    pub const DST_HW_ADDR: &str = "dst_hw_addr";
}

impl Mechanism {
    /// A mechanism without parameters.
    pub fn new(cls: impl Into<String>, r#type: impl Into<String>) -> Self {
        Self {
            cls: cls.into(),
            r#type: r#type.into(),
            ..Default::default()
        }
    }

    /// Whether its class is `LOCAL`.
    pub fn is_local(&self) -> bool {
        self.cls == LOCAL
    }

    /// The parameter under `key`, empty if absent.
    pub fn parameter(&self, key: &str) -> &str {
        self.parameters.get(key).map_or("", String::as_str)
    }

    /// Sets the parameter under `key`.
    pub fn set_parameter(&mut self, key: &str, value: impl Into<String>) {
        self.parameters.insert(key.into(), value.into());
    }
}

#[cfg(test)]
mod tests;
