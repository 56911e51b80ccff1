// SPDX-License-Identifier: Apache-2.0
//! The chain-of-responsibility SDK of Network Service Mesh.
#![forbid(unsafe_code)]

pub mod app;
pub mod chains;
pub mod core;
pub mod dataplane;
pub mod elements;
pub mod identity;
pub mod ipam;
pub mod networkservice;
pub mod policy;
pub mod registry;
pub mod sandbox;
pub mod transport;
pub mod yaml;
