// SPDX-License-Identifier: Apache-2.0
//! The real programs on the real kernel, in namespaces of their own, as root or as anybody.
//!
//! One file a theme, each with a list of its tests; every test has a node of its own.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

mod wires;
mod world;

fn main() -> ExitCode {
    match nsm::mesh::enter() {
        Ok(None) => {}
        Ok(Some(code)) => return code,
        Err(error) => {
            eprintln!("these tests need namespaces of their own: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests = [wires::tests()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// A test by its name; it runs on a runtime of its own.
fn test<F>(name: &'static str, run: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime
            .block_on(run())
            .map_err(|error| Failed::from(format!("{error:#}")))
    })
}
