// SPDX-License-Identifier: Apache-2.0
//! An endpoint that gives its clients an address and answers their pings.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod run;
mod settings;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
