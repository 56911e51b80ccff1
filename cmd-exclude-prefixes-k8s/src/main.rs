// SPDX-License-Identifier: Apache-2.0
//! Tells managers which addresses the cluster uses, so that no endpoint gives them out.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod output;
mod prefixes;
mod run;
mod settings;
mod sources;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
