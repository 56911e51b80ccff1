// SPDX-License-Identifier: Apache-2.0
//! The network between the nodes, over which tunnels go.

use std::net::IpAddr;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::core::Result;

/// What a tunnel needs to know of the network between its ends.
#[async_trait]
pub trait Underlay: Send + Sync + 'static {
    /// The largest packet that goes from `local` to `remote` in one piece as far as this node knows, layer 3, bytes:
    /// the MTU of the route to `remote`, else that of the device that it leaves by; without `remote` the MTU of the
    /// device that has `local`.
    ///
    /// Errors: `no-underlay` when this node has no such address or no route there.
    async fn mtu(&self, local: IpAddr, remote: Option<IpAddr>) -> Result<u32>;

    /// Tells when a device or a route of this node has changed, so that other packets may fit. Many changes at once are
    /// told as one. By default nothing changes.
    fn changes(&self) -> watch::Receiver<()> {
        watch::channel(()).1
    }
}

/// What a kind of tunnel puts around each packet, layer 3, bytes (RFC 7348 and the predecessor's reserve for VXLAN;
/// the data message of WireGuard, section 5.4.6 of its white paper, with the outer headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// Over IPv4.
    pub ipv4: u32,
    /// Over IPv6.
    pub ipv6: u32,
}

impl Overhead {
    /// Of VXLAN, whose payload has an Ethernet header.
    pub const VXLAN: Self = Self { ipv4: 54, ipv6: 74 };
    /// Of WireGuard.
    pub const WIREGUARD: Self = Self { ipv4: 60, ipv6: 80 };

    /// What is left for a packet inside a tunnel from `local` over an underlay of `mtu` bytes.
    pub fn leaves(self, local: IpAddr, mtu: u32) -> u32 {
        mtu.saturating_sub(self.over(local))
    }

    /// What the underlay must carry for packets of `mtu` bytes inside a tunnel from `local`.
    pub fn needs(self, local: IpAddr, mtu: u32) -> u32 {
        mtu.saturating_add(self.over(local))
    }

    fn over(self, local: IpAddr) -> u32 {
        if local.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_of_1500_bytes_leaves_what_the_contract_says() {
        let left = |overhead: Overhead, local: &str| overhead.leaves(local.parse().unwrap(), 1500);
        assert_eq!(left(Overhead::VXLAN, "10.0.0.1"), 1446);
        assert_eq!(left(Overhead::VXLAN, "2001:db8::1"), 1426);
        assert_eq!(left(Overhead::WIREGUARD, "10.0.0.1"), 1440);
        assert_eq!(left(Overhead::WIREGUARD, "2001:db8::1"), 1420);
        assert_eq!(Overhead::VXLAN.leaves("10.0.0.1".parse().unwrap(), 20), 0);
        assert_eq!(Overhead::VXLAN.needs("10.0.0.1".parse().unwrap(), 1446), 1500);
    }
}
