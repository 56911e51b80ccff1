// SPDX-License-Identifier: Apache-2.0
//! Makes the wires of a node.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod address;
mod run;
mod settings;
mod tunnels;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
