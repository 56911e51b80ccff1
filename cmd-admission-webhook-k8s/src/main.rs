// SPDX-License-Identifier: Apache-2.0
//! Gives annotated pods a client of the mesh.
#![forbid(unsafe_code)]

use std::process::ExitCode;

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

/// That of glibc takes an eighth of the CPU time of a request more, and that of musl many times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
