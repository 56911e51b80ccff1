// SPDX-License-Identifier: Apache-2.0
//! A node whose programs are ours or theirs, and the check that nothing is left on it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use nsm::mesh::{Client, Node, Pod, Program, Programs, Settings, Snapshot};
use nsm_api::connection::{Connection, State};
use nsm_api::registry::NetworkServiceEndpointQuery;
use nsm_sdk::core::{Ctx, Dialer, NseRegistry};
use nsm_sdk::identity::Tokens;
use nsm_sdk::transport::Pool;
pub(crate) use nsm_tests::wait::wait_for;
use tempfile::TempDir;

use crate::mix::{Hop, Mix};
use crate::{peer, previous};

/// How long something may take that happens by itself, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The folder with the programs of a mesh.
pub(crate) const PROGRAMS: &str = "programs";

/// What clients ask for.
pub(crate) const SERVICE: &str = "kernel://icmp-responder/nsm-1";

/// A mixed node with one endpoint `nse` of the service `icmp-responder` in `far`, and a pod `near` for clients.
pub(crate) struct Mesh {
    pub(crate) node: Node,
    pub(crate) endpoint: Option<Program>,
    pub(crate) near: Pod,
    pub(crate) far: Pod,
    mix: Mix,
    /// The kernel as it was before anything was asked for.
    before: Snapshot,
    folder: TempDir,
}

impl Mesh {
    /// A mesh of this mixture, whose identities are valid that long, or as long as the issuer gives them by itself.
    pub(crate) async fn new(mix: Mix, svid_lifetime: Option<Duration>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let programs = programs(&folder.path().join(PROGRAMS), mix)?;
        Self::of(mix, folder, programs, async |settings| {
            Node::start(
                Settings {
                    svid_lifetime,
                    ..settings
                },
                |_, _| (),
            )
            .await
        })
        .await
    }

    /// A mesh of this mixture, with these programs, whose node is started like that.
    pub(crate) async fn of(
        mix: Mix,
        folder: TempDir,
        programs: Programs,
        start: impl AsyncFnOnce(Settings) -> Result<Node>,
    ) -> Result<Self> {
        let (near, far) = (Pod::new("near")?, Pod::new("far")?);
        let before = Snapshot::take(None)?;
        let settings = Settings {
            programs,
            folder: folder.path().to_path_buf(),
            log_level: std::env::var("NSM_LOG_LEVEL").unwrap_or_else(|_| "DEBUG".to_string()),
            identities: ["nse", "nse-2", "nsc"].map(String::from).to_vec(),
            svid_lifetime: None,
            variables: Vec::new(),
            host: None,
        };
        let started = start(settings).await;
        let node = started.with_context(|| keep(&folder))?;
        let mut mesh = Self {
            node,
            endpoint: None,
            near,
            far,
            mix,
            before,
            folder,
        };
        let done = match mesh.start_endpoint().await {
            Ok(()) => mesh.registers(&["forwarder", "nse"]).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => Ok(mesh),
            Err(error) => Err(error.context(mesh.keep())),
        }
    }

    pub(crate) fn mix(&self) -> Mix {
        self.mix
    }

    /// Starts the endpoint `nse`.
    pub(crate) async fn start_endpoint(&mut self) -> Result<()> {
        let variables = [("NSM_CIDR_PREFIX", "172.16.0.0/16".to_string())];
        let (endpoint, _) = self.node.start_endpoint("nse", &self.far, &variables).await?;
        self.endpoint = Some(endpoint);
        Ok(())
    }

    /// Starts the client program in `near`.
    pub(crate) fn client(&self) -> Result<Program> {
        client(&self.node, &self.near, &[])
    }

    /// Kills a program, and starts one in its place.
    pub(crate) async fn restart(&mut self, hop: Hop) -> Result<()> {
        self.take(hop)?.kill()?;
        self.start(hop).await
    }

    /// Ends a program in order, and starts ours or theirs in its place.
    pub(crate) async fn replace(&mut self, hop: Hop, is_go: bool) -> Result<()> {
        stops(self.take(hop)?).await?;
        self.choose(hop, is_go)?;
        self.start(hop).await
    }

    /// Takes a program out, to be ended.
    pub(crate) fn take(&mut self, hop: Hop) -> Result<Program> {
        let program = match hop {
            Hop::Client => None,
            Hop::Nsmgr => self.node.nsmgr.take(),
            Hop::Forwarder => self.node.forwarder.take(),
            Hop::Registry => self.node.registry.take(),
            Hop::Endpoint => self.endpoint.take(),
        };
        program.with_context(|| format!("there is no {} to end", hop.name()))
    }

