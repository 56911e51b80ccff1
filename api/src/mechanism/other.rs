// SPDX-License-Identifier: Apache-2.0
//! The mechanisms that are little more than a table of parameters.

use std::borrow::{Borrow, BorrowMut};

use super::parameter::{bits, parameters, view};
use super::{LOCAL, MEMIF, VFIO, key};
use crate::connection::Mechanism;

view! {
    /// Memory that two VPP instances share through a socket.
    Memif = MEMIF
}

parameters! { Memif:
    /// The name of the abstract socket, which starts with `@`; empty for a socket in the file system.
    socket_file, set_socket_file: str = SOCKET_FILE;
    /// For an abstract socket its network namespace, otherwise the socket itself: `file://` in a process,
    /// `inode://<dev>/<ino>` on the wire.
    inode_url, set_inode_url: str = INODE_URL;
}

impl Memif<Mechanism> {
    /// A mechanism for the socket at `path`, or for an abstract socket in the network namespace at `path`.
    pub fn at(path: &str) -> Mechanism {
        let mut mechanism = Mechanism::new(LOCAL, MEMIF);
        mechanism.set_parameter(key::INODE_URL, format!("file://{path}"));
        mechanism
    }
}

view! {
    /// A PCI function that a user-space driver owns.
    Vfio = VFIO
}

parameters! { Vfio:
    /// The directory of the container's control group on the node.
    cgroup_dir, set_cgroup_dir: str = CGROUP_DIR;
    /// The IOMMU group of the function.
    iommu_group, set_iommu_group: u64 = IOMMU_GROUP;
    /// The address of the function.
    pci_address, set_pci_address: str = PCI_ADDRESS;
    /// The token under which the pod owns the function.
    device_token_id, set_device_token_id: str = DEVICE_TOKEN_ID;
    /// The major number of `/dev/vfio/vfio`.
    vfio_major, set_vfio_major: u32 = VFIO_MAJOR;
    /// The minor number of `/dev/vfio/vfio`.
    vfio_minor, set_vfio_minor: u32 = VFIO_MINOR;
    /// The major number of the group's device.
    device_major, set_device_major: u32 = DEVICE_MAJOR;
    /// The minor number of the group's device.
    device_minor, set_device_minor: u32 = DEVICE_MINOR;
}

impl Vfio<Mechanism> {
    /// A mechanism for the container whose control group is at `cgroup_dir`.
    pub fn at(cgroup_dir: &str) -> Mechanism {
        let mut mechanism = Mechanism::new(LOCAL, VFIO);
        mechanism.set_parameter(key::CGROUP_DIR, cgroup_dir);
        mechanism
    }
}

view! {
    /// Nothing: the wire is made by other means. It has no parameters.
    Noop = NOOP
}

view! {
    /// A VLAN of the network between two nodes.
    Vlan = VLAN
}

impl<M: Borrow<Mechanism>> Vlan<M> {
    /// The VLAN, 12 bits; 0 for untagged, and when it cannot be read.
    pub fn id(&self) -> u16 {
        bits(self.mechanism().parameter(key::VLAN_ID), 12)
    }
}

impl<M: BorrowMut<Mechanism>> Vlan<M> {
    /// Sets [`Self::id`]; more than 12 bits read back as 0.
    pub fn set_id(&mut self, id: u16) {
        let mechanism = self.0.borrow_mut();
        mechanism.set_parameter(key::VLAN_ID, id.to_string());
    }
}

view! {
    /// Segment routing over IPv6. No known forwarder speaks it.
    Srv6 = SRV6
}

parameters! { Srv6:
    /// The management address of the client's host.
    src_host_ip, set_src_host_ip: ip = SRC_HOST_IP;
    /// The management address of the endpoint's host.
    dst_host_ip, set_dst_host_ip: ip = DST_HOST_IP;
    /// The binding segment of the client's side.
    src_bsid, set_src_bsid: ip = SRC_BSID;
    /// The binding segment of the endpoint's side.
    dst_bsid, set_dst_bsid: ip = DST_BSID;
    /// The local segment of the client's side.
    src_local_sid, set_src_local_sid: ip = SRC_LOCAL_SID;
    /// The local segment of the endpoint's side.
    dst_local_sid, set_dst_local_sid: ip = DST_LOCAL_SID;
    /// The local segment of the client's host.
    src_host_local_sid, set_src_host_local_sid: ip = SRC_HOST_LOCAL_SID;
    /// The local segment of the endpoint's host.
    dst_host_local_sid, set_dst_host_local_sid: ip = DST_HOST_LOCAL_SID;
    /// The hardware address of the client's side.
    src_hw_addr, set_src_hw_addr: str = SRC_HW_ADDR;
    /// The hardware address of the endpoint's side.
    dst_hw_addr, set_dst_hw_addr: str = DST_HW_ADDR;
}
