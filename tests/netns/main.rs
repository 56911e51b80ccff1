// SPDX-License-Identifier: Apache-2.0
//! The real programs on the real kernel, in namespaces of their own, as root or as anybody.
//!
//! One file a theme, each with a list of its tests. The tests share a node, and each checks that it has left nothing
//! of itself there; after a failure, and for those that end the node, there is a new one.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

mod contexts;
mod demo;
mod dns;
mod explain;
mod faults;
mod forwarders;
mod heal;
mod hostile;
mod input;
mod kernel;
mod kills;
mod life;
mod mesh;
mod moves;
mod passthrough;
mod peers;
mod power;
mod programs;
mod remote;
mod soak;
mod supply;
mod traces;
mod transit;
mod underlay;
mod wires;
mod world;

use world::World;

fn main() -> ExitCode {
    match nsm::mesh::enter() {
        Ok(None) => {}
        Ok(Some(code)) => return code,
        Err(error) => {
            eprintln!("these tests need namespaces of their own: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let bench = match Bench::new() {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests = [
        wires::tests,
        kernel::tests,
        contexts::tests,
        input::tests,
        hostile::tests,
        faults::tests,
        life::tests,
        mesh::tests,
        remote::tests,
        moves::tests,
        passthrough::tests,
        peers::tests,
        power::tests,
        programs::tests,
        transit::tests,
        underlay::tests,
        heal::tests,
        forwarders::tests,
        demo::tests,
        supply::tests,
        explain::tests,
        traces::tests,
        dns::tests,
        soak::tests,
        kills::tests,
    ];
    let tests = tests.iter().flat_map(|tests| tests(&bench)).collect();
    let done = libtest_mimic::run(&arguments, tests).exit_code();
    match bench.end() {
        Ok(()) => done,
        Err(error) => {
            eprintln!("at the end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the tests run on.
#[derive(Clone)]
struct Bench {
    runtime: Arc<Runtime>,
    /// The node that is shared, while there is one.
    world: Arc<Mutex<Option<World>>>,
}

impl Bench {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Arc::new(runtime),
            world: Arc::default(),
        })
    }

    /// A test on the shared node, which is as before when it has passed.
    fn test<F>(&self, name: &'static str, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut World) -> Result<()> + Send + 'static,
    {
        self.trial(name, async move |shared| {
            let mut world = match shared.take() {
                Some(world) => world,
                None => World::new().await.context("cannot start a node")?,
            };
            let done = match run(&mut world).await {
                Ok(()) => world.is_whole().await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => *shared = Some(world),
                Err(error) => return Err(error.context(world.keep())),
            }
            Ok(())
        })
    }

    /// A test that has a node to itself, and ends it.
    fn alone<F>(&self, name: &'static str, run: F) -> Trial
    where
        F: AsyncFnOnce(World) -> Result<()> + Send + 'static,
    {
        self.alone_with(name, &[], run)
    }

    /// The same, with variables that all programs have.
    fn alone_with<F>(
        &self,
        name: &'static str,
        variables: &'static [(&'static str, &'static str)],
        run: F,
    ) -> Trial
    where
        F: AsyncFnOnce(World) -> Result<()> + Send + 'static,
    {
        self.trial(name, async move |shared| {
            if let Some(world) = shared.take() {
                world.end().await.context("the node before could not be ended")?;
            }
            let variables = variables.iter().map(|(name, value)| (*name, value.to_string()));
            let world = World::with(variables.collect()).await;
            run(world.context("cannot start a node")?).await
        })
    }

    fn trial<F>(&self, name: &'static str, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut Option<World>) -> Result<()> + Send + 'static,
    {
        let bench = self.clone();
        Trial::test(name, move || {
            let done = bench
                .runtime
                .block_on(async { run(&mut *bench.world.lock().await).await });
            done.map_err(|error| Failed::from(format!("{error:#}")))
        })
    }

    /// Ends the shared node and checks that nothing is left of it.
    fn end(&self) -> Result<()> {
        self.runtime.block_on(async {
            match self.world.lock().await.take() {
                Some(world) => world.end().await,
                None => Ok(()),
            }
        })
    }
}
