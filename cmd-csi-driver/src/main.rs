// SPDX-License-Identifier: Apache-2.0
//! Gives pods the sockets of their node, where they may not mount its folders.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nsm_memory as _;

mod authority;
mod driver;
mod mounts;
mod run;
mod settings;
mod socket;

/// Generated code has no docs of its own; the `.proto` files carry them.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    pub(crate) mod csi {
        tonic::include_proto!("csi.v1");
    }
    pub(crate) mod registration {
        tonic::include_proto!("pluginregistration");
    }
}

fn main() -> ExitCode {
    nsm_sdk::app::main(run::run)
}
