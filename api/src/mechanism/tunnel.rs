// SPDX-License-Identifier: Apache-2.0
//! `VXLAN`, `WIREGUARD` and `IPSEC`: tunnels between the forwarders of two nodes.

use std::borrow::{Borrow, BorrowMut};
use std::net::{IpAddr, Ipv6Addr};

use super::key;
use super::parameter::{bits, parameters, view};
use crate::connection::Mechanism;

view! {
    /// A VXLAN tunnel, for Ethernet payloads.
    Vxlan = VXLAN
}

view! {
    /// A WireGuard tunnel, for IP payloads.
    Wireguard = WIREGUARD
}

view! {
    /// An IPsec tunnel, for IP payloads.
    Ipsec = IPSEC
}

/// What all tunnels have.
macro_rules! tunnel {
    ($($view:ident)+) => {$(
        parameters! { $view:
            /// The tunnel address of the client's forwarder.
            src_ip, set_src_ip: ip = SRC_IP;
            /// The tunnel address of the endpoint's forwarder.
            dst_ip, set_dst_ip: ip = DST_IP;
            /// The tunnel port of the client's forwarder.
            src_port, set_src_port: u16 = SRC_PORT;
            /// The tunnel port of the endpoint's forwarder.
            dst_port, set_dst_port: u16 = DST_PORT;
            /// The bytes that fit into one packet of the tunnel, layer 3; 0 when unknown.
            mtu, set_mtu: u32 = MTU;
        }
    )+};
}

tunnel!(Vxlan Wireguard Ipsec);

parameters! { Wireguard:
    /// The public key of the client's side, base64 of 32 bytes.
    src_public_key, set_src_public_key: str = SRC_PUBLIC_KEY;
    /// The public key of the endpoint's side, base64 of 32 bytes.
    dst_public_key, set_dst_public_key: str = DST_PUBLIC_KEY;
}

parameters! { Ipsec:
    /// The certificate of the client's side, base64 of its DER form.
    src_public_key, set_src_public_key: str = SRC_PUBLIC_KEY;
    /// The certificate of the endpoint's side, base64 of its DER form.
    dst_public_key, set_dst_public_key: str = DST_PUBLIC_KEY;
}

impl<M: Borrow<Mechanism>> Vxlan<M> {
    /// The network identifier, 24 bits; 0 when it is not chosen yet or cannot be read.
    pub fn vni(&self) -> u32 {
        bits(self.mechanism().parameter(key::VNI), 24)
    }

    /// Whether the endpoint's forwarder chooses an even identifier. Of two nodes that tunnel to each other
    /// one chooses even, the other odd ones, so that they never choose the same.
    ///
    /// Compared are the addresses before a proxy between clusters replaced them, if they are known, as both
    /// sides see them alike.
    pub fn even_vni(&self) -> bool {
        let Some(src) = self.original_ip(key::SRC_ORIGINAL_IP, key::SRC_IP) else {
            return true;
        };
        let Some(dst) = self.original_ip(key::DST_ORIGINAL_IP, key::DST_IP) else {
            return false;
        };
        src <= dst
    }

    /// The identifier that a random number stands for, of the right parity and never 0; `None` until both
    /// addresses are known.
    pub fn vni_from(&self, random: u32) -> Option<u32> {
        let (Some(_), Some(_)) = (self.src_ip(), self.dst_ip()) else {
            return None;
        };
        let even = random.wrapping_mul(2) & 0x00FF_FFFF;
        if !self.even_vni() {
            return Some(even + 1);
        }
        Some(if even == 0 { 2 } else { even })
    }

    fn original_ip(&self, original: &str, current: &str) -> Option<Ipv6Addr> {
        let parameters = &self.mechanism().parameters;
        let text = parameters.get(original).or_else(|| parameters.get(current))?;
        match text.parse().ok()? {
            IpAddr::V4(ip) => Some(ip.to_ipv6_mapped()),
            IpAddr::V6(ip) => Some(ip),
        }
    }
}

impl<M: BorrowMut<Mechanism>> Vxlan<M> {
    /// Sets [`Self::vni`]; more than 24 bits read back as 0.
    pub fn set_vni(&mut self, vni: u32) {
        let mechanism = self.0.borrow_mut();
        mechanism.set_parameter(key::VNI, vni.to_string());
    }
}
