// SPDX-License-Identifier: Apache-2.0
//! What `nsm` knows: a whole mesh on one machine, of the real programs, in namespaces of its own, which `nsm demo`
//! shows, the system tests run on and the benchmarks measure; and how to ask a mesh, and to explain what it answers.
#![forbid(unsafe_code)]

pub mod ask;
pub mod cli;
mod commands;
pub mod doctor;
pub mod explain;
mod kubectl;
mod live;
pub mod mesh;
pub mod nearest;
pub mod offline;
pub mod reasons;
pub mod seen;
