// SPDX-License-Identifier: Apache-2.0
//! Mixed meshes whose identities come from SPIRE, which renews them every half minute.
//!
//! `NSM_SPIRE` names the folder with its programs, as `cargo xtask test spire` builds them from
//! [this module](spire/go.mod); without it these tests are not there. SPIRE knows a program by its file, so each is
//! a file of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Node, Program, Programs, Start};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Bench;
use crate::caller::ID;
use crate::life::{carries, renewed};
use crate::mesh::{Mesh, PROGRAMS, file, stops};
use crate::mix::{Hop, Mix};

/// Names the folder with `spire-server` and `spire-agent`.
const SPIRE: &str = "NSM_SPIRE";

/// How long an identity is valid; it is renewed at half of that.
const LIFETIME: Duration = Duration::from_secs(60);

/// How long a program of SPIRE may take until it is ready.
const TO_START: Duration = Duration::from_secs(30);

/// Who vouches for the programs.
const AGENT: &str = "spiffe://demo.nsm/agent";

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let Some(programs) = std::env::var_os(SPIRE).map(PathBuf::from) else {
        return Vec::new();
    };
    let mixes = [
        "spire_go_nobody",
        "spire_go_client",
        "spire_go_nsmgr",
        "spire_go_forwarder",
        "spire_go_registry",
        "spire_go_endpoint",
        "spire_go_nsmgr_forwarder_registry_endpoint",
        "spire_go_client_forwarder_registry_endpoint",
        "spire_go_client_nsmgr_registry_endpoint",
        "spire_go_client_nsmgr_forwarder_endpoint",
        "spire_go_client_nsmgr_forwarder_registry",
        "spire_go_client_nsmgr_forwarder_registry_endpoint",
    ];
    let shared = Arc::new(Mutex::new(None));
    let test = |name: &'static str| {
        let (shared, programs) = (Arc::clone(&shared), programs.clone());
        bench.trial(name, async move |bench| {
            bench.end().await.context("the mesh before could not be ended")?;
            let mut shared = shared.lock().await;
            if shared.is_none() {
                *shared = Some(Spire::start(&programs).await.context("SPIRE does not start")?);
            }
            let spire = shared.as_ref().context("it has just been started")?;
            works(spire, Mix::named(name)).await
        })
    };
    mixes.map(test).into()
}

/// A client program gets its wire, keeps it while every identity on the way is renewed, and gives it back.
async fn works(spire: &Spire, mix: Mix) -> Result<()> {
    let mesh = spire.mesh(mix).await.context("cannot start a mesh")?;
    let done = async {
        let client = mesh.client()?;
        carries(&mesh, "nse", &mesh.far).await.context("at first")?;
        let last = mesh.node.component().now() + LIFETIME;
        let done = renewed(last, async || mesh.is_up(ID, "nse").await).await;
        done.context("after identities were renewed")?;
        carries(&mesh, "nse", &mesh.far).await.context("afterwards")?;
        stops(client).await?;
        mesh.clean().await
    };
    match done.await {
        Ok(()) => mesh.end().await,
        Err(error) => Err(error.context(mesh.keep())),
    }
}

/// A server and an agent that know every program of a node, and us.
struct Spire {
    folder: TempDir,
    _server: Program,
    _agent: Program,
}

impl Spire {
    /// Starts the programs of this folder.
    async fn start(programs: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nsm-spire-").tempdir()?;
        fs::create_dir(folder.path().join(PROGRAMS))?;
        let at = folder.path();
        let server = run(programs, at, "server", &[]).await?;
        let token = ask(programs, at, &["token", "generate", "-spiffeID", AGENT])?;
        let token = token.trim().strip_prefix("Token: ").context("no token")?;
        let us = std::env::current_exe()?;
        register(programs, at, "node", &us)?;
        for hop in Hop::ALL {
            register(programs, at, hop.name(), &at.join(PROGRAMS).join(hop.program()))?;
        }
        let agent = run(programs, at, "agent", &["-joinToken", token]).await?;
        Ok(Self {
            _server: server,
            _agent: agent,
            folder,
        })
    }

    /// A mesh of this mixture.
    async fn mesh(&self, mix: Mix) -> Result<Mesh> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let files = self.folder.path().join(PROGRAMS);
        for hop in Hop::ALL {
            let (from, to) = (file(hop, mix.is_go(hop))?, files.join(hop.program()));
            if to.exists() {
                fs::remove_file(&to)?;
            }
            // Another name of the same file; where that cannot be, because of another file system, a copy.
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))?;
        }
        let agent = self.folder.path().join("agent.sock");
        let start = async |settings| Node::start_under(settings, agent, |_, _| ()).await;
        Mesh::of(mix, folder, Programs::in_folder(files), start).await
    }
}

/// Starts the server or the agent, and waits until it listens.
async fn run(programs: &Path, folder: &Path, part: &str, arguments: &[&str]) -> Result<Program> {
    let text = match part {
        "server" => include_str!("spire/server.conf"),
        _ => include_str!("spire/agent.conf"),
    };
    let config = folder.join(format!("{part}.conf"));
    let text = text.replace("@FOLDER@", &folder.display().to_string());
    fs::write(&config, text.replace("@LIFETIME@", &format!("{LIFETIME:?}")))?;
    let config = config.to_str().context("the folder's name is not UTF-8")?;
    let what = Start {
        name: part,
        file: &programs.join(format!("spire-{part}")),
        pod: None,
        folder,
    };
    let mut program = Program::start(what, &[&["run", "-config", config], arguments].concat(), &[])?;
    let socket = folder.join(format!("{part}.sock"));
    let until = Instant::now() + TO_START;
    program
        .wait_for("it listened", until, async |_| {
            UnixStream::connect(&socket).await.ok().map(drop)
        })
        .await?;
    Ok(program)
}

/// Asks the server for something, and answers with what it says.
fn ask(programs: &Path, folder: &Path, what: &[&str]) -> Result<String> {
    let done = Command::new(programs.join("spire-server"))
        .args(what)
        .arg("-socketPath")
        .arg(folder.join("server.sock"))
        .output()?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(
        done.status.success(),
        "{what:?}: {said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(said)
}

/// The program that is this file has the identity `name`.
fn register(programs: &Path, folder: &Path, name: &str, file: &Path) -> Result<()> {
    let (id, selector) = (
        format!("spiffe://demo.nsm/{name}"),
        format!("unix:path:{}", file.display()),
    );
    let entry = [
        "entry",
        "create",
        "-parentID",
        AGENT,
        "-spiffeID",
        &id,
        "-selector",
        &selector,
    ];
    ask(programs, folder, &entry).map(drop)
}
