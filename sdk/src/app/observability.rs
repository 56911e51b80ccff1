// SPDX-License-Identifier: Apache-2.0
//! Whom a program tells what it counts and does.

use super::{Failure, PrometheusSettings, TelemetrySettings};
use crate::core::Component;

/// Whom a program tells what it counts and does: nobody, by default.
#[derive(clap::Args, Clone, Debug)]
pub struct ObservabilitySettings {
    /// Whether Prometheus may ask.
    #[command(flatten)]
    pub prometheus: PrometheusSettings,
    /// Whether a collector is told.
    #[command(flatten)]
    pub telemetry: TelemetrySettings,
}

impl ObservabilitySettings {
    /// Begins, if anybody is to be told.
    pub(super) async fn start(&self, component: &Component) -> Result<(), Failure> {
        self.telemetry.start(component)?;
        self.prometheus.start(component).await
    }
}
