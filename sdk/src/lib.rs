// SPDX-License-Identifier: Apache-2.0
//! The chain-of-responsibility SDK of Network Service Mesh.
#![forbid(unsafe_code)]

pub mod core;
pub mod elements;
