// SPDX-License-Identifier: Apache-2.0
//! Chains of responsibility for Network Service Mesh.
#![forbid(unsafe_code)]

pub mod core;
