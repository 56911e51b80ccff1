// SPDX-License-Identifier: Apache-2.0
//! The wire: gRPC over mutual TLS on unix sockets, which also pass files, and on TCP.
//!
//! [`Server`] listens and runs chains; [`Pool`] opens ways to other components and keeps them; [`health`] asks
//! whether one is ready.

use std::time::Duration;

mod connect;
mod cork;
mod files;
pub mod grpcmetadata;
pub mod health;
mod link;
mod listen;
mod metadata;
pub mod notices;
mod pool;
mod remote;
mod server;
mod services;
mod stream;
mod tls;
mod url;

pub(crate) use connect::connect;
pub use pool::{Config, Pool};
pub use server::Server;
pub use url::{Address, public_url};

/// How long the headers of a call may be, bytes: registrations carry a path of tokens in one.
const MAX_HEADERS: u32 = 128 * 1024;

/// How long calls under way may go on after the component has been told to end.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
