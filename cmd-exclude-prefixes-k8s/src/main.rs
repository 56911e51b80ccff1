// SPDX-License-Identifier: Apache-2.0
//! Tells managers which addresses the cluster uses, so that no endpoint gives them out.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod output;
mod prefixes;
mod run;
mod settings;
mod sources;

/// That of glibc takes an eighth of the CPU time of a request more, and that of musl many times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
