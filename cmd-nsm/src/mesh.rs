// SPDX-License-Identifier: Apache-2.0
//! The mesh on one machine: its namespaces, its programs, and the proof that nothing is left of it.

mod client;
mod leftovers;
mod node;
mod ping;
mod pod;
mod program;
mod sandbox;
mod underlay;

pub use client::{Attached, Client};
pub use leftovers::Snapshot;
pub use node::{Node, Settings};
pub use ping::{Pinger, Pings, ping, ping_every};
pub use pod::Pod;
pub use program::{Memory, Program, Programs, Start};
pub use sandbox::{INSIDE, enter, is_inside};
pub use underlay::{Host, Underlay};
