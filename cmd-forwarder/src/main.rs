// SPDX-License-Identifier: Apache-2.0
//! Makes the wires of a node.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod run;
mod settings;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