    /// Starts a program that is not there.
    pub(crate) async fn start(&mut self, hop: Hop) -> Result<()> {
        match hop {
            Hop::Client => bail!("clients are not the mesh's"),
            Hop::Nsmgr => self.node.start_nsmgr().await?,
            Hop::Forwarder => self.node.start_forwarder().await?,
            Hop::Registry => self.node.start_registry().await?,
            Hop::Endpoint => return self.start_endpoint().await,
        };
        Ok(())
    }

    /// From now on a program of this place is ours or theirs when it is started.
    pub(crate) fn choose(&mut self, hop: Hop, is_go: bool) -> Result<()> {
        if self.mix.is_go(hop) != is_go {
            self.mix = self.mix.turned(hop);
            choose(&self.folder.path().join(PROGRAMS), hop, is_go)?;
        }
        Ok(())
    }

    /// Waits until the registry knows these and no others.
    pub(crate) async fn registers(&self, names: &[&str]) -> Result<()> {
        registers(&self.node, names).await
    }

    /// Waits until every program on the way to `endpoint` knows the connection `id` and takes it for up; answers with
    /// what the manager knows.
    pub(crate) async fn is_up(&self, id: &str, endpoint: &str) -> Result<Connection> {
        let programs = [
            ("nsm", Hop::Nsmgr),
            ("forwarder", Hop::Forwarder),
            (endpoint, Hop::Endpoint),
        ];
        let programs = programs.map(|(program, hop)| (program, self.mix.is_go(hop)));
        is_up(&self.node, &self.near, &programs, id).await
    }

    /// Waits until the kernel is as it was.
    pub(crate) async fn clean(&self) -> Result<()> {
        is_as(&self.before).await
    }

    /// Whether every program runs and the kernel is as it was.
    pub(crate) async fn is_whole(&mut self) -> Result<()> {
        let running = [
            self.node.registry.as_mut(),
            self.node.nsmgr.as_mut(),
            self.node.forwarder.as_mut(),
            self.endpoint.as_mut(),
        ];
        let running = running
            .into_iter()
            .map(|program| program.context("a program has not been started again"));
        for program in running.chain(self.node.issuer.as_mut().map(Ok)) {
            let program = program?;
            if let Some(status) = program.ended()? {
                bail!("{} has ended: {status}", program.name());
            }
        }
        self.clean().await
    }

