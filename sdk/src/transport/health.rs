// SPDX-License-Identifier: Apache-2.0
//! Asks a component whether it is ready, for probes.

use tokio::time::Instant;

use crate::core::{Component, Result};
use crate::identity::Identity;

/// Whether whoever listens on `url` serves `service` (the full name; empty means all of it).
///
/// Errors: `bad-url`, `peer-unreachable`, `deadline`, `not-serving`.
pub async fn check(
    _component: &Component,
    _identity: &Identity,
    _url: &str,
    _service: &str,
    _deadline: Instant,
) -> Result<()> {
    todo!()
}
