// SPDX-License-Identifier: Apache-2.0
//! What every program around a chain needs: settings from the environment, logs, signals, exit codes.
//!
//! A program's `main` is one line: [`main`] with the function that runs it. Settings are a [`clap`] struct, so that
//! `--help` lists every flag, its environment variable and its default.

mod duration;
mod environment;
mod help;
mod log;
mod run;

pub use duration::{Duration, ParseDurationError};
pub use environment::Settings;
pub use help::AFTER_HELP;
pub use log::{Level, LogFormat, LogSettings};
pub use run::{Failure, main};
