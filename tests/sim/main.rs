// SPDX-License-Identifier: Apache-2.0
//! A node in one process, on virtual time and a model of the kernel: whatever happens in whatever order, nothing is
//! left behind, nothing is mixed up, and in the end everything works.
//!
//! A run is decided by its seed alone. `NSM_SIM_SEEDS` says how many seeds are run, `NSM_SIM_SEED` which single one.
#![forbid(unsafe_code)]

mod actions;
mod heal;
mod history;
mod invariants;
mod probe;
mod seeds;
mod steps;
mod wire;
mod world;
