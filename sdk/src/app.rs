// SPDX-License-Identifier: Apache-2.0
//! What every program around a chain needs: settings from the environment, logs, signals, exit codes.
//!
//! A program's `main` is one line: [`main`] with the function that runs it. Settings are a [`clap`] struct, so that
//! `--help` lists every flag, its environment variable and its default.

mod duration;
mod endpoint;
mod environment;
mod help;
mod info;
mod log;
mod observability;
mod probe;
mod process;
mod prometheus;
mod run;
mod start;
mod telemetry;

pub use duration::{Duration, ParseDurationError};
pub use endpoint::{
    EndpointProgram, EndpointSettings, REGISTERED, register, serve, serve_calling, unregister,
};
pub use environment::Settings;
pub use help::AFTER_HELP;
pub use info::{InfoSettings, labels};
pub use log::{Level, LogFormat, LogSettings};
pub use observability::ObservabilitySettings;
pub use prometheus::PrometheusSettings;
pub use run::{EVENTS, Failure, main};
pub use start::Start;
pub use telemetry::TelemetrySettings;
