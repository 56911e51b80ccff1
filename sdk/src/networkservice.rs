// SPDX-License-Identifier: Apache-2.0
//! Elements of connections only.

mod expiry;
pub mod monitor;
pub mod refresh;
pub mod timeout;
pub mod trimpath;
