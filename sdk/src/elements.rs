// SPDX-License-Identifier: Apache-2.0
//! Elements that work on any API.

pub mod authorize;
pub mod begin;
pub mod clienturl;
pub mod updatetoken;
