// SPDX-License-Identifier: Apache-2.0
//! `KERNEL`: an interface of the kernel in a network namespace.

use std::borrow::{Borrow, BorrowMut};

use thiserror::Error;

use super::parameter::{bits, parameters, view};
use super::{KERNEL, LOCAL, key};
use crate::connection::Mechanism;
use crate::connectioncontext::IpContext;
use crate::template::{Data, TemplateError, render};

view! {
    /// An interface of the kernel in a network namespace.
    Kernel = KERNEL
}

parameters! { Kernel:
    /// The interface's name; empty when whoever owns the namespace is to make one up. It is passed on as it
    /// is: [`crate::interface_name::check`] tells whether Linux takes it.
    interface_name, set_interface_name: str = INTERFACE_NAME;
    /// The network namespace: `file://` in a process, `inode://<dev>/<ino>` on the wire.
    netns_url, set_netns_url: str = INODE_URL;
    /// The address of the PCI function behind the interface, for SR-IOV.
    pci_address, set_pci_address: str = PCI_ADDRESS;
    /// The token under which the pod owns that function.
    device_token_id, set_device_token_id: str = DEVICE_TOKEN_ID;
    /// Whether the forwarder can trunk VLANs to an endpoint's interface.
    supports_vlan, set_supports_vlan: bool = SUPPORTS_VLAN;
    /// Whether loopback addresses may be routed through the interface.
    route_local_net, set_route_local_net: bool = ROUTE_LOCAL_NET;
}

/// Why the rules of a NAT template cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NatError {
    /// The mechanism has no template.
    #[error(
        "mechanism KERNEL has no parameter \"{}\", set it before its rules are made",
        key::NAT_TEMPLATE
    )]
    Absent,
    /// The template cannot be rendered.
    #[error("parameter \"{key}\" of mechanism KERNEL: {0}", key = key::NAT_TEMPLATE)]
    Template(TemplateError),
}

impl Kernel<Mechanism> {
    /// A mechanism for an interface in the network namespace at `netns_url`.
    pub fn at(netns_url: &str) -> Mechanism {
        let mut mechanism = Mechanism::new(LOCAL, KERNEL);
        mechanism.set_parameter(key::INODE_URL, netns_url);
        mechanism
    }
}

impl<M: Borrow<Mechanism>> Kernel<M> {
    /// The VLAN that the endpoint chose on its trunk, 12 bits; 0 when there is none or it cannot be read.
    pub fn vlan(&self) -> u16 {
        bits(self.mechanism().parameter(key::KERNEL_VLAN), 12)
    }

    /// The rules of the NAT table as templates, none if there is no such parameter.
    pub fn nat_template(&self) -> Option<Vec<&str>> {
        let rules = self.mechanism().parameters.get(key::NAT_TEMPLATE)?;
        Some(rules.split(';').collect())
    }

    /// The rules of the NAT table for the interface and addresses of a connection. The template knows
    /// `.NsmInterfaceName`, and `.NsmSrcIPs` and `.NsmDstIPs`, which are lists of addresses without masks.
    pub fn nat_rules(&self, ip: &IpContext) -> Result<Vec<String>, NatError> {
        let template = self.mechanism().parameters.get(key::NAT_TEMPLATE);
        let template = template.ok_or(NatError::Absent)?;
        let addresses = |nets: Vec<ipnet::IpNet>| -> Vec<String> {
            nets.into_iter().map(|net| net.addr().to_string()).collect()
        };
        let (src, dst) = (addresses(ip.src_nets()), addresses(ip.dst_nets()));
        let fields = [
            ("NsmInterfaceName", Data::Text(self.interface_name())),
            ("NsmSrcIPs", Data::List(&src)),
            ("NsmDstIPs", Data::List(&dst)),
        ];
        let rules = render(template, Data::Fields(&fields)).map_err(NatError::Template)?;
        Ok(rules.split(';').map(String::from).collect())
    }
}

impl<M: BorrowMut<Mechanism>> Kernel<M> {
    /// Sets [`Self::vlan`]; more than 12 bits read back as 0.
    pub fn set_vlan(&mut self, vlan: u16) {
        let mechanism = self.0.borrow_mut();
        mechanism.set_parameter(key::KERNEL_VLAN, vlan.to_string());
    }

    /// Sets [`Self::nat_template`]. No rule may hold a semicolon: it would be read as two.
    pub fn set_nat_template(&mut self, rules: &[&str]) {
        let mechanism = self.0.borrow_mut();
        mechanism.set_parameter(key::NAT_TEMPLATE, rules.join(";"));
    }
}
