// SPDX-License-Identifier: Apache-2.0
//! A node: manager and forwarder, and the endpoints and clients that use them. The first one has issuer and registry too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nsm_sdk::app::REGISTERED;
use nsm_sdk::core::Component;
use nsm_sdk::identity::{Identity, Source};
use nsm_sdk::transport::health;
use tokio::time::Instant;

use super::{Host, Pod, Program, Programs, Start};

/// How long a program may take until it is ready.
const TO_START: Duration = Duration::from_secs(20);

/// The trust domain of the mesh.
const TRUST_DOMAIN: &str = "demo.nsm";

/// The marks of interfaces, with the number of the node: the nodes of a mesh share one kernel, and a forwarder takes
/// for its own what has its mark.
const LINK_GROUPS: u32 = 0x4e53_4d00;

/// Where managers and registries listen for other nodes.
const MANAGER_PORT: u16 = 5001;
const REGISTRY_PORT: u16 = 5002;

fn tcp(ip: &IpAddr, port: u16) -> String {
    format!("tcp://{}", SocketAddr::new(*ip, port))
}

/// What a [`Node`] is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the program files are.
    pub programs: Programs,
    /// Where sockets, state and logs go; must exist.
    pub folder: PathBuf,
    /// The level at which the programs log.
    pub log_level: String,
    /// Who gets an identity besides the first node's own programs: endpoints and clients by name, and the programs of
    /// further nodes ([`Node::join`]).
    pub identities: Vec<String>,
    /// How long an identity is valid, if not as long as the issuer gives it by itself.
    pub svid_lifetime: Option<Duration>,
    /// Variables that all programs have.
    pub variables: Vec<(&'static str, String)>,
    /// Where the node's programs run; without one in our own namespace, and nobody else can reach them.
    pub host: Option<Arc<Host>>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    number: u8,
    registry_url: String,
    component: Component,
    identity: Identity,
    /// The Workload API socket of all, when somebody else than the issuer says who they are.
    agent: Option<PathBuf>,
    /// The development issuer, of the first node.
    pub issuer: Option<Program>,
    /// The registry, while it runs.
    pub registry: Option<Program>,
    /// The manager, while it runs.
    pub nsmgr: Option<Program>,
    /// The forwarder, while it runs.
    pub forwarder: Option<Program>,
}

impl Node {
    /// Starts issuer, registry, manager and forwarder, each when the one before it is ready. `progress` is told what
    /// is ready and after how long.
    pub async fn start(settings: Settings, mut progress: impl FnMut(&str, Duration)) -> Result<Self> {
        let component = Component::new("node");
        let began = Instant::now();
        let mut issuer = start_issuer(&settings)?;
        let socket = settings.socket("node");
        issuer
            .wait_for("it served identities", began + TO_START, async |_| {
                tokio::net::UnixStream::connect(&socket).await.ok().map(drop)
            })
            .await?;
        let identity = Source::WorkloadApi(socket)
            .follow(&component, began + TO_START)
            .await?;
        progress("issuer", began.elapsed());
        let node = Self::with(settings, component, identity);
        let node = Self {
            issuer: Some(issuer),
            ..node
        };
        node.started(progress).await
    }

    /// The same without an issuer: the socket `agent` tells all programs, and us, who they are.
    pub async fn start_under(
        settings: Settings,
        agent: PathBuf,
        progress: impl FnMut(&str, Duration),
    ) -> Result<Self> {
        let component = Component::new("node");
        let source = Source::WorkloadApi(agent.clone());
        let identity = source.follow(&component, Instant::now() + TO_START).await?;
        let node = Self::with(settings, component, identity);
        let node = Self {
            agent: Some(agent),
            ..node
        };
        node.started(progress).await
    }

    /// The first node, of which nothing runs yet.
    fn with(settings: Settings, component: Component, identity: Identity) -> Self {
        Self {
            registry_url: settings.url("registry"),
            settings,
            number: 1,
            component,
            identity,
            agent: None,
            issuer: None,
            registry: None,
            nsmgr: None,
            forwarder: None,
        }
    }

    async fn started(mut self, mut progress: impl FnMut(&str, Duration)) -> Result<Self> {
        progress("registry", self.start_registry().await?);
        progress("nsmgr", self.start_nsmgr().await?);
        progress("forwarder", self.start_forwarder().await?);
        Ok(self)
    }

    /// Starts the manager and the forwarder of node `number` on `host`, which uses issuer and registry of this one. Its
    /// programs are `nsmgr-<number>` and `forwarder-<number>`, and need identities under these names.
    pub async fn join(
        &self,
        number: u8,
        host: Arc<Host>,
        progress: impl FnMut(&str, Duration),
    ) -> Result<Self> {
        let registry_url = match &self.settings.host {
            Some(host) => tcp(&host.ip(), REGISTRY_PORT),
            None => self.settings.url("registry"),
        };
        self.join_with(number, host, registry_url, progress).await
    }

