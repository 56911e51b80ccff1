// SPDX-License-Identifier: Apache-2.0
//! Two nodes, the network between them, and the pods.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::{Host, Node, Pod, Program, Programs, Settings, Snapshot, Underlay};
use anyhow::{Context, Result};
use tokio::time::Instant;

use super::plan::{PLANS, Plan};
use super::progress;
use super::wire::Shown;

/// How long the last of a wire may take to go after it is closed.
const TO_GO: Duration = Duration::from_secs(5);

/// What the wires are shown on. Fields are dropped in this order: pods outlive programs.
pub(crate) struct Stage {
    second: Node,
    /// With the registry and the issuer.
    pub(crate) first: Node,
    /// The kernel before the first wire.
    before: Snapshot,
    /// The client's and the endpoint's pod of each wire.
    pods: Vec<[Pod; 2]>,
}

impl Stage {
    /// Builds it, in namespaces and in `folder`.
    pub(crate) async fn build(folder: &Path, mtu: u32, log_level: &str) -> Result<Self> {
        let began = Instant::now();
        let underlay = Underlay::new(mtu)?;
        let hosts = [underlay.host(1)?, underlay.host(2)?].map(Arc::new);
        let pods = PLANS
            .iter()
            .map(|plan| Ok([Pod::new(&plan.client())?, Pod::new(&plan.endpoint())?]))
            .collect::<Result<Vec<_>>>()?;
        let before = Snapshot::take(None)?;
        progress(
            "two hosts, their network and the pods are there",
            Some(began.elapsed()),
        );
        let mut identities = vec!["nsmgr-2".to_string(), "forwarder-2".to_string()];
        identities.extend(PLANS.iter().flat_map(|plan| [plan.client(), plan.endpoint()]));
        let [one, two] = hosts;
        let settings = Settings {
            programs: Programs::beside_us()?,
            folder: folder.to_path_buf(),
            log_level: log_level.to_string(),
            identities,
            svid_lifetime: None,
            variables: Vec::new(),
            host: Some(one),
        };
        let is_ready = |name: &str, took: Duration| progress(&format!("{name} is ready"), Some(took));
        let first = Node::start(settings, is_ready).await?;
        let second = first.join(2, two, is_ready).await?;
        Ok(Self {
            second,
            first,
            before,
            pods,
        })
    }

    /// The pods of a wire: the client's and the endpoint's.
    pub(crate) fn pods(&self, plan: &Plan) -> Result<&[Pod; 2]> {
        let at = usize::from(plan.number).saturating_sub(1);
        self.pods.get(at).context("a wire without pods")
    }

    /// The node on which the endpoint of a wire is.
    pub(crate) fn far(&self, plan: &Plan) -> &Node {
        if plan.is_remote { &self.second } else { &self.first }
    }

    /// Both nodes.
    pub(crate) fn nodes(&self) -> [&Node; 2] {
        [&self.first, &self.second]
    }

    /// What runs on the nodes themselves.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &Program> {
        self.first.programs().chain(self.second.programs())
    }

    /// What is left of the wires, on the nodes and in the pods, when they are closed. The nodes know each other by
    /// then: that is theirs, not the wires'.
    pub(crate) async fn left_of_wires(&self) -> Result<Vec<String>> {
        let until = Instant::now() + TO_GO;
        loop {
            let mut left = Snapshot::take(None)?.since(&self.before);
            left.retain(|object| {
                !(object.starts_with("neighbour") && object.contains(" on underlay in node-"))
            });
            if left.is_empty() || Instant::now() >= until {
                return Ok(left);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends both nodes.
    pub(crate) async fn end(self) -> Result<()> {
        self.second.end().await?;
        self.first.end().await
    }

    /// Prints the commands for another terminal.
    pub(crate) fn say_how_to_look_inside(&self, shown: &[Shown]) {
        let us = std::process::id();
        let user = if is_user_namespace_ours() {
            " --user --preserve-credentials"
        } else {
            ""
        };
        let inside = format!("nsenter --target {us}{user} --mount --net");
        eprintln!("\nIt is running; Ctrl-C removes it. Look inside from another terminal:");
        let hosts = self.nodes().into_iter().filter_map(Node::host).map(Host::pod);
        for host in hosts {
            let name = host.name();
            eprintln!("  the node {name:<8} {inside} ip netns exec {name} ip addr");
        }
        for name in shown.iter().flat_map(Shown::programs).map(Program::name) {
            eprintln!("  the pod  {name:<8} {inside} ip netns exec {name} ip addr");
        }
        eprintln!("  logs and sockets  {}", self.first.folder().display());
    }
}

/// Whether we have a user namespace of our own: then that of our parent is another, at which we may not look.
fn is_user_namespace_ours() -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    of("self") != of(&parent.to_string())
}
