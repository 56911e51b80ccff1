// SPDX-License-Identifier: Apache-2.0
//! What an attempt at making a wire comes to, and how it is taken back.

use std::sync::Arc;

use nsm_sdk::core::Error;

use crate::shared::{Claim, Shared};

/// What an attempt came to.
pub(crate) enum Outcome {
    /// The wire is there and new.
    Made(Undo),
    /// The wire is there and was before.
    Kept,
    /// Something had to be removed first: try again when it is gone.
    Again,
    /// An interface was taken away while we were at work on it: try again when the rest of the wire is gone.
    Vanished(Error),
    /// It did not work, and what there was of it is being removed.
    Undone(Error),
}

/// Removes a new wire when its maker goes without [keeping](Undo::keep) it.
pub(crate) struct Undo {
    shared: Arc<Shared>,
    serial: Option<u64>,
    /// Nobody else works on the connection until it is decided.
    _claim: Arc<Claim>,
}

impl Undo {
    /// Removes the wire of record `serial`.
    pub(crate) fn new(shared: &Arc<Shared>, claim: &Arc<Claim>, serial: u64) -> Self {
        Self {
            shared: shared.clone(),
            serial: Some(serial),
            _claim: claim.clone(),
        }
    }

    /// The wire has an owner now.
    pub(crate) fn keep(mut self) {
        self.serial = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(serial) = self.serial {
            self.shared.doom(serial);
        }
    }
}
