// SPDX-License-Identifier: Apache-2.0
//! The commands, one file each.

pub(crate) mod demo;
pub(crate) mod health;
pub(crate) mod issuer;
pub(crate) mod mesh;
