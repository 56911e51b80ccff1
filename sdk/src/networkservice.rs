// SPDX-License-Identifier: Apache-2.0
//! Elements of connections only.

pub mod cleanup;
mod expiry;
pub mod metrics;
pub mod monitor;
pub mod netsvcmonitor;
pub mod refresh;
pub mod timeout;
pub mod trimpath;
pub mod upstreamrefresh;
