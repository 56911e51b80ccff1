// SPDX-License-Identifier: Apache-2.0
//! Keeps services and endpoints in Kubernetes.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod run;
mod settings;

/// The allocator of musl is many times slower; that of glibc takes less memory than this one.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
