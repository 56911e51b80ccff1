// SPDX-License-Identifier: Apache-2.0
//! Tells a collector of OpenTelemetry what a program counts, and the spans of its calls: OTLP by gRPC.
//!
//! **Guarantees**: nothing of it runs unless it is wanted. A call never waits for the collector: spans wait in one
//! bounded [queue](crate::core::traces), and what does not fit is dropped and counted. A collector that hangs is given
//! up after [`TIMEOUT`], one that is away is tried again, and gets what has waited when it comes; what it refuses is not
//! told again. When the program ends, the rest is told within [`LAST`].
//! **Placement**: as long as the program runs. The collector is no part of the mesh, so it is spoken to in the clear, as
//! programs of the reference do.
//! **Cost**: when it is on, one connection, and a message of some KiB each second in which calls have ended, and each
//! interval.

mod collector;
mod encode;

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{info, warn};

use super::Failure;
use crate::core::traces::{DROPPED, Span};
use crate::core::{Backoff, Component};
use collector::{Collector, Refusal};
use encode::Teller;

/// How long the collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long the rest may take when the program ends.
const LAST: Duration = Duration::from_secs(2);

/// How many spans are told at once.
const BATCH: usize = 512;

/// How long a span waits for others.
const EVERY: Duration = Duration::from_secs(1);

/// The pauses between tries while the collector is away.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The shortest interval of metrics.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Whether and whom a program tells by OTLP. The names are those of the reference.
#[derive(clap::Args, Clone, Debug)]
pub struct TelemetrySettings {
    /// Tell a collector of OpenTelemetry what we count, and the calls that we are part of
    #[arg(long, env = "TELEMETRY", default_value = "false", action = clap::ArgAction::Set, value_parser = wanted)]
    pub telemetry: bool,
    /// That collector: host:port, where it takes OTLP by gRPC without TLS
    #[arg(
        long,
        env = "NSM_OPEN_TELEMETRY_ENDPOINT",
        default_value = "otel-collector.observability.svc.cluster.local:4317"
    )]
    pub open_telemetry_endpoint: String,
    /// How often it is told what we count
    #[arg(long, env = "NSM_METRICS_EXPORT_INTERVAL", default_value = "10s")]
    pub metrics_export_interval: super::Duration,
}

/// What the reference takes for true, or for false.
fn wanted(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" | "" => Ok(false),
        _ => Err("write true or false".to_string()),
    }
}

impl TelemetrySettings {
    /// Begins to count, to note spans, and to tell, if that is wanted.
    pub(super) fn start(&self, component: &Component) -> Result<(), Failure> {
        if !self.telemetry {
            return Ok(());
        }
        let endpoint = &self.open_telemetry_endpoint;
        let bad =
            |error: String| Failure::Settings(format!("NSM_OPEN_TELEMETRY_ENDPOINT: {endpoint:?} {error}"));
        let telling = Telling {
            collector: Collector::at(endpoint).map_err(bad)?,
            teller: Teller::of(component, |name| std::env::var(name).ok()),
            component: component.clone(),
            began: component.now(),
            batch: Vec::new(),
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            is_away: false,
        };
        component.meters().switch_on();
        component.spans().switch_on();
        info!(endpoint, "telling a collector");
        let every = Duration::from(self.metrics_export_interval).max(LEAST_INTERVAL);
        component.spawn_detached("telemetry", telling.run(every));
        Ok(())
    }
}

/// A program that tells.
struct Telling {
    component: Component,
    collector: Collector,
    teller: Teller,
    began: SystemTime,
    /// What is told now, until the collector has it.
    batch: Vec<Span>,
    backoff: Backoff,
    /// Whether it was said that the collector takes nothing.
    is_away: bool,
}

impl Telling {
    async fn run(mut self, every: Duration) {
        let shutdown = self.component.shutdown().clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.tell(every) => {}
        }
        let rest = async {
            while self.fill() && self.tell_batch().await.is_ok() {}
            self.tell_counts().await;
        };
        if timeout(LAST, rest).await.is_err() {
            warn!("the collector did not take the rest in time");
        }
    }

    /// Tells for ever. May be dropped at any time: what is not told stays in the batch.
    async fn tell(&mut self, every: Duration) {
        let mut counts = interval(every);
        counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = Instant::now() + EVERY;
        loop {
            let spans = self.component.spans().clone();
            let is_waiting = self.batch.is_empty();
            tokio::select! {
                _ = counts.tick() => self.tell_counts().await,
                () = spans.many(), if is_waiting => next = Instant::now(),
                () = sleep_until(next) => {
                    next = match self.fill() {
                        true => self.tell_batch().await.map_or_else(|pause| pause, |()| Instant::now()),
                        false => Instant::now() + EVERY,
                    };
                }
            }
        }
    }

    /// Whether there are spans to tell.
    fn fill(&mut self) -> bool {
        if self.batch.is_empty() {
            self.batch = self.component.spans().take(BATCH);
        }
        !self.batch.is_empty()
    }

    /// Tells the batch. Errors: when to try again.
    async fn tell_batch(&mut self) -> Result<(), Instant> {
        let message = self.teller.spans(&self.batch);
        match timeout(TIMEOUT, self.collector.take_spans(message)).await {
            Ok(Ok(())) => {
                self.batch.clear();
                self.is_there();
                Ok(())
            }
            Ok(Err(Refusal::Final(error))) => {
                let count = self.batch.len() as u64;
                self.component.meters().add(&DROPPED, &["refused"], count);
                self.batch.clear();
                self.is_missed(&error);
                Ok(())
            }
            Ok(Err(Refusal::Away(error))) => Err(self.pause(&error)),
            Err(_) => {
                self.collector.hang_up();
                Err(self.pause("it does not answer"))
            }
        }
    }

    /// Tells what is counted; the next time tells it again, so nothing is lost with one that is not told.
    async fn tell_counts(&mut self) {
        let message = self.teller.counts(&self.component, self.began);
        match timeout(TIMEOUT, self.collector.take_counts(message)).await {
            Ok(Ok(())) => self.is_there(),
            Ok(Err(Refusal::Final(error) | Refusal::Away(error))) => self.is_missed(&error),
            Err(_) => {
                self.collector.hang_up();
                self.is_missed("it does not answer");
            }
        }
    }

    fn pause(&mut self, error: &str) -> Instant {
        self.is_missed(error);
        Instant::now() + self.backoff.next(&self.component)
    }

    fn is_there(&mut self) {
        self.backoff.reset();
        if std::mem::take(&mut self.is_away) {
            info!("the collector takes what it is told");
        }
    }

    /// Says once that something is not taken.
    fn is_missed(&mut self, error: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            warn!(
                error,
                "the collector does not take what it is told; it is tried again"
            );
        }
    }
}

#[cfg(test)]
mod tests;
