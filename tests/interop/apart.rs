// SPDX-License-Identifier: Apache-2.0
//! Wires to another node by VXLAN, between managers and forwarders of ours and theirs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use nsm::mesh::{Host, Node, Pod, Program, Settings, Snapshot, Underlay};
use tempfile::TempDir;

use crate::Bench;
use crate::caller::Caller;
use crate::matrix::comes_and_goes;
use crate::mesh::{PROGRAMS, choose, is_as, keep, programs, registers, stops};
use crate::mix::{Hop, Mix};

/// The largest packet between the nodes.
const UNDERLAY_MTU: u32 = 1500;

/// Which of the managers and forwarders of two nodes are theirs; the client is on the first node.
pub(crate) const PAIRS: [&str; 16] = [
    "vxlan_go_nobody",
    "vxlan_go_nsmgr1",
    "vxlan_go_forwarder1",
    "vxlan_go_nsmgr1_forwarder1",
    "vxlan_go_nsmgr2",
    "vxlan_go_nsmgr1_nsmgr2",
    "vxlan_go_forwarder1_nsmgr2",
    "vxlan_go_nsmgr1_forwarder1_nsmgr2",
    "vxlan_go_forwarder2",
    "vxlan_go_nsmgr1_forwarder2",
    "vxlan_go_forwarder1_forwarder2",
    "vxlan_go_nsmgr1_forwarder1_forwarder2",
    "vxlan_go_nsmgr2_forwarder2",
    "vxlan_go_nsmgr1_nsmgr2_forwarder2",
    "vxlan_go_forwarder1_nsmgr2_forwarder2",
    "vxlan_go_nsmgr1_forwarder1_nsmgr2_forwarder2",
];

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let test = |name: &'static str| {
        bench.trial(name, async move |bench| {
            on_two_nodes(bench, name, "ETHERNET", works).await?;
            bench.table.lock().await.comes_and_goes_apart(name, theirs(name));
            Ok(())
        })
    };
    PAIRS.map(test).into()
}

/// Runs a test on two nodes with these managers and forwarders, and ends them.
pub(crate) async fn on_two_nodes(
    bench: &Bench,
    name: &str,
    payload: &str,
    run: impl AsyncFnOnce(&mut Apart) -> Result<()>,
) -> Result<()> {
    on_nodes(bench, Box::pin(Apart::new(name, payload, None)), run).await
}

/// Runs a test on two nodes that are started so, and ends them.
pub(crate) async fn on_nodes(
    bench: &Bench,
    start: impl Future<Output = Result<Apart>>,
    run: impl AsyncFnOnce(&mut Apart) -> Result<()>,
) -> Result<()> {
    bench.end().await.context("the mesh before could not be ended")?;
    let mut apart = start.await.context("cannot start two nodes")?;
    let done = match run(&mut apart).await {
        Ok(()) => is_as(&apart.before).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => apart.end().await,
        Err(error) => Err(error.context(apart.keep())),
    }
}

/// Has a wire from the first node to the second.
pub(crate) async fn works(apart: &mut Apart) -> Result<()> {
    let caller = Caller::new(&apart.first, &apart.near, false)?;
    let path = ["nsc", "nsmgr", "forwarder", "nsmgr-2", "forwarder-2", "nse"];
    comes_and_goes(&apart.first, caller, [&apart.near, &apart.far], &path).await
}

/// Whether manager and forwarder are theirs, on the first node and on the second.
pub(crate) fn theirs(name: &str) -> [bool; 4] {
    ["nsmgr1", "forwarder1", "nsmgr2", "forwarder2"].map(|hop| name.split('_').any(|word| word == hop))
}

/// Two nodes: a pod for clients on the first, and one with an endpoint on the second.
pub(crate) struct Apart {
    pub(crate) first: Node,
    pub(crate) second: Node,
    pub(crate) endpoint: Option<Program>,
    pub(crate) near: Pod,
    pub(crate) far: Pod,
    /// The kernel as it was before anything was asked for.
    pub(crate) before: Snapshot,
    folder: TempDir,
    _underlay: Underlay,
}

impl Apart {
    /// Two nodes with these managers and forwarders, and a service that carries `payload`; identities are valid that
    /// long, or as long as the issuer gives them by itself.
    pub(crate) async fn new(name: &str, payload: &str, svid_lifetime: Option<Duration>) -> Result<Self> {
        let [nsmgr1, forwarder1, nsmgr2, forwarder2] = theirs(name);
        Self::with(payload, svid_lifetime, |files, number, _| {
            let (nsmgr, forwarder) = match number {
                1 => (nsmgr1, forwarder1),
                _ => (nsmgr2, forwarder2),
            };
            choose(files, Hop::Nsmgr, nsmgr)?;
            choose(files, Hop::Forwarder, forwarder)
        })
        .await
    }

    /// Two nodes, and a service that carries `payload`. Before one is started, `choose` may put other programs into
    /// the folder: it is told the folder, the node's number and where that will run.
    pub(crate) async fn with(
        payload: &str,
        svid_lifetime: Option<Duration>,
        mut choose: impl FnMut(&Path, u8, &Host) -> Result<()>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let underlay = Underlay::new(UNDERLAY_MTU)?;
        let [one, two] = [Arc::new(underlay.host(1)?), Arc::new(underlay.host(2)?)];
        let (near, far) = (Pod::new("near")?, Pod::new("far")?);
        let before = Snapshot::take(None)?;
        let files = folder.path().join(PROGRAMS);
        let settings = Settings {
            programs: programs(&files, Mix::default())?,
            folder: folder.path().to_path_buf(),
            log_level: std::env::var("NSM_LOG_LEVEL").unwrap_or_else(|_| "DEBUG".to_string()),
            identities: ["nsmgr-2", "forwarder-2", "nse", "nse-2", "nsc"]
                .map(String::from)
                .to_vec(),
            svid_lifetime,
            variables: Vec::new(),
            host: Some(Arc::clone(&one)),
        };
        choose(&files, 1, &one)?;
        let first = Node::start(settings, |_, _| ()).await?;
        choose(&files, 2, &two)?;
        let second = first.join(2, two, |_, _| ()).await?;
        let variables = [("NSM_PAYLOAD", payload.to_string())];
        let (endpoint, _) = second.start_endpoint("nse", &far, &variables).await?;
        registers(&first, &["forwarder", "forwarder-2", "nse"]).await?;
        Ok(Self {
            first,
            second,
            endpoint: Some(endpoint),
            near,
            far,
            before,
            folder,
            _underlay: underlay,
        })
    }

    pub(crate) fn keep(self) -> String {
        let Self { mut folder, .. } = self;
        folder.disable_cleanup(true);
        keep(&folder)
    }

    pub(crate) async fn end(self) -> Result<()> {
        stops(self.endpoint.context("there is no endpoint at the end")?).await?;
        self.second.end().await?;
        self.first.end().await
    }
}
