// SPDX-License-Identifier: Apache-2.0
//! What only a process of its own can show: what it holds, and what it may do.

use std::process::{Command, ExitCode};

use nsm_sdk::core::Component;
use nsm_sdk_kernel::Kernel;

use crate::ROLE;
use crate::world::World;

/// Does what the process was started for.
pub(crate) fn play(role: &str) -> ExitCode {
    match role {
        "cycles" => cycles(),
        "start" => start(),
        _ => ExitCode::FAILURE,
    }
}

/// A command that plays `role`, through `wrapper` if there is one.
pub(crate) fn command(role: &str, wrapper: &[&str]) -> Command {
    let this = std::env::current_exe().expect("a process has a file");
    let mut command = match wrapper {
        [] => Command::new(this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
    };
    command.env(ROLE, role);
    command
}

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}"))
        .expect("a list")
        .count()
}

/// A thousand wires come and go; what the process holds stays the same.
fn cycles() -> ExitCode {
    let world = World::new();
    let cycle = |i: usize| {
        let wire = world.wire(&format!("c70-{i}"), &format!("nsm-{}", i % 10));
        world.up(&wire);
        world.down(&wire);
    };
    (0..100).for_each(cycle);
    world.wait_clean();
    let held = || (count("fd"), count("task"));
    let before = held();
    (100..1100).for_each(cycle);
    world.wait_clean();
    // The runtime may end a thread that it does not need.
    world.wait("what is held to be what it was", || {
        let after = held();
        after.0 <= before.0 && after.1 <= before.1
    });
    ExitCode::SUCCESS
}

/// Starts a data plane, and prints why it does not.
fn start() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let started = runtime.block_on(Kernel::start(
        &Component::new("start"),
        nsm_sdk_kernel::Config::default(),
    ));
    match started {
        Ok(_) => println!("started"),
        Err(error) => println!("{}: {error}", error.reason()),
    }
    ExitCode::SUCCESS
}
