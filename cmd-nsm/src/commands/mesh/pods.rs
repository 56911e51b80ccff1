// SPDX-License-Identifier: Apache-2.0
//! The nodes and pods of a mesh that is kept.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::{Node, Pod, Program, Programs, Settings, Snapshot, Underlay};
use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;

use super::ask::{Ask, NewPod, SOCKET, Told};
use super::keeper::AGENT;
use super::up::Up;

mod look;
mod service;

/// The sockets of the process itself.
const OURS: [&str; 2] = [SOCKET, AGENT];

/// How long a program may take until it is ready, or a wire until it is there.
const TO_START: Duration = Duration::from_secs(20);

/// How long the last of a mesh may take to go after its programs.
const TO_GO: Duration = Duration::from_secs(5);

/// All that a mesh is made of. Fields are dropped in this order: pods outlive programs.
pub(super) struct Pods {
    pods: Vec<Served>,
    nodes: Vec<Node>,
    folder: PathBuf,
    before: Snapshot,
}

/// A pod and its program.
struct Served {
    what: NewPod,
    /// While it runs.
    program: Option<Program>,
    pod: Pod,
}

impl Pods {
    /// Starts the nodes, with logs and sockets in `folder`; `agent` tells all who they are.
    pub(super) async fn start(up: &Up, folder: &Path, agent: PathBuf) -> Result<Self> {
        let before = Snapshot::take(None)?;
        let underlay = Underlay::new(up.mtu)?;
        let settings = Settings {
            programs: Programs::beside_us()?,
            folder: folder.to_path_buf(),
            log_level: up.log_level.clone(),
            identities: Vec::new(),
            svid_lifetime: None,
            variables: Vec::new(),
            host: Some(Arc::new(underlay.host(1)?)),
        };
        let is_ready = |name: &str, took: Duration| eprintln!("{name} is ready after {took:.1?}");
        let first = Node::start_under(settings, agent, is_ready).await?;
        let mut nodes = vec![first];
        for number in 2..=up.nodes {
            let host = Arc::new(underlay.host(number)?);
            let node = nodes[0].join(number, host, is_ready).await?;
            nodes.push(node);
        }
        Ok(Self {
            pods: Vec::new(),
            nodes,
            folder: folder.to_path_buf(),
            before,
        })
    }

    /// Does what is asked.
    pub(super) async fn answer(&mut self, ask: Ask) -> Result<Told> {
        let text = match ask {
            Ask::Pod(pod) => self.add(pod).await?,
            Ask::Service { service, is_deleted } => {
                service::register(self.node(1)?, service, is_deleted).await?
            }
            Ask::Place { name } => serde_json::to_string(&self.place(&name)?)?,
            Ask::Kill { name, node } => self.kill(&name, node)?,
            Ask::Start { name, node } => self.again(&name, node).await?,
            Ask::Delete { names } => self.delete(&names).await?,
            Ask::List { is_json } => self.list(is_json)?,
            Ask::Snapshot => self.snapshot()?,
            Ask::Down => bail!("a mesh ends only once"),
        };
        Ok(Told { is_good: true, text })
    }

