// SPDX-License-Identifier: Apache-2.0
//! A node to test on, and the check that nothing is left of it.

use anyhow::{Result, ensure};
use nsm::mesh::{Client, Node, Pod, Program, Programs, Settings, Snapshot};
use tempfile::TempDir;

/// A node with one endpoint, and a pod for a client.
pub struct World {
    pub node: Node,
    pub endpoint: Program,
    pub near: Pod,
    pub far: Pod,
    /// The kernel as it was before anything was asked for.
    pub before: Snapshot,
    folder: TempDir,
}

impl World {
    /// With an endpoint `nse` of the service `icmp-responder`.
    pub async fn new() -> Result<Self> {
        Self::with(&[]).await
    }

    /// With an endpoint whose variables are these as well.
    pub async fn with(endpoint: &[(&str, String)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let (near, far) = (Pod::new("near")?, Pod::new("far")?);
        let before = Snapshot::take(None)?;
        let settings = Settings {
            programs: Programs::beside_us()?,
            folder: folder.path().to_path_buf(),
            log_level: "DEBUG".to_string(),
            identities: ["nse", "nse-2", "nsc"].map(String::from).to_vec(),
        };
        let node = Node::start(settings, |_, _| ()).await?;
        let (endpoint, _) = node.start_endpoint("nse", &far, endpoint).await?;
        Ok(Self {
            node,
            endpoint,
            near,
            far,
            before,
            folder,
        })
    }

    /// A client in this process whose wires end in `near`, and count when they carry a ping.
    pub fn client(&self, name: &str) -> Result<Client> {
        Client::new(&self.node, name, self.near.path())?.pinging()
    }

    /// Waits until the kernel is as it was, for at most the second that is promised.
    pub async fn clean(&self) -> Result<()> {
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
        loop {
            let left = Snapshot::take(None)?.since(&self.before);
            if left.is_empty() {
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < until, "left behind: {left:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Ends everything in order and checks that nothing is left.
    pub async fn end(self) -> Result<()> {
        self.endpoint.stop().await?;
        self.node.end().await?;
        let left = Snapshot::take(Some(self.folder.path()))?.since(&self.before);
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}
