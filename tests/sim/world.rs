// SPDX-License-Identifier: Apache-2.0
//! A node on virtual time, the applications on it, and what they remember.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nsm_sdk::core::{Chain, Clock, Component};
use nsm_sdk::sandbox::{GRACE, Node, Program, Settings};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::history::History;
use crate::invariants;
use crate::probe::{Mended, Probe};
use crate::wire::{How, Wire};

/// How long tokens are valid, and with them what nobody refreshes.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// How long the programs may take to find each other again after the last fault.
const RECOVERY: Duration = Duration::from_secs(30);

/// How long after its last use a program forgets what it has looked up.
const IDLE: Duration = Duration::from_secs(130);

/// Cheap to clone; clones are the same world.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    node: Node,
    history: History,
    /// Runs what applications and fate do.
    fate: Component,
    random: Mutex<StdRng>,
    size: Size,
    wires: Vec<Wire>,
    deaths: Mutex<Deaths>,
    /// What happens at a step that has not come yet.
    trap: Mutex<Option<Trap>>,
    directory: TempDir,
}

/// After how many steps of calls what happens.
struct Trap {
    steps: usize,
    act: Box<dyn FnOnce(&World) + Send>,
    sprung: oneshot::Sender<()>,
}

/// Who has died.
#[derive(Default)]
struct Deaths {
    /// How often somebody died who stands between applications and their addresses.
    count: u64,
    /// What the count was when this one died last.
    last: BTreeMap<String, u64>,
}

/// How large a world is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) endpoints: usize,
    pub(crate) clients: usize,
    /// Of each client.
    pub(crate) wires: usize,
}

impl World {
    /// A world in which everything runs and is registered.
    pub(crate) async fn begin(seed: u64, size: Size) -> Self {
        let history = History::new();
        // Where no two sockets ever have one number: a new one that is found under an old one's would be chance.
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let mended = Mended::default();
        let node = Node::new(Settings {
            seed,
            directory: directory.path().to_path_buf(),
            token_lifetime: TOKEN_LIFETIME,
            probe: Probe::chain(&history),
            client_probe: Chain::new(vec![Arc::new(mended.clone())]),
        });
        let node = node.expect("a node");
        let mut random = StdRng::seed_from_u64(!seed);
        let fate = Component::with("fate", Clock::System, StdRng::from_rng(&mut random));
        let wires =
            (0..size.clients).flat_map(|client| (0..size.wires).map(move |number| Wire::new(client, number)));
        let world = Self(Arc::new(Inner {
            node,
            history,
            fate,
            random: Mutex::new(random),
            size,
            wires: wires.collect(),
            deaths: Mutex::default(),
            trap: Mutex::default(),
            directory,
        }));
        let watched = Arc::downgrade(&world.0);
        world.node().network().set_tap(move |call, step| {
            if let Some(world) = watched.upgrade().map(World) {
                world.0.history.call(call, step);
                world.step();
            }
        });
        let watched = Arc::downgrade(&world.0);
        mended.set(move |id, connection| {
            if let Some(world) = watched.upgrade().map(World) {
                let current = connection.map(|connection| (connection.clone(), world.deaths()));
                let wire = world.wires().iter().find(|wire| wire.id == id);
                wire.into_iter().for_each(|wire| wire.becomes(current.clone()));
            }
        });
        world
            .programs()
            .into_iter()
            .for_each(|program| world.start(program));
        sleep(RECOVERY).await;
        world
    }

    pub(crate) fn node(&self) -> &Node {
        &self.0.node
    }

    pub(crate) fn history(&self) -> &History {
        &self.0.history
    }

    pub(crate) fn wires(&self) -> &[Wire] {
        &self.0.wires
    }

    pub(crate) fn size(&self) -> Size {
        self.0.size
    }

    pub(crate) fn deaths(&self) -> u64 {
        self.0.deaths.lock().count
    }

    /// What [`World::deaths`] was when this program died last.
    pub(crate) fn last_death(&self, name: &str) -> u64 {
        self.0.deaths.lock().last.get(name).copied().unwrap_or_default()
    }

    /// Draws from the world's randomness.
    pub(crate) fn draw<R>(&self, draw: impl FnOnce(&mut StdRng) -> R) -> R {
        draw(&mut self.0.random.lock())
    }

    pub(crate) fn note(&self, event: impl Display) {
        self.0.history.note(event);
    }

    pub(crate) fn fail(&self, what: impl Display) {
        self.0.history.fail(what);
    }

    fn check(&self, invariant: impl FnOnce(&World) -> Result<(), String>) {
        if let Err(broken) = invariant(self) {
            self.fail(broken);
        }
    }

    /// Whether the kernel holds something of this connection.
    pub(crate) fn has_objects(&self, id: &str) -> bool {
        self.node()
            .kernel()
            .objects()
            .iter()
            .any(|object| object.owner == id)
    }

    /// Every program, in the order in which they are started.
    pub(crate) fn programs(&self) -> Vec<Program> {
        let Size {
            endpoints, clients, ..
        } = self.size();
        let base = [Program::Registry, Program::Manager, Program::Forwarder];
        let endpoints = (0..endpoints).map(Program::Endpoint);
        base.into_iter()
            .chain(endpoints)
            .chain((0..clients).map(Program::Client))
            .collect()
    }