    /// Ends everything; answers with what is left.
    pub(super) async fn end(mut self) -> Result<Vec<String>> {
        let names: Vec<_> = self
            .pods
            .iter()
            .rev()
            .map(|served| served.what.name.clone())
            .collect();
        self.delete(&names).await?;
        let mut pids: Vec<_> = self
            .nodes
            .iter()
            .flat_map(Node::programs)
            .map(Program::pid)
            .collect();
        while let Some(node) = self.nodes.pop() {
            node.end().await?;
        }
        pids.retain(|pid| Path::new("/proc").join(pid.to_string()).exists());
        let until = Instant::now() + TO_GO;
        loop {
            let mut left = Snapshot::take(Some(&self.folder))?.since(&self.before);
            // Those of this process stay until it ends.
            left.retain(|object| !OURS.iter().any(|socket| object.ends_with(socket)));
            left.extend(pids.iter().map(|pid| format!("process {pid}")));
            if left.is_empty() || Instant::now() >= until {
                return Ok(left);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn node(&mut self, number: usize) -> Result<&mut Node> {
        let nodes = self.nodes.len();
        let index = number.checked_sub(1);
        let node = index.and_then(|index| self.nodes.get_mut(index));
        node.with_context(|| format!("there is no node {number}: nodes are 1 to {nodes}"))
    }

    fn served(&mut self, name: &str) -> Result<&mut Served> {
        let names: Vec<_> = self.pods.iter().map(|served| served.what.name.clone()).collect();
        let found = self.pods.iter_mut().find(|served| served.what.name == name);
        found.with_context(|| format!("there is no pod {name:?}; there are: {}", names.join(", ")))
    }

    /// Makes a pod and starts its program.
    async fn add(&mut self, what: NewPod) -> Result<String> {
        let is_plain = |char: char| char.is_ascii_alphanumeric() || char == '-';
        let name = what.name.clone();
        ensure!(
            !name.is_empty() && name.len() <= 40 && name.chars().all(is_plain),
            "{name:?} cannot be the name of a pod: use at most 40 letters, digits and dashes"
        );
        ensure!(
            self.place(&name).is_err() && !self.folder.join(format!("{name}.sock")).exists(),
            "there is something called {name:?} already: choose another name, or `nsm mesh delete {name}`"
        );
        let began = Instant::now();
        let pod = Pod::new(&name)?;
        let program = start(self.node(what.node)?, &what, &pod).await?;
        self.pods.push(Served {
            what,
            program: Some(program),
            pod,
        });
        Ok(format!("{name} is ready after {:.1?}\n", began.elapsed()))
    }

    fn kill(&mut self, name: &str, node: usize) -> Result<String> {
        let slot = match name {
            "nsmgr" => &mut self.node(node)?.nsmgr,
            "forwarder" => &mut self.node(node)?.forwarder,
            "registry" => &mut self.node(1)?.registry,
            pod => &mut self.served(pod)?.program,
        };
        let program = slot.take().with_context(|| format!("{name} is not running"))?;
        let told = format!("{} is killed\n", program.name());
        program.kill()?;
        Ok(told)
    }

    async fn again(&mut self, name: &str, number: usize) -> Result<String> {
        let began = Instant::now();
        let node = self.node(number)?;
        let is_running = || anyhow::anyhow!("{name} is running");
        match name {
            "nsmgr" if node.nsmgr.is_some() => return Err(is_running()),
            "forwarder" if node.forwarder.is_some() => return Err(is_running()),
            "nsmgr" => node.start_nsmgr().await?,
            "forwarder" => node.start_forwarder().await?,
            "registry" => {
                let first = self.node(1)?;
                ensure!(first.registry.is_none(), is_running());
                first.start_registry().await?
            }
            pod => {
                let served = self.served(pod)?;
                ensure!(served.program.is_none(), is_running());
                let (index, what) = (served.what.node.saturating_sub(1), served.what.clone());
                let Self { nodes, pods, .. } = self;
                let node = nodes.get(index).context("a pod is on a node")?;
                let served = pods.iter_mut().find(|served| served.what.name == pod);
                let served = served.context("it was there")?;
                served.program = Some(start(node, &what, &served.pod).await?);
                began.elapsed()
            }
        };
        Ok(format!("{name} is ready after {:.1?}\n", began.elapsed()))
    }

    async fn delete(&mut self, names: &[String]) -> Result<String> {
        let mut told = String::new();
        for name in names {
            self.served(name)?;
            let index = self.pods.iter().position(|served| served.what.name == *name);
            let served = self.pods.remove(index.context("it was there")?);
            if let Some(program) = served.program {
                let status = program.stop().await?;
                ensure!(status.success(), "{name} ended with {status}");
            }
            // A program that was killed has left its socket.
            for file in [format!("{name}.sock"), format!("{name}.sock.lock")] {
                let _it_is_gone_as_a_rule = std::fs::remove_file(self.folder.join(file));
            }
            let _infallible = writeln!(told, "{name} is deleted");
        }
        Ok(told)
    }
}

/// Starts a program in its pod and waits until it is ready, if that is wanted.
async fn start(node: &Node, what: &NewPod, pod: &Pod) -> Result<Program> {
    let mut variables = vec![
        ("NSM_CONNECT_TO", node.manager_url()),
        ("NODE_NAME", format!("node-{}", what.node)),
        ("POD_NAME", what.name.clone()),
    ];
    if what.is_endpoint {
        variables.push(("NSM_LISTEN_ON", node.url(&what.name)));
    }
    variables.extend(
        what.env
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone())),
    );
    let mut program = node.launch(&what.name, &what.program, Some(pod), &variables)?;
    if what.is_awaited {
        let is_ready = async |program: &Program| program.printed().contains("INFO ready").then_some(());
        let until = Instant::now() + TO_START;
        if let Err(error) = program.wait_for("it was ready", until, is_ready).await {
            // It may have wires, or be registered; what matters is why it is not ready.
            let _told = program.stop().await;
            return Err(error);
        }
    }
    Ok(program)
}
