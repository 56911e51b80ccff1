// SPDX-License-Identifier: Apache-2.0
//! The chains of every component: lists to take in at a glance.
//!
//! The order is the predecessor's, since neighbours rely on it. Everywhere, its element `metadata` is the store that
//! `begin` gives each connection, and its `clientconn` is what `dial` keeps there.

pub mod client;
pub mod endpoint;
pub mod forwarder;
pub mod nsmgr;
pub mod nsmgr_registry;
pub mod passthrough;
pub mod registry_client;
pub mod registry_memory;
#[cfg(test)]
mod testing;
