// SPDX-License-Identifier: Apache-2.0
//! The real program on a real API server of Kubernetes, under the rights of its manifest.
//!
//! `CLUSTER_PROGRAMS` names the folder with the program `kube`. The tests share one API server, one after the other, and
//! leave nothing in it.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

#[path = "../../../cmd-registry-k8s/tests/kubernetes/control.rs"]
#[expect(dead_code, reason = "what only the registry's tests do is there, too")]
mod control;
mod faults;
mod sources;
mod world;

use world::World;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bench = match runtime {
        Ok(runtime) => Bench {
            runtime: Arc::new(runtime),
            world: Arc::default(),
        },
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests = [sources::tests, faults::tests];
    let tests = tests.iter().flat_map(|tests| tests(&bench)).collect();
    let done = libtest_mimic::run(&arguments, tests).exit_code();
    bench
        .runtime
        .block_on(async { drop(bench.world.lock().await.take()) });
    done
}

/// What the tests run on.
#[derive(Clone)]
struct Bench {
    runtime: Arc<Runtime>,
    /// The API server that is shared, while there is one.
    world: Arc<Mutex<Option<World>>>,
}

impl Bench {
    /// A test on the shared API server; after a failure there is a new one.
    fn test<F>(&self, name: &'static str, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut World) -> Result<()> + Send + 'static,
    {
        let bench = self.clone();
        Trial::test(name, move || {
            let done = bench.runtime.block_on(async {
                let mut shared = bench.world.lock().await;
                let mut world = match shared.take() {
                    Some(world) => world,
                    None => World::start().await.context("cannot start an API server")?,
                };
                if let Err(error) = run(&mut world).await {
                    return Err(error.context(world.keep()));
                }
                *shared = Some(world);
                Ok::<(), anyhow::Error>(())
            });
            done.map_err(|error| Failed::from(format!("{error:#}")))
        })
    }
}
