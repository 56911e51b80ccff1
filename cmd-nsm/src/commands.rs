// SPDX-License-Identifier: Apache-2.0
//! The commands, one file each.

pub mod demo;
pub mod health;
pub mod issuer;
