// SPDX-License-Identifier: Apache-2.0
//! The client: gives its pod a wire to each service it names.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

fn main() -> ExitCode {
    nsm_sdk::app::main(nsc::run)
}
