// SPDX-License-Identifier: Apache-2.0
//! Whether a wire lives, and what is remembered of a connection's wires.

use std::time::Duration;

use async_trait::async_trait;
use nsm_api::connection::Connection;
use tokio::time::Instant;

use crate::core::{Backoff, Component};

/// The first and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

/// After how long without a try the next one is made at once.
const CALM: Duration = Duration::from_secs(10);

/// How long a wire is given that has never answered, when earlier ones of the connection have. Doubles with each that
/// never does.
const UNPROVEN: Duration = Duration::from_secs(5);

/// How often that doubles at most: to ten minutes.
const MAX_SILENT: u32 = 7;

/// A cause: what the next hop tells of the connection, or itself.
pub(super) const CONTROL: &str = "control";

/// A cause: the wire carries nothing.
pub(super) const WIRE: &str = "wire";

/// Tells whether wires carry packets.
#[async_trait]
pub trait Liveness: Send + Sync + 'static {
    /// Asks the other end of the connection's wire, and waits at most `within` for an answer. May be dropped at any
    /// time.
    async fn pulse(&self, connection: &Connection, within: Duration) -> Pulse;
}

/// What is found out about a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// The other end has answered.
    Alive,
    /// It has not.
    Silent,
    /// It could not even be asked: our end of the wire is not there, or is down.
    Gone,
    /// Nothing can be told of this wire.
    Unknown,
}

/// What is remembered of a connection from one wire to the next.
pub(super) struct Vitals {
    /// When it broke, until it is mended.
    broken: Option<(Instant, &'static str)>,
    /// When it was tried last to mend it.
    tried: Option<Instant>,
    backoff: Backoff,
    /// When the wire was made.
    made: Option<Instant>,
    /// Whether the wire has answered.
    answers: bool,
    /// Whether it was asked in vain.
    is_silent: bool,
    /// Whether any wire of the connection has answered.
    answered: bool,
    /// How many wires in a row never have.
    silent: u32,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            broken: None,
            tried: None,
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            made: None,
            answers: false,
            is_silent: false,
            answered: false,
            silent: 0,
        }
    }
}

impl Vitals {
    /// A request has succeeded; answers for how long the connection was broken and by what, if it was.
    pub(super) fn settle(&mut self, is_new: bool) -> Option<(Duration, &'static str)> {
        if is_new {
            self.silent = match (self.answers, self.is_silent) {
                (true, _) => 0,
                (false, true) => (self.silent + 1).min(MAX_SILENT),
                (false, false) => self.silent,
            };
            self.made = Some(Instant::now());
            (self.answers, self.is_silent) = (false, false);
        }
        self.broken.take().map(|(since, cause)| (since.elapsed(), cause))
    }

    /// The connection is broken, by this cause.
    pub(super) fn breaks(&mut self, cause: &'static str) {
        self.broken.get_or_insert_with(|| (Instant::now(), cause));
    }

    /// Whether it broke, and not by its wire, and is not mended.
    pub(super) fn has_lost_control(&self) -> bool {
        self.broken.is_some_and(|(_, cause)| cause == CONTROL)
    }

    /// What was found out about the wire.
    pub(super) fn hear(&mut self, pulse: Pulse) {
        match pulse {
            Pulse::Alive => (self.answers, self.answered) = (true, true),
            Pulse::Silent | Pulse::Gone => self.is_silent = true,
            Pulse::Unknown => {}
        }
    }

    /// Whether the wire is dead by what was found out, and not only one where nobody answers anyway. Of a wire whose
    /// end here is not there no answer is needed, unless the wire before it never was, either.
    pub(super) fn is_dead(&self, pulse: Pulse) -> bool {
        let patience = UNPROVEN * (1 << self.silent);
        let is_late = || self.made.is_some_and(|made| made.elapsed() >= patience);
        match pulse {
            Pulse::Alive | Pulse::Unknown => false,
            Pulse::Silent => self.answers || self.answered && is_late(),
            Pulse::Gone => self.answers || self.silent == 0 || is_late(),
        }
    }

    /// How long to wait with the next try.
    pub(super) fn pause(&mut self, component: &Component) -> Duration {
        if self.tried.is_none_or(|tried| tried.elapsed() >= CALM) {
            self.backoff.reset();
            return Duration::ZERO;
        }
        self.backoff.next(component)
    }

    /// A try begins or has failed.
    pub(super) fn tries(&mut self) {
        self.tried = Some(Instant::now());
    }
}
