// SPDX-License-Identifier: Apache-2.0
//! What Network Service Mesh keeps in Kubernetes: its custom resources, and a registry on top of them.
#![forbid(unsafe_code)]

pub mod chains;
pub mod client;
pub mod mirror;
pub mod reach;
pub mod registry;
pub mod resources;