    /// Starts a program, unless it runs.
    pub(crate) fn start(&self, program: Program) {
        if !self.node().is_up(program) {
            self.note(format!("{} starts", program.name()));
            self.node()
                .start(program)
                .expect("a program of the sandbox starts");
        }
    }

    /// Kills a program.
    pub(crate) fn kill(&self, program: Program) {
        self.node().kill(program);
        self.0.history.died(&program.name());
        if program != Program::Registry {
            let mut deaths = self.0.deaths.lock();
            deaths.count += 1;
            let count = deaths.count;
            deaths.last.insert(program.name(), count);
        }
        for wire in self
            .wires()
            .iter()
            .filter(|wire| Program::Client(wire.client) == program)
        {
            wire.forget();
        }
    }

    /// Lets something happen right before the step of a call that is so many steps away; ends then.
    pub(crate) fn trap<F>(&self, steps: usize, act: F) -> impl Future<Output = ()> + use<F>
    where
        F: FnOnce(&World) + Send + 'static,
    {
        let (sprung, wait) = oneshot::channel();
        let act = Box::new(act);
        *self.0.trap.lock() = Some(Trap { steps, act, sprung });
        async move {
            if wait.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Lets nothing more happen.
    pub(crate) fn disarm(&self) {
        self.0.trap.lock().take();
    }

    fn step(&self) {
        let due = self.0.trap.lock().take_if(|trap| {
            trap.steps -= 1;
            trap.steps == 0
        });
        if let Some(trap) = due {
            (trap.act)(self);
            let _nobody_may_wait = trap.sprung.send(());
        }
    }

    /// Lets something happen beside everything else.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.fate.spawn_detached("fate", future);
    }

    /// No faults any more, and everything runs; each application has its wire in the end, or closes it.
    pub(crate) async fn calm(&self, keeps: impl Fn(&Wire) -> bool) {
        self.note("calm");
        self.node().network().set_delay(Duration::from_millis(1));
        self.node().kernel().set_fault(|_| None);
        for program in self.programs() {
            self.start(program);
            if let Program::Endpoint(number) = program {
                self.node().announce(number, true);
            }
        }
        sleep(RECOVERY).await;
        for wire in self.wires() {
            self.settle(wire, keeps(wire)).await;
        }
    }

    async fn settle(&self, wire: &Wire, keep: bool) {
        let began = Instant::now();
        while !(wire.ask(self, How::default()).await) {
            if began.elapsed() > RECOVERY * 2 {
                self.fail(format!("I8: {} cannot be connected", wire.id));
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        if !keep && !wire.close(self, How::default().within).await {
            self.fail(format!("{} cannot be closed", wire.id));
        }
    }

    /// Lets time pass until nothing is left that nobody wants, and looks.
    pub(crate) async fn expire(&self) {
        self.note("everything that nobody wants expires");
        sleep(TOKEN_LIFETIME.max(GRACE) + RECOVERY).await;
        self.check(invariants::owned);
        self.check(invariants::connected);
        self.check(|world| invariants::apart(world, |wire| wire.answer().is_some()));
    }

    /// Checks what must be true at any time.
    pub(crate) fn look(&self) {
        self.check(|world| invariants::apart(world, |wire| wire.is_known(world)));
    }

    /// Closes every wire that is there; nothing is left then.
    pub(crate) async fn close_all(&self) {
        for wire in self.wires().iter().filter(|wire| wire.answer().is_some()) {
            if !wire.close(self, How::default().within).await {
                self.fail(format!("{} cannot be closed", wire.id));
            }
        }
        let left = self.node().kernel().objects();
        if !left.is_empty() {
            self.fail(format!("I2: after all closes there is {left:?}"));
        }
    }

    /// The tasks of each program once nobody has asked for anything for a while.
    pub(crate) async fn idle_tasks(&self) -> BTreeMap<Program, usize> {
        sleep(IDLE).await;
        self.node().tasks()
    }

    /// I10: nothing is left that was not there when nobody had asked for anything yet, and nothing at all once
    /// everything has ended.
    pub(crate) async fn ends_as_it_began(&self, idle: &BTreeMap<Program, usize>) {
        let left = self.idle_tasks().await;
        if left != *idle {
            self.fail(format!("I10: there were {idle:?} tasks, and there are {left:?}"));
        }
        self.end().await;
        let open = self.open_files();
        if open > 0 {
            self.fail(format!("I10: {open} files are still open"));
        }
    }

    async fn end(&self) {
        self.0.fate.end().await;
        let began = Instant::now();
        self.node().end().await;
        if began.elapsed() > RECOVERY {
            self.fail(format!("I10: some tasks ended only after {:?}", began.elapsed()));
        }
    }

    /// I10: how many descriptors of files of this world are open.
    fn open_files(&self) -> usize {
        let here = self.0.directory.path();
        let files = std::fs::read_dir("/proc/self/fd").expect("the open files of this process");
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        links.filter(|link| link.starts_with(here)).count()
    }
}
