// SPDX-License-Identifier: Apache-2.0
//! Meshes that are mixed of our programs and of programs on the Go SDK, on the real kernel.
//!
//! What is theirs is [`peer/`](peer/main.go), a program that depends on their SDK as any module does and plays each
//! role. It is built before the tests, by the Go that is on the path; `NSM_GO_PEER` names one that is built already.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

mod apart;
mod ask;
mod beside;
mod caller;
mod heal;
mod life;
mod matrix;
mod mesh;
mod mix;
mod outage;
mod peer;
mod previous;
mod record;
mod refused;
mod restarts;
mod secret;
mod spire;
mod table;
mod watch;

use mesh::Mesh;
use mix::{Hop, Mix};
use table::Table;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    let is_of_previous = previous::folder().is_some();
    if !is_of_previous && !nsm::mesh::is_inside() && !arguments.list {
        peer::build()?;
    }
    if let Some(code) = nsm::mesh::enter().context("these tests need namespaces of their own")? {
        return Ok(code);
    }
    let bench = Bench::new()?;
    let tests = [
        ask::tests,
        record::tests,
        matrix::tests,
        apart::tests,
        secret::tests,
        heal::tests,
        table::tests,
        refused::tests,
        life::tests,
        spire::tests,
    ];
    let (beside, tests) = match is_of_previous {
        true => (Vec::new(), previous::tests(&bench)),
        false => (
            [life::lives, restarts::tests]
                .iter()
                .flat_map(|tests| tests(&bench))
                .collect(),
            tests.iter().flat_map(|tests| tests(&bench)).collect(),
        ),
    };
    arguments.test_threads = Some(beside::AT_ONCE);
    let besides = libtest_mimic::run(&arguments, beside);
    if beside::is_one() {
        return Ok(besides.exit_code());
    }
    arguments.test_threads = Some(1);
    let done = libtest_mimic::run(&arguments, tests);
    bench.runtime.block_on(bench.end()).context("at the end")?;
    Ok(if besides.has_failed() { besides } else { done }.exit_code())
}

/// What the tests run on.
#[derive(Clone)]
struct Bench {
    runtime: Arc<Runtime>,
    /// The mesh that tests share which want the same mixture, while there is one.
    shared: Arc<Mutex<Option<Mesh>>>,
    /// What has passed.
    table: Arc<Mutex<Table>>,
}

impl Bench {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Arc::new(runtime),
            shared: Arc::default(),
            table: Arc::default(),
        })
    }

    /// A test on a mesh of this mixture, which is as before when it has passed.
    fn test<F>(&self, name: impl Into<String>, mix: Mix, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut Mesh) -> Result<()> + Send + 'static,
    {
        self.trial(name, async move |bench| bench.on(mix, run).await)
    }

    /// The same, with a row in the document.
    fn listed<F>(&self, name: &'static str, mix: Mix, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut Mesh) -> Result<()> + Send + 'static,
    {
        self.trial(name, async move |bench| {
            bench.on(mix, run).await?;
            bench.table.lock().await.comes_and_goes(name, mix);
            Ok(())
        })
    }

    async fn on(&self, mix: Mix, run: impl AsyncFnOnce(&mut Mesh) -> Result<()>) -> Result<()> {
        let mut mesh = self.mesh(mix).await?;
        let done = match run(&mut mesh).await {
            Ok(()) => mesh.is_whole().await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => *self.shared.lock().await = Some(mesh),
            Err(error) => return Err(error.context(mesh.keep())),
        }
        Ok(())
    }

    /// A test on a mesh of its own, whose identities are valid that long.
    fn alone<F>(&self, name: &'static str, mix: Mix, svid_lifetime: Duration, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut Mesh) -> Result<()> + Send + 'static,
    {
        self.trial(name, async move |bench| {
            bench.on_its_own(mix, svid_lifetime, run).await
        })
    }

    async fn on_its_own(
        &self,
        mix: Mix,
        svid_lifetime: Duration,
        run: impl AsyncFnOnce(&mut Mesh) -> Result<()>,
    ) -> Result<()> {
        self.end().await.context("the mesh before could not be ended")?;
        let started = Mesh::new(mix, Some(svid_lifetime)).await;
        let mut mesh = started.context("cannot start a mesh")?;
        match run(&mut mesh).await {
            Ok(()) => mesh.end().await,
            Err(error) => Err(error.context(mesh.keep())),
        }
    }

    /// A test that mostly waits, and makes its own mesh: it runs beside others of the kind. When it has passed, `row`
    /// tells so in the document.
    fn beside<F>(&self, name: &'static str, row: fn(&mut Table, &str), run: F) -> Trial
    where
        F: AsyncFnOnce(&Self) -> Result<()> + Send + 'static,
    {
        if beside::is_one() {
            return self.trial(name, run);
        }
        let table = Arc::clone(&self.table);
        Trial::test(name, move || {
            beside::run(name).map_err(|error| Failed::from(format!("{error:#}")))?;
            row(&mut table.blocking_lock(), name);
            Ok(())
        })
    }

    /// A test that makes its own mesh, or needs none.
    fn trial<F>(&self, name: impl Into<String>, run: F) -> Trial
    where
        F: AsyncFnOnce(&Self) -> Result<()> + Send + 'static,
    {
        let bench = self.clone();
        Trial::test(name, move || {
            let done = bench.runtime.block_on(run(&bench));
            done.map_err(|error| Failed::from(format!("{error:#}")))
        })
    }

    /// The mesh that is there, if its programs are those of `mix`, or a new one.
    async fn mesh(&self, mix: Mix) -> Result<Mesh> {
        let there = self.shared.lock().await.take();
        match there {
            Some(mut mesh) if mesh.mix().servers() == mix.servers() => {
                mesh.choose(Hop::Client, mix.is_go(Hop::Client))?;
                Ok(mesh)
            }
            there => {
                if let Some(mesh) = there {
                    mesh.end().await.context("the mesh before could not be ended")?;
                }
                Mesh::new(mix, None).await.context("cannot start a mesh")
            }
        }
    }

    /// Ends the shared mesh and checks that nothing is left of it.
    async fn end(&self) -> Result<()> {
        match self.shared.lock().await.take() {
            Some(mesh) => mesh.end().await,
            None => Ok(()),
        }
    }
}
