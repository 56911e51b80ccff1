// SPDX-License-Identifier: Apache-2.0
//! The wire contract of Network Service Mesh: protobuf messages, gRPC clients and servers,
//! and typed views of what travels in them. No I/O happens here.
//!
//! One module per protobuf package, as the wire names them.

/// Generated code has no docs of its own; the `.proto` files carry them.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    pub mod connectioncontext {
        tonic::include_proto!("connectioncontext");
    }
    pub mod connection {
        tonic::include_proto!("connection");
    }
    pub mod networkservice {
        tonic::include_proto!("networkservice");
    }
    pub mod registry {
        tonic::include_proto!("registry");
    }
    pub mod ipam {
        tonic::include_proto!("ipam");
    }
    pub mod workload {
        tonic::include_proto!("_");
    }
}

pub use generated::*;