    /// The same for a node that uses the registry at `registry_url`: it knows nothing of what is registered elsewhere.
    pub async fn join_with(
        &self,
        number: u8,
        host: Arc<Host>,
        registry_url: String,
        mut progress: impl FnMut(&str, Duration),
    ) -> Result<Self> {
        let mut node = Self {
            settings: Settings {
                host: Some(host),
                ..self.settings.clone()
            },
            number,
            registry_url,
            component: self.component.clone(),
            identity: self.identity.clone(),
            agent: self.agent.clone(),
            issuer: None,
            registry: None,
            nsmgr: None,
            forwarder: None,
        };
        progress(&node.own("nsmgr"), node.start_nsmgr().await?);
        progress(&node.own("forwarder"), node.start_forwarder().await?);
        Ok(node)
    }

    /// The name of a program of this node.
    fn own(&self, program: &str) -> String {
        match self.number {
            1 => program.to_string(),
            number => format!("{program}-{number}"),
        }
    }

    /// A socket on this machine, and one that other nodes can reach if there are any.
    fn listen_on(&self, name: &str, port: u16) -> String {
        let unix = self.settings.url(name);
        match &self.settings.host {
            Some(host) => format!("{unix},{}", tcp(&host.ip(), port)),
            None => unix,
        }
    }

    /// Starts the registry and waits until it is ready; answers how long that took.
    pub async fn start_registry(&mut self) -> Result<Duration> {
        let variables = [("NSM_LISTEN_ON", self.listen_on("registry", REGISTRY_PORT))];
        let url = self.settings.url("registry");
        let (program, took) = self
            .ready("registry", "registry-memory", &variables, (&url, ""))
            .await?;
        self.registry = Some(program);
        Ok(took)
    }

    /// Starts the manager and waits until it is ready; answers how long that took.
    pub async fn start_nsmgr(&mut self) -> Result<Duration> {
        let variables = [
            ("NSM_LISTEN_ON", self.listen_on(&self.own("nsm"), MANAGER_PORT)),
            ("NSM_REGISTRY_URL", self.registry_url.clone()),
            ("NODE_NAME", format!("node-{}", self.number)),
        ];
        let (name, url) = (self.own("nsmgr"), self.manager_url());
        let (program, took) = self.ready(&name, "nsmgr", &variables, (&url, "")).await?;
        self.nsmgr = Some(program);
        Ok(took)
    }

    /// Starts the forwarder and waits until it is registered; answers how long that took.
    pub async fn start_forwarder(&mut self) -> Result<Duration> {
        let name = self.own("forwarder");
        let (listen_on, state) = (self.url(&name), self.settings.folder.join(&name));
        let mut variables = vec![
            ("NSM_LISTEN_ON", listen_on.clone()),
            ("NSM_CONNECT_TO", self.manager_url()),
            ("NSM_STATE_DIR", state.display().to_string()),
            (
                "NSM_LINK_GROUP",
                (LINK_GROUPS | u32::from(self.number)).to_string(),
            ),
        ];
        match &self.settings.host {
            Some(host) => {
                variables.push(("NSM_TUNNEL_IP", host.tunnel_ip().to_string()));
                variables.push(("NSM_WIREGUARD_ENGINE", host.wireguard_engine().to_string()));
            }
            // There is no other node, and the address of the machine's default route is none of ours.
            None => variables.push(("NSM_TUNNEL_IP", Ipv4Addr::LOCALHOST.to_string())),
        }
        let (program, took) = self
            .ready(&name, "forwarder", &variables, (&listen_on, REGISTERED))
            .await?;
        self.forwarder = Some(program);
        Ok(took)
    }

    /// Starts an endpoint in `pod` under the name and identity `name`, and waits until it is registered; answers how
    /// long that took.
    pub async fn start_endpoint(
        &self,
        name: &str,
        pod: &Pod,
        variables: &[(&str, String)],
    ) -> Result<(Program, Duration)> {
        let listen_on = self.url(name);
        let mut all = vec![
            ("NSM_LISTEN_ON", listen_on.clone()),
            ("NSM_CONNECT_TO", self.manager_url()),
        ];
        all.extend_from_slice(variables);
        let began = Instant::now();
        let mut program = self.launch(name, "nse-icmp", Some(pod), &all)?;
        self.wait_until_healthy(&mut program, &listen_on, REGISTERED)
            .await?;
        Ok((program, began.elapsed()))
    }

