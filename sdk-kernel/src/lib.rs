// SPDX-License-Identifier: Apache-2.0
//! The kernel data plane of Network Service Mesh: virtual wires between pods, made in place by netlink.
//!
//! [`Kernel`] is the [`DataPlane`](nsm_sdk::dataplane::DataPlane) of a forwarder that runs where the pods run, and makes
//! its ends of VXLAN [tunnels](nsm_sdk::dataplane::tunnel::Tunnels). It
//! owns interfaces in their namespaces, never a packet: traffic goes from pod to pod through the kernel, whether or
//! not this program lives.
//!
//! ```text
//!   callers ──connect──▶ kernel ──▶ station (2 threads): make, change ──▶ veth, sysctl ──▶ netlink
//!                          │                  │  reads and writes
//!                          │                  ▼
//!                          │                state ◀── monitor: what others do to our interfaces
//!                          │                  ▲
//!           ──disconnect──▶ doomed (4 threads): removal, many at a time
//!                          │
//!                        journal, recover: from one life of the program to the next
//! ```
//!
//! `end` is what one end of a wire is to be, as data, and the difference of two; `observe` reads it from the kernel,
//! `message` writes it.
#![forbid(unsafe_code)]

mod answer;
mod aside;
mod asked;
mod change;
mod check;
mod doomed;
mod dumps;
mod end;
mod holder;
mod journal;
mod kernel;
mod leave;
mod left;
mod leftover;
mod make;
mod message;
mod monitor;
mod netlink;
mod netns;
mod observe;
mod outcome;
mod ping;
mod plan;
mod plane;
mod reaper;
mod record;
mod recover;
mod report;
mod shared;
mod state;
mod station;
mod sysctl;
mod tables;
mod transit;
mod underlay;
mod veth;
mod vxlan;

pub use kernel::{Config, GRACE, GROUP, Kernel};
pub use left::Left;
pub use leftover::LEFTOVERS;
pub use ping::Ping;
