// SPDX-License-Identifier: Apache-2.0
//! Address management: which addresses and routes an endpoint gives its clients.

mod context;
pub mod group;
mod lease;
pub mod point2point;
pub mod pool;
pub mod singlepoint;
pub mod strict;
