// SPDX-License-Identifier: Apache-2.0
//! A node of theirs or of ours with one endpoint, and the client that asks it.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use nsm::mesh::{Attached, Client, Node, Pod, Program, Settings};
use nsm_sdk::core::Request;
use tokio::time::Instant;

use super::files::Files;

/// Whose programs a mesh has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All on the Go SDK, with a forwarder that makes no links.
    Go,
    /// The same, with a registry that asks no policies: with them it takes minutes to fill.
    GoOpen,
    /// Ours, with a forwarder that makes no links.
    Bare,
    /// Ours, as people run them.
    Links,
}

impl Kind {
    /// What its figures begin with.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Go | Self::GoOpen => "go",
            Self::Bare => "ours",
            Self::Links => "ours_with_links",
        }
    }
}

/// How often a request is made until it counts as failed.
const TRIES: usize = 5;

/// How many callers there are, each with a client of its own.
const CALLERS: usize = 64;

/// A connection, and who has asked for it.
pub(super) struct Made {
    caller: usize,
    pub(super) attached: Attached,
}

/// A running mesh.
pub(super) struct Mesh {
    pub(super) kind: Kind,
    pub(super) node: Node,
    /// One for each caller.
    clients: Vec<Client>,
    /// How long each program took until it was ready.
    pub(super) started: Vec<(String, Duration)>,
    /// How many calls were refused.
    refused: Cell<usize>,
    endpoint: Program,
    _pods: [Pod; 2],
}

/// Starts meshes of these kinds, measures, and ends them. When something fails their logs stay.
pub(super) async fn on<const COUNT: usize, T>(
    kinds: [Kind; COUNT],
    files: &Files,
    measure: impl AsyncFnOnce([&Mesh; COUNT]) -> Result<T>,
) -> Result<T> {
    let mut folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
    let measured = async {
        let mut meshes = Vec::with_capacity(COUNT);
        for kind in kinds {
            let started = Mesh::start(kind, files, folder.path()).await;
            meshes.push(started.with_context(|| format!("cannot start the mesh {}", kind.name()))?);
        }
        let measured = measure(std::array::from_fn(|at| &meshes[at])).await?;
        for mesh in meshes {
            mesh.end().await?;
        }
        Ok(measured)
    };
    let measured: Result<_> = measured.await;
    folder.disable_cleanup(measured.is_err());
    measured.with_context(|| format!("the logs are in {}", folder.path().display()))
}

impl Mesh {
    async fn start(kind: Kind, files: &Files, parent: &Path) -> Result<Self> {
        let folder = parent.join(kind.name());
        std::fs::create_dir(&folder)?;
        let settings = Settings {
            programs: files.of(kind, &folder.join("programs"))?,
            folder,
            // Theirs loses options of calls at a level above this one.
            log_level: "INFO".to_string(),
            identities: vec!["nse".to_string()],
            svid_lifetime: None,
            variables: Vec::new(),
            host: None,
        };
        let pods = [
            Pod::new(&format!("{}-near", kind.name()))?,
            Pod::new(&format!("{}-far", kind.name()))?,
        ];
        let mut started = Vec::new();
        let node = Node::start(settings, |name, took| started.push((name.to_string(), took))).await?;
        let variables = [
            // The kernel finds the neighbours of at most 1,024 Ethernet ends by itself; those of IP are told to it.
            ("NSM_PAYLOAD", "IP".to_string()),
            ("NSM_CIDR_PREFIX", "172.16.0.0/16".to_string()),
        ];
        let (endpoint, took) = node.start_endpoint("nse", &pods[1], &variables).await?;
        started.push(("nse".to_string(), took));
        let clients =
            (0..CALLERS).map(|caller| Client::new(&node, &format!("bench-{caller}"), pods[0].path()));
        let clients = clients.collect::<Result<_>>()?;
        Ok(Self {
            kind,
            node,
            clients,
            started,
            refused: Cell::default(),
            endpoint,
            _pods: pods,
        })
    }

