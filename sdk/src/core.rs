// SPDX-License-Identifier: Apache-2.0
//! The shape of everything: elements, the chain that runs them, and what a call carries.

mod component;
mod error;
mod peer;
mod store;

pub use component::{Clock, Component, Task};
pub use error::{Error, Result, Retry};
pub use peer::{CallToken, FilePassing, Inode, Peer, PeerIdentity};
pub use store::Store;
