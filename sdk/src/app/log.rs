// SPDX-License-Identifier: Apache-2.0
//! Logs to standard error, at a level that signals change.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// How a program logs.
#[derive(clap::Args, Clone, Debug)]
pub struct LogSettings {
    /// How much is logged: trace, debug, info, warn or error. SIGUSR1 sets trace, SIGUSR2 this level again
    #[arg(long, env = "NSM_LOG_LEVEL", default_value = "INFO")]
    pub log_level: Level,
    /// Lines for people, or one JSON object a line
    #[arg(long, env = "NSM_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The shape of a log line.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// For machines.
    Json,
}

/// A log level; the predecessor's names are understood in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(LevelFilter);

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "trace" => Ok(Self(LevelFilter::TRACE)),
            "debug" => Ok(Self(LevelFilter::DEBUG)),
            "info" => Ok(Self(LevelFilter::INFO)),
            "warn" | "warning" => Ok(Self(LevelFilter::WARN)),
            "error" | "fatal" | "panic" => Ok(Self(LevelFilter::ERROR)),
            _ => Err("use trace, debug, info, warn or error".to_string()),
        }
    }
}

/// Changes the level while the program runs.
pub(super) struct Levels {
    handle: reload::Handle<LevelFilter, Registry>,
    configured: LevelFilter,
}

impl Levels {
    /// Starts logging for the whole process.
    pub(super) fn start(settings: &LogSettings) -> Self {
        let configured = settings.log_level.0;
        let (level, handle) = reload::Layer::new(configured);
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        let lines = match settings.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        // The runtime below us is of no interest to people who run networks.
        let ours = tracing_subscriber::filter::Targets::new()
            .with_default(LevelFilter::TRACE)
            .with_targets(
                ["mio", "h2", "hyper", "hyper_util", "tower", "tonic", "rustls"]
                    .map(|name| (name, LevelFilter::WARN)),
            )
            // It tells every try while an API server is away; programs say once that it is.
            .with_target("kube_client", LevelFilter::OFF);
        let _a_test_may_have_started_it = tracing_subscriber::registry()
            .with(level)
            .with(lines.with_filter(ours))
            .try_init();
        Self { handle, configured }
    }

    /// Everything.
    pub(super) fn trace(&self) {
        self.set(LevelFilter::TRACE);
    }

    /// As configured.
    pub(super) fn restore(&self) {
        self.set(self.configured);
    }

    fn set(&self, level: LevelFilter) {
        match self.handle.modify(|now| *now = level) {
            Ok(()) => tracing::info!(%level, "log level changed"),
            Err(error) => tracing::warn!(%error, "the log level cannot be changed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_predecessors_levels_are_understood() {
        for text in ["TRACE", "debug", "Info", "WARN", "warning", "ERROR", "fatal"] {
            assert!(text.parse::<Level>().is_ok(), "{text}");
        }
        assert_eq!(
            "loud".parse::<Level>(),
            Err("use trace, debug, info, warn or error".to_string())
        );
    }
}
