// SPDX-License-Identifier: Apache-2.0
//! Has endpoints started when clients ask for them.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod command;
mod pods;
mod run;
mod settings;
mod template;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
