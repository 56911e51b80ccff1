// SPDX-License-Identifier: Apache-2.0
//! Gives pods their identities where there is no SPIRE.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod bundle;
mod pods;
mod requests;
mod run;
mod secret;
mod settings;
mod signer;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
