// SPDX-License-Identifier: Apache-2.0
//! What a running mesh can be asked: a line of JSON each way, over a socket in its folder.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::manifest::Spec;

/// The socket in the folder.
pub(super) const SOCKET: &str = "mesh.sock";

/// As many bytes a question or an answer has at most.
pub(super) const MOST: u64 = 16 << 20;

/// A question.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Ask {
    /// Start a program in a pod of its own.
    Pod(NewPod),
    /// Register a service, or unregister it.
    Service {
        /// Which.
        service: Spec,
        /// Whether it goes.
        is_deleted: bool,
    },
    /// Where a pod or a node is.
    Place {
        /// Its name.
        name: String,
    },
    /// Kill a program.
    Kill {
        /// The pod, or what the program is to its node.
        name: String,
        /// The node.
        node: usize,
    },
    /// Start it again.
    Start {
        /// The pod, or what the program is to its node.
        name: String,
        /// The node.
        node: usize,
    },
    /// Remove pods.
    Delete {
        /// Their names.
        names: Vec<String>,
    },
    /// Tell what runs.
    List {
        /// As JSON.
        is_json: bool,
    },
    /// Tell all that there is.
    Snapshot,
    /// End.
    Down,
}

/// A program, and where it runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct NewPod {
    /// The name of pod and program.
    pub(super) name: String,
    /// Counts from 1.
    pub(super) node: usize,
    /// The program file.
    pub(super) program: String,
    /// Whether it listens for requests.
    pub(super) is_endpoint: bool,
    /// Whether to wait until it is ready.
    pub(super) is_awaited: bool,
    /// Its settings.
    pub(super) env: Vec<(String, String)>,
}

/// Where a pod is.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Place {
    /// A process in the namespaces of the mesh.
    pub(super) keeper: u32,
    /// The file of its network namespace, as that process sees it.
    pub(super) netns: PathBuf,
}

/// An answer.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Told {
    /// Whether all is well.
    pub(super) is_good: bool,
    /// What to print.
    pub(super) text: String,
}

/// The folder of the mesh.
pub(super) fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("NSM_MESH").filter(|folder| !folder.is_empty()) {
        Some(folder) => std::path::absolute(folder)?,
        None => {
            let user = rustix::process::getuid().as_raw();
            std::env::temp_dir().join(format!("nsm-mesh-{user}"))
        }
    };
    // The mesh has a /run of its own.
    ensure!(
        !folder.starts_with("/run") && !folder.starts_with("/var/run"),
        "NSM_MESH={} is below /run, which a mesh has for itself: name a folder elsewhere",
        folder.display()
    );
    Ok(folder)
}

/// Whether a mesh is running in the folder.
pub(super) fn is_up() -> Result<bool> {
    Ok(UnixStream::connect(folder()?.join(SOCKET)).is_ok())
}

/// Asks the mesh, and waits for its answer. What went wrong there is an error here.
pub(super) fn ask(ask: &Ask) -> Result<Told> {
    let folder = folder()?;
    let mut socket = UnixStream::connect(folder.join(SOCKET)).with_context(|| {
        format!(
            "no mesh is running in {}: start one by `nsm mesh up`",
            folder.display()
        )
    })?;
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    socket.write_all(&line)?;
    let mut answer = String::new();
    let mut reader = BufReader::new(std::io::Read::take(socket, MOST));
    reader.read_line(&mut answer)?;
    ensure!(
        !answer.is_empty(),
        "the mesh has ended without an answer; its log was {}",
        folder.join("mesh.log").display()
    );
    let answer: Result<Told, String> = serde_json::from_str(&answer)?;
    answer.map_err(anyhow::Error::msg)
}
