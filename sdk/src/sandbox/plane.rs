// SPDX-License-Identifier: Apache-2.0
//! The data plane of one life of a forwarder, on a kernel that outlives it.
//!
//! **Guarantees**: as of the real one: what an earlier life made is adopted by whoever asks for it within [`GRACE`],
//! and removed afterwards. Once the power is off nothing changes any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::{Component, Error, Result};
use crate::dataplane::model::Model;
use crate::dataplane::{Counters, DataPlane, Wire};

/// How long what an earlier life made is kept.
pub const GRACE: Duration = Duration::from_secs(11 * 60);

/// See the [module](self).
pub(super) struct Plane {
    model: Model,
    power: CancellationToken,
    left: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Plane {
    pub(super) fn start(component: &Component, model: &Model, power: &CancellationToken) -> Arc<Self> {
        let left = Arc::new(Mutex::new(model.wires()));
        let plane = Arc::new(Self {
            model: model.clone(),
            power: power.clone(),
            left: Arc::clone(&left),
        });
        if left.lock().is_empty() {
            return plane;
        }
        let (model, power, shutdown) = (model.clone(), power.clone(), component.shutdown().clone());
        component.spawn_detached("grace", async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = power.cancelled() => {}
                () = tokio::time::sleep(GRACE) => {
                    let unclaimed = std::mem::take(&mut *left.lock());
                    unclaimed.iter().for_each(|(connection, index)| model.sweep(connection, *index));
                }
            }
        });
        plane
    }

    /// Runs `work` while the power is on.
    async fn powered<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.power.cancelled() => Err(Error::unavailable("dead", "the program has died")),
            done = work => done,
        }
    }
}

#[async_trait]
impl DataPlane for Plane {
    async fn connect(&self, wire: &Wire, before: Option<&Wire>, deadline: Instant) -> Result<()> {
        self.powered(self.model.connect(wire, before, deadline)).await?;
        self.left.lock().remove(&wire.connection);
        Ok(())
    }

    async fn disconnect(&self, wire: &Wire) -> Result<()> {
        self.powered(self.model.disconnect(wire)).await
    }

    async fn counters(&self, wire: &Wire) -> Result<(Counters, Counters)> {
        self.powered(self.model.counters(wire)).await
    }
}
