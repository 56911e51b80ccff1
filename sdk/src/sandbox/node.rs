// SPDX-License-Identifier: Apache-2.0
//! One node of a mesh: its kernel, and the programs on it, each of which can be started and killed at any time.
//!
//! **Guarantees**: a program that is killed does nothing any more that others could see, from one moment to the next,
//! and loses everything that it knew; its namespace, its identity and its socket's path stay. Started again it is the
//! real chain of that program, with new randomness from the seed.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::network::{Host, Network, Way};
use super::programs::{self, Running};
use crate::chains::endpoint::Gate;
use crate::core::{Chain, Clock, Component, Error, NetworkService, Result};
use crate::dataplane::model::Model;
use crate::identity::{Identity, Issuer, Tokens};
use crate::policy::Policies;

/// When the world begins.
const BEGIN: Duration = Duration::from_secs(1_700_000_000);

/// A program of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Knows services and endpoints.
    Registry,
    /// The manager of the node.
    Manager,
    /// Makes the wires.
    Forwarder,
    /// Gives out addresses; the number tells one from the other.
    Endpoint(usize),
    /// Asks for wires; the number tells one from the other.
    Client(usize),
}

impl Program {
    /// The name that it writes into paths.
    pub fn name(self) -> String {
        match self {
            Self::Registry => "registry".into(),
            Self::Manager => "nsmgr".into(),
            Self::Forwarder => "forwarder".into(),
            Self::Endpoint(number) => format!("nse-{number}"),
            Self::Client(number) => format!("nsc-{number}"),
        }
    }
}

/// What a node is to be.
pub struct Settings {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// An empty directory for sockets, and for files that stand for namespaces.
    pub directory: PathBuf,
    /// How long tokens are valid.
    pub token_lifetime: Duration,
    /// Elements that every endpoint has before its own.
    pub probe: Chain<NetworkService>,
    /// Elements that every client has behind those that mend its wires.
    pub client_probe: Chain<NetworkService>,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    settings: Settings,
    network: Network,
    kernel: Model,
    /// Outlives all programs: issues identities, and waits for those that were killed.
    keeper: Component,
    issuer: Issuer,
    random: Mutex<StdRng>,
    running: Mutex<BTreeMap<Program, Life>>,
}

/// A program between its start and its death.
struct Life {
    component: Component,
    power: CancellationToken,
    running: Running,
}

/// What a new program is given.
pub(super) struct Birth {
    pub(super) component: Component,
    pub(super) power: CancellationToken,
    pub(super) identity: Identity,
    pub(super) tokens: Tokens,
    pub(super) way: Arc<Way>,
}

impl Birth {
    /// Who it is and whom it lets in. Errors: `no-policy`, `bad-mask`.
    pub(super) fn gate(&self, masks: &str) -> Result<Gate> {
        Ok(Gate {
            identity: self.identity.clone(),
            tokens: self.tokens.clone(),
            policies: Policies::choose(masks)?,
        })
    }

    /// How others reach it; what it serves is left to be filled in.
    pub(super) fn host(&self) -> Host {
        Host {
            component: self.component.clone(),
            identity: self.identity.clone(),
            power: self.power.clone(),
            network_service: None,
            nse_registry: None,
            ns_registry: None,
        }
    }
}

impl Node {
    /// A node on which nothing runs yet.
    ///
    /// Errors: as [`Issuer::new`].
    pub fn new(settings: Settings) -> Result<Self> {
        let mut random = StdRng::seed_from_u64(settings.seed);
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + BEGIN);
        let keeper = Component::with("keeper", clock, StdRng::from_rng(&mut random));
        Ok(Self(Arc::new(Inner {
            issuer: Issuer::new(&keeper, "sandbox")?,
            keeper,
            settings,
            network: Network::default(),
            kernel: Model::new(),
            random: Mutex::new(random),
            running: Mutex::default(),
        })))
    }

    /// The wires between the programs.
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    /// The node's kernel.
    pub fn kernel(&self) -> &Model {
        &self.0.kernel
    }

    /// The node's clock.
    pub fn now(&self) -> SystemTime {
        self.0.keeper.now()
    }

    /// The elements that every endpoint has before its own.
    pub(super) fn probe(&self) -> &Chain<NetworkService> {
        &self.0.settings.probe
    }

    /// The elements that every client has behind those that mend its wires.
    pub(super) fn client_probe(&self) -> &Chain<NetworkService> {
        &self.0.settings.client_probe
    }

    /// The socket of a program.
    pub(super) fn socket(&self, program: Program) -> PathBuf {
        self.0.settings.directory.join(format!("{}.sock", program.name()))
    }

    /// The file that stands for the network namespace of a program.
    pub fn netns(&self, program: Program) -> PathBuf {
        self.0
            .settings
            .directory
            .join(format!("{}.netns", program.name()))
    }

    /// Starts a program in place of its earlier life.
    ///
    /// Errors: those of its chain, and `file` when its files cannot be made.
    pub fn start(&self, program: Program) -> Result<()> {
        self.kill(program);
        let file = |error: std::io::Error| Error::internal("file", error.to_string());
        if !self.netns(program).exists() {
            File::create(self.netns(program)).map_err(file)?;
        }
        let random = StdRng::seed_from_u64(self.0.random.lock().random());
        let component = Component::with(program.name(), self.0.keeper.clock(), random);
        let identity = self
            .0
            .issuer
            .follow(&format!("/ns/default/pod/{}", program.name()))?;
        let tokens = Tokens::new(self.0.settings.token_lifetime);
        let power = CancellationToken::new();
        let way = self.0.network.dialer(&component, &identity, &tokens, &power);
        let birth = Birth {
            component: component.clone(),
            power: power.clone(),
            identity,
            tokens,
            way,
        };
        let running = programs::start(self, program, &birth)?;
        let life = Life {
            component,
            power,
            running,
        };
        self.0.running.lock().insert(program, life);
        Ok(())
    }

    /// Ends a program without a word to anybody.
    pub fn kill(&self, program: Program) {
        let Some(life) = self.0.running.lock().remove(&program) else {
            return;
        };
        life.power.cancel();
        life.component.shutdown().cancel();
        self.0.network.forget_dead();
        self.0.keeper.spawn_detached("kill", async move {
            life.component.end().await;
            drop(life);
        });
    }

    /// Whether a program runs.
    pub fn is_up(&self, program: Program) -> bool {
        self.0.running.lock().contains_key(&program)
    }

    /// The component and the chain of a client; nothing while it is dead.
    pub fn client(&self, number: usize) -> Option<(Component, Chain<NetworkService>)> {
        let running = self.0.running.lock();
        let life = running.get(&Program::Client(number))?;
        Some((life.component.clone(), life.running.client.clone()?))
    }

    /// Takes an endpoint out of the registry, or puts it there again.
    pub fn announce(&self, endpoint: usize, is_there: bool) {
        let running = self.0.running.lock();
        let life = running.get(&Program::Endpoint(endpoint));
        if let Some(wanted) = life.and_then(|life| life.running.wanted.as_ref()) {
            wanted.send_replace(is_there);
        }
    }

    /// How many tasks each running program has.
    pub fn tasks(&self) -> BTreeMap<Program, usize> {
        let running = self.0.running.lock();
        running
            .iter()
            .map(|(program, life)| (*program, life.component.tasks()))
            .collect()
    }

    /// Ends everything, and waits until every task of every life is gone.
    pub async fn end(&self) {
        let programs: Vec<_> = self.0.running.lock().keys().copied().collect();
        programs.into_iter().for_each(|program| self.kill(program));
        self.0.keeper.end().await;
    }
}
