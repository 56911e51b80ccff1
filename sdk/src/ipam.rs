// SPDX-License-Identifier: Apache-2.0
//! Address management: which addresses and routes an endpoint gives its clients.

pub mod pool;
