// SPDX-License-Identifier: Apache-2.0
//! Waiting for what happens by itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until there is an answer, or for `patience`.
///
/// Errors: those of `look`, and that of no answer, which says what was waited for.
pub async fn wait_for<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(answer) = look().await? {
            return Ok(answer);
        }
        ensure!(
            Instant::now() < until,
            "after {patience:?} it is not yet so: {what}"
        );
        sleep(PAUSE).await;
    }
}
