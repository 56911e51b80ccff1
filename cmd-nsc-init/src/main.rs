// SPDX-License-Identifier: Apache-2.0
//! Gives its pod a wire to each service it names, and ends, so that what starts next finds its network. The client, by
//! the same name and with the same settings, takes the wires over.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// That of glibc takes an eighth of the CPU time of a request more, and that of musl many times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(nsc::init)
}
