// SPDX-License-Identifier: Apache-2.0
//! Two nodes and an endpoint for each kind of wire.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use nsm::mesh::{Attached, Client, Host, Node, Pod, Program, Programs, Settings, Underlay};

/// What the network between the nodes carries in one packet, bytes.
const UNDERLAY_MTU: u32 = 1500;

/// What goes between the ends of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A veth pair: both ends are on the first node.
    Local,
    /// VXLAN, to the second node.
    Vxlan,
    /// WireGuard by the forwarders themselves, to the second node.
    WireGuardUser,
    /// WireGuard by the kernel, to the second node.
    WireGuardKernel,
}

impl Kind {
    /// Its name in the names of figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Vxlan => "vxlan",
            Self::WireGuardUser => "wireguard_user",
            Self::WireGuardKernel => "wireguard_kernel",
        }
    }

    /// The service that is reached by such a wire; its endpoint is called so as well.
    fn service(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Vxlan => "vxlan",
            Self::WireGuardUser | Self::WireGuardKernel => "wireguard",
        }
    }

    /// Where the addresses of such wires come from: they share the near pod.
    fn prefix(self) -> &'static str {
        match self {
            Self::Local => "10.1.0.0/16",
            Self::Vxlan => "10.2.0.0/16",
            Self::WireGuardUser | Self::WireGuardKernel => "10.3.0.0/16",
        }
    }

    fn payload(self) -> &'static str {
        match self {
            Self::Local | Self::Vxlan => "ETHERNET",
            Self::WireGuardUser | Self::WireGuardKernel => "IP",
        }
    }
}

/// The nodes, and the pods at the ends of wires. Fields are dropped in this order: pods outlive programs.
pub(crate) struct Stage {
    endpoints: Vec<(Kind, Program, Pod)>,
    second: Node,
    first: Node,
    near: Pod,
}

impl Stage {
    /// Starts two nodes with wires of these kinds, at most one of which is by WireGuard.
    pub(crate) async fn start(programs: &Programs, folder: &Path, kinds: &[Kind]) -> Result<Self> {
        let underlay = Underlay::new(UNDERLAY_MTU)?;
        let engine = if kinds.contains(&Kind::WireGuardKernel) {
            "kernel"
        } else {
            "userspace"
        };
        let host = |number| -> Result<Arc<Host>> {
            Ok(Arc::new(underlay.host(number)?.with_wireguard_engine(engine)))
        };
        let (one, two, near) = (host(1)?, host(2)?, Pod::new("near")?);
        let services = kinds.iter().map(|kind| kind.service());
        let identities = ["nsmgr-2", "forwarder-2"].into_iter().chain(services);
        let settings = Settings {
            programs: programs.clone(),
            folder: folder.to_path_buf(),
            log_level: "WARN".to_string(),
            identities: identities.map(String::from).collect(),
            svid_lifetime: None,
            variables: Vec::new(),
            host: Some(one),
        };
        let first = Node::start(settings, |_, _| ()).await?;
        let second = first.join(2, two, |_, _| ()).await?;
        let mut stage = Self {
            endpoints: Vec::new(),
            second,
            first,
            near,
        };
        for kind in kinds.iter().copied() {
            stage.endpoint(kind).await?;
        }
        Ok(stage)
    }

    async fn endpoint(&mut self, kind: Kind) -> Result<()> {
        let pod = Pod::new(&format!("far-{}", kind.service()))?;
        let node = if kind == Kind::Local {
            &self.first
        } else {
            &self.second
        };
        let variables = [
            ("NSM_SERVICE_NAMES", kind.service().to_string()),
            ("NSM_PAYLOAD", kind.payload().to_string()),
            ("NSM_CIDR_PREFIX", kind.prefix().to_string()),
        ];
        let (program, _) = node.start_endpoint(kind.service(), &pod, &variables).await?;
        self.endpoints.push((kind, program, pod));
        Ok(())
    }

    /// The pod in which the client's ends are.
    pub(crate) fn near(&self) -> &Pod {
        &self.near
    }

    /// The pod in which the endpoint's ends of such wires are.
    pub(crate) fn far(&self, kind: Kind) -> Result<&Pod> {
        let endpoint = self.endpoints.iter().find(|(known, ..)| *known == kind);
        endpoint
            .map(|(_, _, pod)| pod)
            .context("no endpoint is reached by such a wire")
    }

    /// The hosts of both nodes.
    pub(crate) fn hosts(&self) -> Result<[&Host; 2]> {
        let [one, two] = [&self.first, &self.second].map(Node::host);
        one.zip(two).map(<[_; 2]>::from).context("a node without a host")
    }

    /// Where logs go.
    pub(crate) fn folder(&self) -> &Path {
        self.first.folder()
    }

    /// A client on the first node.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(&self.first, "bench", self.near.path())
    }

    /// The resident memory of the larger forwarder, MiB.
    pub(crate) fn forwarder_mib(&self) -> Result<f64> {
        let mut largest = 0;
        for node in [&self.first, &self.second] {
            let forwarder = node.forwarder.as_ref().context("no forwarder runs")?;
            largest = largest.max(forwarder.memory_kib()?.resident);
        }
        Ok(largest as f64 / 1024.0)
    }

    /// Ends everything.
    pub(crate) async fn end(self) -> Result<()> {
        for (_, program, _pod) in self.endpoints {
            program.stop().await?;
        }
        self.second.end().await?;
        self.first.end().await
    }
}

/// What a client asks for: the interface `interface`, by such a wire.
pub(crate) fn url(kind: Kind, interface: &str) -> String {
    format!("kernel://{}/{interface}", kind.service())
}

/// The address of the endpoint.
pub(crate) fn endpoint(wire: &Attached) -> Result<Ipv4Addr> {
    wire.endpoint().context("the endpoint has no IPv4 address")
}
