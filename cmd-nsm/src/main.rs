// SPDX-License-Identifier: Apache-2.0
//! `nsm`: the command line for people; by the name `kubectl-nsm`, a plug-in of kubectl.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

fn main() -> ExitCode {
    nsm::cli::main()
}
