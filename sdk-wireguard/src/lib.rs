// SPDX-License-Identifier: Apache-2.0
//! WireGuard tunnels between the pods of two nodes, by the kernel or by this program.
//!
//! ```text
//!  pod's namespace          node's namespace                  the other node
//!  ┌──────────────┐         ┌──────────────┐
//!  │ device (name)│─packets─│ UDP socket   │───encrypted───▶ the same
//!  └──────────────┘  engine └──────────────┘
//! ```
//!
//! An [`Engine`] makes a [`Tunnel`]: the device is made in place in the pod, the packets leave by the node. There are
//! two, [`kernel`] and [`userspace`]; [`Choice`] finds out which works here. Both are driven the same way (`owner`):
//! one id, one device; twice is once; what was begun is finished or undone.
//!
//! Addresses and routes of the device are the data plane's.
#![forbid(unsafe_code)]

mod choice;
mod ends;
mod engine;
mod fallback;
pub mod kernel;
mod key;
mod leaving;
mod link;
#[cfg(test)]
mod model;
mod netns;
mod owner;
mod ports;
mod search;
mod tunnel;
pub mod userspace;
mod worker;

pub use choice::{Choice, start};
pub use ends::{Device, Former, Keys};
pub use engine::{Config, ENGINES, Engine, GROUP, Kind};
pub use key::{LENGTH, PrivateKey, PublicKey};
pub use ports::Ports;
pub use tunnel::{KEEPALIVE, MAX_ALLOWED, MAX_PEERS, Made, Peer, Statistics, Tunnel};
