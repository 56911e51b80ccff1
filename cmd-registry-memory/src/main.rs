// SPDX-License-Identifier: Apache-2.0
//! Keeps services and endpoints in memory.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod run;
mod settings;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
