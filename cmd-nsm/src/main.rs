// SPDX-License-Identifier: Apache-2.0
//! `nsm`: the command line for people; by the name `kubectl-nsm`, a plug-in of kubectl.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// That of glibc takes an eighth of the CPU time of a request more, and that of musl many times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm::cli::main()
}
