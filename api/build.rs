// SPDX-License-Identifier: Apache-2.0
//! Compiles the `.proto` files with a pure-Rust compiler: no `protoc` is needed to build.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message;

const PROTOS: [&str; 8] = [
    "networkservice.proto",
    "connection.proto",
    "connectioncontext.proto",
    "registry.proto",
    "ipam.proto",
    "workload.proto",
    "opentelemetry/metrics_service.proto",
    "opentelemetry/trace_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut descriptors = protox::compile(PROTOS, ["proto"])?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .btree_map(".")
        .codec_path("crate::codec::Codec")
        .compile_fds_with_config(descriptors.clone(), config)?;

    // What programs carry to describe the API needs no comments and positions.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
