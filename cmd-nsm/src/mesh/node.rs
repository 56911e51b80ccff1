// SPDX-License-Identifier: Apache-2.0
//! A node: issuer, registry, manager and forwarder, and the endpoints and clients that use them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nsm_sdk::core::Component;
use nsm_sdk::identity::{Identity, Source};
use nsm_sdk::transport::health;
use tokio::time::Instant;

use super::{Pod, Program, Programs, Start};

/// How long a program may take until it is ready.
const TO_START: Duration = Duration::from_secs(20);

/// The trust domain of the mesh.
const TRUST_DOMAIN: &str = "demo.nsm";

/// What a [`Node`] is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the program files are.
    pub programs: Programs,
    /// Where sockets, state and logs go; must exist.
    pub folder: PathBuf,
    /// The level at which the programs log.
    pub log_level: String,
    /// Who gets an identity besides the node's own programs: the endpoints and clients by name.
    pub identities: Vec<String>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    component: Component,
    identity: Identity,
    /// The development issuer.
    pub issuer: Program,
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
        let mut node = Self {
            settings,
            component,
            identity,
            issuer,
            registry: None,
            nsmgr: None,
            forwarder: None,
        };
        progress("registry", node.start_registry().await?);
        progress("nsmgr", node.start_nsmgr().await?);
        progress("forwarder", node.start_forwarder().await?);
        Ok(node)
    }

    /// Starts the registry and waits until it is ready; answers how long that took.
    pub async fn start_registry(&mut self) -> Result<Duration> {
        let listen_on = self.url("registry");
        let variables = [("NSM_LISTEN_ON", listen_on.clone())];
        let (program, took) = self
            .ready("registry", "registry-memory", &variables, &listen_on)
            .await?;
        self.registry = Some(program);
        Ok(took)
    }

    /// Starts the manager and waits until it is ready; answers how long that took.
    pub async fn start_nsmgr(&mut self) -> Result<Duration> {
        let listen_on = self.url("nsm");
        let variables = [
            ("NSM_LISTEN_ON", listen_on.clone()),
            ("NSM_REGISTRY_URL", self.url("registry")),
            ("NODE_NAME", "node-1".to_string()),
        ];
        let (program, took) = self.ready("nsmgr", "nsmgr", &variables, &listen_on).await?;
        self.nsmgr = Some(program);
        Ok(took)
    }

    /// Starts the forwarder and waits until it is ready; answers how long that took.
    pub async fn start_forwarder(&mut self) -> Result<Duration> {
        let listen_on = self.url("forwarder");
        let state = self.settings.folder.join("forwarder");
        let variables = [
            ("NSM_LISTEN_ON", listen_on.clone()),
            ("NSM_CONNECT_TO", self.url("nsm")),
            ("NSM_STATE_DIR", state.display().to_string()),
        ];
        let (program, took) = self
            .ready("forwarder", "forwarder", &variables, &listen_on)
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
            ("NSM_CONNECT_TO", self.url("nsm")),
        ];
        all.extend_from_slice(variables);
        let began = Instant::now();
        let mut program = self.launch(name, "nse-icmp", Some(pod), &all)?;
        self.wait_until_healthy(&mut program, &listen_on).await?;
        Ok((program, began.elapsed()))
    }

    /// Starts the client program in `pod` under the name and identity `name`.
    pub fn start_client(&self, name: &str, pod: &Pod, network_services: &str) -> Result<Program> {
        let variables = [
            ("NSM_CONNECT_TO", self.url("nsm")),
            ("NSM_NETWORK_SERVICES", network_services.to_string()),
            ("NSM_LOG_FORMAT", "json".to_string()),
        ];
        self.launch(name, "nsc", Some(pod), &variables)
    }

    /// The programs that run, and their names.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        std::iter::once(&self.issuer)
            .chain(&self.registry)
            .chain(&self.nsmgr)
            .chain(&self.forwarder)
    }

    /// Ends everything, in the order in which a node drains: forwarder, manager, registry, issuer.
    pub async fn end(self) -> Result<()> {
        for program in [self.forwarder, self.nsmgr, self.registry].into_iter().flatten() {
            program.stop().await?;
        }
        self.component.end().await;
        self.issuer.stop().await?;
        Ok(())
    }

    /// The component by which we call the node's programs.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Who we are to the node's programs.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the program `name` listens; `nsm` is the manager.
    pub fn url(&self, name: &str) -> String {
        format!("unix://{}/{name}.sock", self.settings.folder.display())
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
        url: &str,
    ) -> Result<(Program, Duration)> {
        let began = Instant::now();
        let mut program = self.launch(name, program, None, variables)?;
        self.wait_until_healthy(&mut program, url).await?;
        Ok((program, began.elapsed()))
    }

    async fn wait_until_healthy(&self, program: &mut Program, url: &str) -> Result<()> {
        let until = Instant::now() + TO_START;
        program
            .wait_for("it was ready", until, async |_| {
                let soon = Instant::now() + Duration::from_secs(1);
                health::check(&self.component, &self.identity, url, "", soon)
                    .await
                    .ok()
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
        let mut all = vec![
            ("NSM_NAME", name.to_string()),
            ("NSM_LOG_LEVEL", self.settings.log_level.clone()),
            (
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}", self.settings.socket(name).display()),
            ),
        ];
        all.extend_from_slice(variables);
        let what = Start {
            name,
            file: &self.settings.programs.file(program)?,
            pod,
            folder: &self.settings.folder,
        };
        Program::start(what, &[], &all)
    }
}

impl Settings {
    /// The Workload API socket of `name`.
    fn socket(&self, name: &str) -> PathBuf {
        self.folder.join("identity").join(format!("{name}.sock"))
    }
}

fn start_issuer(settings: &Settings) -> Result<Program> {
    let folder = settings.folder.join("identity");
    let folder = folder.to_str().context("the folder's name is not UTF-8")?;
    let mut arguments = vec!["issuer", "--trust-domain", TRUST_DOMAIN, "--folder", folder];
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