    /// Starts the client program in `pod` under the name and identity `name`.
    pub fn start_client(&self, name: &str, pod: &Pod, network_services: &str) -> Result<Program> {
        let variables = [
            ("NSM_CONNECT_TO", self.manager_url()),
            ("NSM_NETWORK_SERVICES", network_services.to_string()),
            ("NSM_LOG_FORMAT", "json".to_string()),
        ];
        self.launch(name, "nsc", Some(pod), &variables)
    }

    /// The programs that run, and their names.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.issuer
            .iter()
            .chain(&self.registry)
            .chain(&self.nsmgr)
            .chain(&self.forwarder)
    }

    /// Ends everything, in the order in which a node drains: forwarder, manager, registry, issuer. Nodes that have
    /// joined are ended before the first one.
    pub async fn end(self) -> Result<()> {
        for program in [self.forwarder, self.nsmgr, self.registry].into_iter().flatten() {
            program.stop().await?;
        }
        if self.number == 1 {
            self.component.end().await;
        }
        match self.issuer {
            Some(issuer) => issuer.stop().await.map(drop),
            None => Ok(()),
        }
    }

    /// The component by which we call the node's programs.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Who we are to the node's programs.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the program `name` listens on this machine; `nsm` is the manager of the first node.
    pub fn url(&self, name: &str) -> String {
        self.settings.url(name)
    }

    /// Where the manager of this node listens on this machine.
    pub fn manager_url(&self) -> String {
        self.url(&self.own("nsm"))
    }

    /// Where this node's programs run, if not in our own namespace.
    pub fn host(&self) -> Option<&Host> {
        self.settings.host.as_deref()
    }

    /// The folder with the program files.
    pub fn programs_folder(&self) -> &Path {
        self.settings.programs.folder()
    }

    /// The folder with sockets, state and logs.
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    async fn ready(
        &self,
        name: &str,
        program: &str,
        variables: &[(&str, String)],
        (url, service): (&str, &str),
    ) -> Result<(Program, Duration)> {
        let began = Instant::now();
        let mut program = self.launch(name, program, None, variables)?;
        self.wait_until_healthy(&mut program, url, service).await?;
        Ok((program, began.elapsed()))
    }

    /// Waits until a program serves `service`: the empty name once it listens, [`REGISTERED`] once it can be found.
    async fn wait_until_healthy(&self, program: &mut Program, url: &str, service: &str) -> Result<()> {
        let until = Instant::now() + TO_START;
        program
            .wait_for("it was ready", until, async |_| {
                let soon = Instant::now() + Duration::from_secs(1);
                match health::check(&self.component, &self.identity, url, service, soon).await {
                    // Programs of others tell of less: this one listens.
                    Err(error) if error.reason() != "unknown-service" => None,
                    _ => Some(()),
                }
            })
            .await
    }

    /// Starts `program` under the name and identity `name`, with these variables besides those that all have, and
    /// does not wait.
    pub fn launch(
        &self,
        name: &str,
        program: &str,
        pod: Option<&Pod>,
        variables: &[(&str, String)],
    ) -> Result<Program> {
        let socket = self.settings.socket(name);
        let mut all = vec![
            ("NSM_NAME", name.to_string()),
            ("NSM_LOG_LEVEL", self.settings.log_level.clone()),
            (
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}", self.agent.as_ref().unwrap_or(&socket).display()),
            ),
        ];
        all.extend_from_slice(&self.settings.variables);
        all.extend_from_slice(variables);
        let what = Start {
            name,
            file: &self.settings.programs.file(program)?,
            pod: pod.or(self.host().map(Host::pod)),
            folder: &self.settings.folder,
        };
        Program::start(what, &[], &all)
    }
}

impl Settings {
    /// The socket of the program `name`.
    fn url(&self, name: &str) -> String {
        format!("unix://{}/{name}.sock", self.folder.display())
    }

    /// The Workload API socket of `name`.
    fn socket(&self, name: &str) -> PathBuf {
        self.folder.join("identity").join(format!("{name}.sock"))
    }
}

fn start_issuer(settings: &Settings) -> Result<Program> {
    let folder = settings.folder.join("identity");
    let folder = folder.to_str().context("the folder's name is not UTF-8")?;
    let lifetime = settings.svid_lifetime.map(|lifetime| format!("{lifetime:?}"));
    let mut arguments = vec!["issuer", "--trust-domain", TRUST_DOMAIN, "--folder", folder];
    if let Some(lifetime) = &lifetime {
        arguments.extend(["--lifetime", lifetime]);
    }
    arguments.extend(["node", "registry", "nsmgr", "forwarder"]);
    arguments.extend(settings.identities.iter().map(String::as_str));
    let what = Start {
        name: "issuer",
        file: &settings.programs.file("nsm")?,
        pod: None,
        folder: &settings.folder,
    };
    Program::start(what, &arguments, &[])
}
