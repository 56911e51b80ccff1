// SPDX-License-Identifier: Apache-2.0
//! The signals that end a run: the first one stops what runs and cleans up, the second one stops cleaning up as well.

use anyhow::Result;
use futures::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often we were told to end.
#[derive(Debug)]
pub(crate) struct Stop {
    signals: [Signal; 3],
    told: u32,
}

impl Stop {
    /// From now on.
    pub(crate) fn new() -> Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self {
            signals: [interrupt?, terminate?, hangup?],
            told: 0,
        })
    }

    /// Waits until we were told to end this many times.
    pub(crate) async fn reached(&mut self, times: u32) {
        while self.told < times {
            let [interrupt, terminate, hangup] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            self.told += 1;
        }
    }

    /// Whether we were told to end this many times.
    pub(crate) fn is_reached(&mut self, times: u32) -> bool {
        self.reached(times).now_or_never().is_some()
    }
}
