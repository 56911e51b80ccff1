// SPDX-License-Identifier: Apache-2.0
//! The client: gives its pod a wire to each service it names.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// The allocator of musl is many times slower; that of glibc takes less memory than this one.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(nsc::run)
}
