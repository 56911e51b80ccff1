// SPDX-License-Identifier: Apache-2.0
//! The process that keeps a mesh: makes it, answers for it, and removes it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use nsm_sdk::core::{Component, Error};
use nsm_sdk::identity::Issuer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use super::ask::{Ask, MOST, SOCKET, Told};
use super::pods::Pods;
use super::up::Up;

/// The socket in the folder that tells programs who they are.
pub(super) const AGENT: &str = "agent.sock";

/// The trust domain.
const TRUST_DOMAIN: &str = "mesh.nsm";

/// Keeps a mesh in `folder` until it is told to end.
pub(super) fn run(up: Up, folder: &Path) -> Result<ExitCode> {
    if let Some(code) = crate::mesh::enter()? {
        return Ok(code);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let left = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let component = Component::new("issuer");
        let agent = folder.join(AGENT);
        let issuer = Issuer::new(&component, TRUST_DOMAIN)?;
        let _serving = issuer.serve_each(&agent, 0o600, Arc::new(identity))?;
        let mut pods = tokio::select! {
            pods = Pods::start(&up, folder, agent) => pods?,
            _ = interrupt.recv() => return Ok(Vec::new()),
            _ = terminate.recv() => return Ok(Vec::new()),
        };
        let asker = tokio::select! {
            asker = serve(&mut pods, folder) => Some(asker?),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        let left = pods.end().await;
        let told = left
            .as_ref()
            .map(|left| farewell(left))
            .map_err(|error| format!("{error:#}"));
        // The folder goes before the answer: whoever has it may start the next mesh.
        std::fs::remove_dir_all(folder)?;
        if let Some(asker) = asker {
            answer(asker, told).await?;
        }
        left
    })?;
    print!("{}", farewell(&left).text);
    Ok(ExitCode::from(u8::from(!left.is_empty())))
}

/// What is said of what is left.
fn farewell(left: &[String]) -> Told {
    let text = match left {
        [] => "the mesh is down; left behind: nothing\n".to_string(),
        left => format!("the mesh is down; LEFT BEHIND:\n  {}\n", left.join("\n  ")),
    };
    Told {
        is_good: left.is_empty(),
        text,
    }
}

/// Answers one after the other until somebody wants the mesh to end; answers with whoever that is.
async fn serve(pods: &mut Pods, folder: &Path) -> Result<UnixStream> {
    let path = folder.join(SOCKET);
    let listener =
        UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    eprintln!("the mesh is up");
    loop {
        let (mut asker, _) = listener.accept().await?;
        let told = match question(&mut asker).await {
            Ok(None) => continue,
            Ok(Some(Ask::Down)) => return Ok(asker),
            Ok(Some(ask)) => Box::pin(pods.answer(ask)).await,
            Err(error) => Err(error),
        };
        let told = told.map_err(|error| format!("{error:#}"));
        if let Err(error) = answer(asker, told).await {
            eprintln!("somebody left without the answer: {error:#}");
        }
    }
}

/// What somebody asks; nothing if they only looked whether we are there.
async fn question(asker: &mut UnixStream) -> Result<Option<Ask>> {
    let mut line = String::new();
    BufReader::new(asker.take(MOST)).read_line(&mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        serde_json::from_str(&line).context("that is no question: are both of one version?")?,
    ))
}

async fn answer(mut asker: UnixStream, told: Result<Told, String>) -> Result<()> {
    let mut line = serde_json::to_vec(&told)?;
    line.push(b'\n');
    asker.write_all(&line).await?;
    Ok(asker.shutdown().await?)
}

/// The path of a process's identity: the name that it was started under. Nobody else can open the socket.
fn identity(process: i32) -> Result<String, Error> {
    if process.unsigned_abs() == std::process::id() {
        return Ok("/node".to_string());
    }
    let variables = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    let mut variables = variables.split(|byte| *byte == 0);
    let name = variables.find_map(|variable| variable.strip_prefix(b"NSM_NAME="));
    let name = name.map(|name| String::from_utf8_lossy(name).into_owned());
    name.map(|name| format!("/{name}")).ok_or_else(|| {
        let text =
            format!("process {process} has no variable NSM_NAME: only programs of the mesh have identities");
        Error::denied("unknown-caller", text)
    })
}
