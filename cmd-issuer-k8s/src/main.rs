// SPDX-License-Identifier: Apache-2.0
//! Gives pods their identities where there is no SPIRE.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod bundle;
mod pods;
mod requests;
mod run;
mod secret;
mod settings;
mod signer;

/// That of glibc takes an eighth of the CPU time of a request more, and that of musl many times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