    /// What a program has logged so far.
    pub(crate) fn log(&self, program: &str) -> Result<String> {
        let file = self.folder.path().join(format!("{program}.log"));
        std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// Keeps the logs and says where they are.
    pub(crate) fn keep(self) -> String {
        let Self { mut folder, .. } = self;
        folder.disable_cleanup(true);
        keep(&folder)
    }

    /// Ends everything in order and checks that nothing is left, neither in the registry nor in the kernel.
    pub(crate) async fn end(mut self) -> Result<()> {
        for (left, program) in [
            (&["forwarder"][..], self.endpoint.take()),
            (&[], self.node.forwarder.take()),
        ] {
            stops(program.context("a program is not there at the end")?).await?;
            self.registers(left).await?;
        }
        for program in [self.node.nsmgr.take(), self.node.registry.take()] {
            stops(program.context("a program is not there at the end")?).await?;
        }
        self.clean().await?;
        self.node.end().await
    }
}

/// Waits until these programs know the connection `id` and take it for up; the last one is the endpoint. Answers with
/// what the first one knows. Those of theirs, of which it is said beside each, tell the state of the last request, which
/// is that to reselect until the next refresh.
pub(crate) async fn is_up(
    node: &Node,
    near: &Pod,
    programs: &[(&str, bool)],
    id: &str,
) -> Result<Connection> {
    let mut first = None;
    let endpoint = programs.last().map(|(endpoint, _)| *endpoint);
    for (program, is_go) in programs {
        let url = node.url(program);
        let what = format!("{program} has {id} up");
        let known = wait_for(PATIENCE, &what, async || {
            let known = looks(node, near, &url, id).await.unwrap_or_default();
            let is_up = |known: &Connection| {
                let is_there = match known.state() {
                    State::Up => true,
                    State::ReselectRequested => *is_go,
                    _ => false,
                };
                is_there && Some(known.network_service_endpoint_name.as_str()) == endpoint
            };
            Ok(known.filter(is_up))
        });
        let known = known.await?;
        first.get_or_insert(known);
    }
    first.context("nobody was asked")
}

/// What the program at `url` knows of the client's connection `id`.
async fn looks(node: &Node, near: &Pod, url: &str, id: &str) -> Result<Option<Connection>> {
    let client = Client::at(url, "looker", node.identity().clone(), near.path())?;
    let known = client.look(id).await;
    client.end().await;
    known
}

pub(crate) fn keep(folder: &TempDir) -> String {
    format!("the logs are in {}", folder.path().display())
}

/// The file that is a program of this place.
pub(crate) fn file(hop: Hop, is_go: bool) -> Result<std::path::PathBuf> {
    match (is_go, previous::folder()) {
        (false, _) => ours()?.file(hop.program()),
        (true, Some(folder)) => Programs::in_folder(folder).file(hop.program()),
        (true, None) => peer::file(),
    }
}

/// Our programs: those of `NSM_PROGRAMS`, or those that were built with the tests.
fn ours() -> Result<Programs> {
    match std::env::var_os("NSM_PROGRAMS") {
        Some(folder) => Ok(Programs::in_folder(folder)),
        None => Programs::beside_us(),
    }
}

/// A folder of links to the programs of this mixture.
pub(crate) fn programs(folder: &Path, mix: Mix) -> Result<Programs> {
    std::fs::create_dir(folder)?;
    symlink(ours()?.file("nsm")?, folder.join("nsm"))?;
    for hop in Hop::ALL {
        symlink(file(hop, mix.is_go(hop))?, folder.join(hop.program()))?;
    }
    Ok(Programs::in_folder(folder))
}

/// Links to our program in place of theirs, or the other way around.
pub(crate) fn choose(folder: &Path, hop: Hop, is_go: bool) -> Result<()> {
    let link = folder.join(hop.program());
    std::fs::remove_file(&link)?;
    Ok(symlink(file(hop, is_go)?, link)?)
}

/// Waits until the registry of a mesh knows these and no others.
pub(crate) async fn registers(node: &Node, names: &[&str]) -> Result<()> {
    let mut known = Vec::new();
    let done = wait_for(PATIENCE, "the registry knows them", async || {
        // A registry that has just started again may end a connection that was made to it.
        known = registered(node).await.unwrap_or_default();
        Ok((known == names).then_some(()))
    });
    done.await
        .with_context(|| format!("it knows {known:?} and not {names:?}"))
}

/// The names of what is registered, in order.
async fn registered(node: &Node) -> Result<Vec<String>> {
    let component = node.component();
    let tokens = Tokens::new(Duration::from_secs(600));
    let pool = Pool::new(component, node.identity().clone(), tokens);
    let ctx = Ctx::own(component, PATIENCE);
    let remote = Dialer::<NseRegistry>::dial(&pool, &node.url("registry"), ctx.deadline()).await?;
    let query = NetworkServiceEndpointQuery {
        network_service_endpoint: Some(Default::default()),
        watch: false,
    };
    let mut found = remote.find(&ctx, query).await?;
    let mut names = Vec::new();
    while let Some(found) = found.next().await {
        names.extend(found?.network_service_endpoint.map(|endpoint| endpoint.name));
    }
    names.sort();
    Ok(names)
}

/// Starts the client program in `pod`, with these variables as well.
pub(crate) fn client(node: &Node, pod: &Pod, variables: &[(&str, String)]) -> Result<Program> {
    let mut all = vec![
        ("NSM_CONNECT_TO", node.manager_url()),
        ("NSM_NETWORK_SERVICES", SERVICE.to_string()),
        ("NSM_REQUEST_TIMEOUT", "5s".to_string()),
    ];
    all.extend_from_slice(variables);
    node.launch("nsc", Hop::Client.program(), Some(pod), &all)
}

/// Waits until the kernel is as it was.
pub(crate) async fn is_as(before: &Snapshot) -> Result<()> {
    let mut left = Vec::new();
    let done = wait_for(PATIENCE, "the kernel is as before", async || {
        // Not on the thread on which our own calls run.
        left = tokio::task::spawn_blocking(|| Snapshot::take(None))
            .await??
            .since(before);
        // Nodes know each other by now.
        left.retain(|object| !(object.starts_with("neighbour") && object.contains(" on underlay in node-")));
        Ok(left.is_empty().then_some(()))
    });
    done.await.with_context(|| format!("left behind: {left:?}"))
}

/// Tells a program to end, which it has to do with exit code 0.
pub(crate) async fn stops(program: Program) -> Result<()> {
    let name = program.name().to_string();
    let status = program.stop().await?;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}
