// SPDX-License-Identifier: Apache-2.0
//! Keeps services and endpoints in memory.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod run;
mod settings;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
