// SPDX-License-Identifier: Apache-2.0
//! The network between nodes: a bridge, and a cable from it to each host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::Pod;
use super::sandbox::tool;

/// The name of the bridge, and of each host's device.
const BRIDGE: &str = "underlay";

/// A bridge in a namespace of its own.
#[derive(Clone, Debug)]
pub struct Underlay {
    switch: Arc<Pod>,
    mtu: u32,
}

/// A network namespace on an [`Underlay`], in which the programs of a node run.
#[derive(Debug)]
pub struct Host {
    pod: Pod,
    ip: Ipv4Addr,
    ip6: Ipv6Addr,
    /// Whether tunnels go over IPv6.
    tunnels_over_ipv6: bool,
    wireguard_engine: &'static str,
    _underlay: Underlay,
}

impl Underlay {
    /// Makes the bridge, for packets of at most `mtu` bytes.
    pub fn new(mtu: u32) -> Result<Self> {
        let switch = Pod::new("switch")?;
        let name = switch.name();
        // A switch has no addresses of its own.
        let quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
        let done = switch.command("sh").args(["-c", quiet]).status()?;
        ensure!(done.success(), "cannot write sysctls of a namespace: {done}");
        tool("ip", &["-netns", name, "link", "add", BRIDGE, "type", "bridge"])?;
        tool("ip", &["-netns", name, "link", "set", BRIDGE, "up"])?;
        let switch = Arc::new(switch);
        Ok(Self { switch, mtu })
    }

    /// Makes the namespace of host `number`, 1 to 99, and its cable: 10.77.0.`number` and fd77::`number`.
    pub fn host(&self, number: u8) -> Result<Host> {
        ensure!((1..=99).contains(&number), "there is no host {number}");
        let (pod, port) = (Pod::new(&format!("node-{number}"))?, format!("port-{number}"));
        let (ip, ip6) = (
            Ipv4Addr::new(10, 77, 0, number),
            Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()),
        );
        let (host, mtu) = (pod.name().to_string(), self.mtu.to_string());
        let peer = [
            "type", "veth", "peer", "name", BRIDGE, "mtu", &mtu, "netns", &host,
        ];
        self.switch(&[&["link", "add", &port, "mtu", &mtu][..], &peer].concat())?;
        self.switch(&["link", "set", &port, "master", BRIDGE, "up"])?;
        for line in [
            vec!["addr", "add", &format!("{ip}/24"), "dev", BRIDGE],
            vec!["addr", "add", &format!("{ip6}/64"), "dev", BRIDGE, "nodad"],
            // Before it is up, when it would take an address by itself.
            vec!["link", "set", BRIDGE, "addrgenmode", "none"],
            vec!["link", "set", BRIDGE, "up"],
        ] {
            tool("ip", &[vec!["-netns", &host], line].concat())?;
        }
        Ok(Host {
            pod,
            ip,
            ip6,
            tunnels_over_ipv6: false,
            wireguard_engine: "auto",
            _underlay: self.clone(),
        })
    }

    /// Cuts the cable of host `number`, or mends it.
    pub fn plug(&self, number: u8, is_in: bool) -> Result<()> {
        let state = if is_in { "up" } else { "down" };
        self.switch(&["link", "set", &format!("port-{number}"), state])
    }

    fn switch(&self, arguments: &[&str]) -> Result<()> {
        tool("ip", &[&["-netns", self.switch.name()], arguments].concat())
    }
}

impl Host {
    /// Its namespace.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Lets the tunnels of its node go over IPv6.
    #[must_use]
    pub fn with_tunnels_over_ipv6(self) -> Self {
        Self {
            tunnels_over_ipv6: true,
            ..self
        }
    }

    /// Lets its node make WireGuard tunnels by this engine: `auto`, `kernel` or `userspace`.
    #[must_use]
    pub fn with_wireguard_engine(self, engine: &'static str) -> Self {
        Self {
            wireguard_engine: engine,
            ..self
        }
    }

    /// The engine of its node's WireGuard tunnels.
    pub fn wireguard_engine(&self) -> &'static str {
        self.wireguard_engine
    }

    /// The address that its node's tunnels go from.
    pub fn tunnel_ip(&self) -> IpAddr {
        if self.tunnels_over_ipv6 {
            self.ip6()
        } else {
            self.ip()
        }
    }

    /// Its IPv4 address.
    pub fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// Its IPv6 address.
    pub fn ip6(&self) -> IpAddr {
        self.ip6.into()
    }

    /// Changes what its cable carries in one packet.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        tool(
            "ip",
            &[
                "-netns",
                self.pod.name(),
                "link",
                "set",
                BRIDGE,
                "mtu",
                &mtu.to_string(),
            ],
        )
    }
}
