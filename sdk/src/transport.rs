// SPDX-License-Identifier: Apache-2.0
//! The wire: gRPC over mutual TLS on unix sockets, which also pass files, and on TCP.
//!
//! [`Server`] listens and runs chains; [`Pool`] opens ways to other components and keeps them; [`health`] asks
//! whether one is ready.

mod files;
pub mod health;
mod pool;
mod server;
mod stream;
mod url;

pub use pool::{Config, Pool};
pub use server::Server;
pub use url::Address;
