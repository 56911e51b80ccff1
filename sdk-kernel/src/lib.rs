// SPDX-License-Identifier: Apache-2.0
//! The kernel data plane of Network Service Mesh.
#![forbid(unsafe_code)]

mod netlink;
mod netns;
