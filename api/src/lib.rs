// SPDX-License-Identifier: Apache-2.0
//! The wire contract of Network Service Mesh: protobuf messages, gRPC clients and servers, and typed views of
//! what travels in them. No I/O happens here.
//!
//! The generated code is in one module per protobuf package, as the wire names them: [`connection`],
//! [`connectioncontext`], [`networkservice`], [`registry`], [`ipam`], [`workload`], which is SPIFFE's, and
//! [`opentelemetry`], of which there is what our programs tell a collector.
//! Its types are given meaning by the others:
//!
//! | Module | Answers |
//! |---|---|
//! | [`mechanism`] | how do these two neighbours pass packets? |
//! | [`path`] | which hop is speaking, which is before and behind it? |
//! | [`context`] | which addresses, routes, policies and names does a connection have? |
//! | [`matching`] | which endpoint, forwarder, registry entry or connection fits? |
//! | [`template`] | what does `{{.nodeName}}` in a label mean? |
//! | [`service_url`] | what does a client ask for? |
//! | [`interdomain`] | which domain is this name of? |
//! | [`interface_name`] | does Linux take this name? |
//! | [`port_range`] | which ports does a policy select? |
//!
//! Everything that peers send is read leniently and within bounds: nothing here panics on any message.
//!
//! # What happens to unknown fields
//!
//! A field that this version does not know is dropped when a message is decoded, so it is not passed on to
//! the next hop; a value that an enum does not know is kept as its number. Neither is an error.

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
    pub mod opentelemetry {
        pub mod proto {
            pub mod common {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.common.v1");
                }
            }
            pub mod resource {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.resource.v1");
                }
            }
            pub mod trace {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.trace.v1");
                }
            }
            pub mod metrics {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.metrics.v1");
                }
            }
            pub mod collector {
                pub mod trace {
                    pub mod v1 {
                        tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
                    }
                }
                pub mod metrics {
                    pub mod v1 {
                        tonic::include_proto!("opentelemetry.proto.collector.metrics.v1");
                    }
                }
            }
        }
    }
}

pub mod codec;
pub mod context;
pub mod interdomain;
pub mod interface_name;
pub mod matching;
pub mod mechanism;
pub mod path;
pub mod port_range;
pub mod service_url;
pub mod template;
mod text;

pub use generated::*;

/// Every message and service of this crate, encoded as a `google.protobuf.FileDescriptorSet`: for tests and
/// for tools that turn bytes into JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// What a connection carries, as its field `payload` names it.
pub mod payload {
    /// IP packets.
    pub const IP: &str = "IP";
    /// Ethernet frames.
    pub const ETHERNET: &str = "ETHERNET";
}

/// Names of labels that programs of the mesh read or write themselves.
pub mod label {
    /// The node of a client or endpoint.
    pub const NODE_NAME: &str = "nodeName";
    /// The pod of a client or endpoint.
    pub const POD_NAME: &str = "podName";
    /// The cluster of a client or endpoint.
    pub const CLUSTER_NAME: &str = "clusterName";
    /// Of a forwarder: `true` if it connects pods point to point.
    pub const P2P: &str = "p2p";
    /// Of a client: the SR-IOV resource that it wants, as `domain/capability`.
    pub const SRIOV_TOKEN: &str = "sriovToken";
    /// Of an endpoint or forwarder: the SR-IOV domains that it serves.
    pub const SERVICE_DOMAIN: &str = "serviceDomain";
}
