// SPDX-License-Identifier: Apache-2.0
//! Serves identities to the pods of a node, where there is no SPIRE.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod pods;
mod run;
mod secret;
mod settings;

/// The allocator of musl is many times slower; that of glibc takes less memory than this one.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
