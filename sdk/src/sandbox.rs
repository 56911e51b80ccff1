// SPDX-License-Identifier: Apache-2.0
//! A whole mesh in one process, on virtual time and on a model of the kernel: for simulations.
//!
//! The chains are the real ones. What the programs put around them is replaced below their seams: [`Network`] for
//! transport and file passing, [`crate::dataplane::model`] for the kernel, the runtime's paused clock for time, and a
//! seed for randomness.

mod call;
mod link;
mod network;
mod node;
mod ping;
mod plane;
mod programs;

pub use network::{Call, Host, Kind, Network, Served, Step, Way};
pub use node::{Node, Program, Settings};
pub use plane::GRACE;
pub use programs::SERVICE;
