// SPDX-License-Identifier: Apache-2.0
//! Tests of the whole. The programs in documents are tests too: they are compiled and run from here.
#![forbid(unsafe_code)]

pub mod collector;
pub mod kubectl;
pub mod recording;
pub mod wait;

/// The worked example of the contributor's guide.
#[doc = include_str!("../CONTRIBUTING.md")]
#[derive(Debug)]
pub struct Contributing;
