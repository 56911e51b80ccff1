// SPDX-License-Identifier: Apache-2.0
//! Gives annotated pods a client of the mesh.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod certificate;
mod cluster;
mod namespace;
mod patch;
mod pod;
mod registration;
mod review;
mod rules;
mod run;
mod serve;
mod services;
mod settings;
#[cfg(test)]
mod testing;
mod workload;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
