// SPDX-License-Identifier: Apache-2.0
//! Tells people what becomes of a node's clients: by Events on their pods, and, started as `agent-k8s ask …` by
//! `kubectl nsm`, by answers about the node.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod event;
mod limits;
mod pods;
mod run;
mod settings;
mod writer;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "ask") {
        return nsm::cli::answer(arguments);
    }
    nsm_sdk::app::main(run::run)
}