    /// The programs that requests pass.
    pub(super) fn programs(&self) -> impl Iterator<Item = &Program> {
        let servers = self.node.programs().filter(|program| program.name() != "issuer");
        servers.chain([&self.endpoint])
    }

    /// The name of a figure of this mesh.
    pub(super) fn named(&self, figure: &str) -> String {
        format!("{}.{figure}", self.kind.name())
    }

    /// Makes as many connections, whose names begin with this word, by so many callers; answers those of each.
    pub(super) async fn attach(&self, word: &str, count: usize, callers: usize) -> Result<Vec<Vec<Made>>> {
        let own = |caller| std::iter::repeat(caller).zip((caller..count).step_by(callers));
        at_once((0..callers).map(own), async |(caller, number)| {
            let (id, service) = wire(word, number);
            self.request(caller, &id, &service).await
        })
        .await
    }

    /// Repeats the requests of all callers.
    pub(super) async fn refresh_all(&self, made: Vec<Vec<Made>>) -> Result<Vec<Vec<Made>>> {
        at_once(made, async |made| self.again(made).await).await
    }

    /// Closes the connections of all callers; answers how long each has waited.
    pub(super) async fn close_all(&self, made: Vec<Vec<Made>>) -> Result<Vec<Vec<Duration>>> {
        at_once(made, async |made| self.close(made).await).await
    }

    /// Asks for a connection; `id` is its name.
    pub(super) async fn request(&self, caller: usize, id: &str, service: &str) -> Result<Made> {
        let request = self.client(caller)?.ask(id, service)?;
        self.ask(caller, request).await
    }

    /// Repeats a request.
    pub(super) async fn again(&self, made: Made) -> Result<Made> {
        self.ask(made.caller, made.attached.request).await
    }

    async fn ask(&self, caller: usize, request: Request) -> Result<Made> {
        let client = self.client(caller)?;
        let (mut attached, answered) = self.granted(async || client.again(request.clone()).await).await?;
        attached.answered = answered;
        Ok(Made { caller, attached })
    }

    /// Calls until it is granted, as clients do. Theirs refuses now and then; what a refused try took is a part of how
    /// long the answer took, which is the second that is returned.
    async fn granted<T>(&self, call: impl AsyncFn() -> Result<T>) -> Result<(T, Duration)> {
        let began = Instant::now();
        let mut tries = 1;
        loop {
            match call().await {
                Ok(granted) => return Ok((granted, began.elapsed())),
                Err(error) => {
                    self.refused.set(self.refused.get() + 1);
                    if tries == TRIES {
                        return Err(error);
                    }
                    tries += 1;
                }
            }
        }
    }

    fn client(&self, caller: usize) -> Result<&Client> {
        self.clients
            .get(caller)
            .with_context(|| format!("{caller} is no caller: there are {CALLERS}"))
    }

    /// How many calls were refused until now.
    pub(super) fn refused(&self) -> usize {
        self.refused.get()
    }

    /// Closes a connection; answers how long its caller waited.
    pub(super) async fn close(&self, made: Made) -> Result<Duration> {
        let client = self.client(made.caller)?;
        let close = async || client.close(made.attached.request.clone()).await;
        Ok(self.granted(close).await?.1)
    }

    async fn end(self) -> Result<()> {
        for client in self.clients {
            client.end().await;
        }
        self.endpoint.stop().await?;
        self.node.end().await
    }
}

/// All callers at once, each with the work of its own, one after the other.
async fn at_once<I, T>(
    callers: impl IntoIterator<Item = impl IntoIterator<Item = I>>,
    call: impl AsyncFn(I) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    let call = &call;
    let done = callers.into_iter().map(|own| async move {
        let mut done = Vec::new();
        for one in own {
            done.push(call(one).await?);
        }
        Ok(done)
    });
    try_join_all(done).await
}

/// The id of a connection, and the URL of what it asks for.
pub(super) fn wire(word: &str, number: usize) -> (String, String) {
    (
        format!("{word}-{number}"),
        format!("kernel://icmp-responder/{word}{number}"),
    )
}
