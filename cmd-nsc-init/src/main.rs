// SPDX-License-Identifier: Apache-2.0
//! Gives its pod a wire to each service it names, and ends, so that what starts next finds its network. The client, by
//! the same name and with the same settings, takes the wires over.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

fn main() -> ExitCode {
    nsm_sdk::app::main(nsc::init)
}
