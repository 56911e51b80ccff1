// SPDX-License-Identifier: Apache-2.0
//! The shape of everything: elements, the chain that runs them, and what a call carries.

mod api;
mod backoff;
mod chain;
mod component;
mod ctx;
mod error;
pub(crate) mod events;
pub mod meters;
mod packed;
mod peer;
mod remote;
mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod traces;

pub use api::{Api, Entry, Message, NetworkService, NsRegistry, NseRegistry, Registration, Request};
pub use backoff::Backoff;
pub use chain::{Chain, Element, Found, Next};
pub use component::{Clock, Component, Task};
pub use ctx::{Ctx, DEFAULT_BUDGET};
pub use error::{Error, Result, Retry};
pub use events::{Event, Events, Later, Unfinished};
pub(crate) use packed::{Kept, Token, append};
pub use packed::{Pack, Packed};
pub use peer::{CallToken, FilePassing, Inode, LinkId, Peer, PeerIdentity};
pub use remote::{Dialer, Remote, Way};
pub use store::Store;
