// SPDX-License-Identifier: Apache-2.0
//! Has endpoints started when clients ask for them.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod command;
mod pods;
mod run;
mod settings;
mod template;

/// That of glibc takes an eighth of the CPU time of a request more, and that of musl many times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
