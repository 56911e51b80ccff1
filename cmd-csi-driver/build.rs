// SPDX-License-Identifier: Apache-2.0
//! Compiles the `.proto` files with a pure-Rust compiler: no `protoc` is needed to build.

use std::error::Error;

const PROTOS: [&str; 2] = ["csi.proto", "pluginregistration.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
