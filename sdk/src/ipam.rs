// SPDX-License-Identifier: Apache-2.0
//! Address management: which addresses and routes an endpoint gives its clients.

mod context;
pub mod group;
mod lease;
pub mod point2point;
pub mod pool;
pub mod singlepoint;
pub mod strict;

pub use group::{Group, groups};
pub use point2point::Point2Point;
pub use singlepoint::SinglePoint;
pub use strict::Strict;
