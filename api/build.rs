// SPDX-License-Identifier: Apache-2.0
//! Compiles the `.proto` files with a pure-Rust compiler: no `protoc` is needed to build.

use std::error::Error;

const PROTOS: [&str; 6] = [
    "networkservice.proto",
    "connection.proto",
    "connectioncontext.proto",
    "registry.proto",
    "ipam.proto",
    "workload.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
