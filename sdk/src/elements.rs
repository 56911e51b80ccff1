// SPDX-License-Identifier: Apache-2.0
//! Elements that work on any API.

pub mod authorize;
pub mod begin;
pub mod clientinfo;
pub mod clienturl;
pub mod connect;
pub mod dial;
pub mod meter;
pub mod null;
pub mod retry;
pub mod switchcase;
pub mod updatepath;
pub mod updatetoken;
