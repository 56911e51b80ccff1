// SPDX-License-Identifier: Apache-2.0
//! An endpoint that passes its clients' packets on to another endpoint of the service, through the rules of its pod.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod forwarding;
mod run;
mod settings;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
