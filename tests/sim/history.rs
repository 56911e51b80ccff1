// SPDX-License-Identifier: Apache-2.0
//! What happened in a world, in order, and what must be true of any history.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use nsm_sdk::sandbox::{Call, Kind, Step};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Marks what must not happen.
const BROKEN: &str = "BROKEN";

/// How many of the events that led to a failure are told.
const TOLD: usize = 400;

/// How often one program may repeat one call within a minute: what a backoff from 200 ms to 3 s leads to, and as
/// many again for what applications ask.
const MOST_ATTEMPTS: usize = 60;

/// Cheap to clone; clones are the same history.
#[derive(Clone)]
pub(crate) struct History(Arc<Mutex<Events>>);

struct Events {
    began: Instant,
    lines: Vec<String>,
    /// Calls that carry events of a connection and are not over: who calls, and the id that they call it.
    open: BTreeSet<(String, &'static str, String)>,
    attempts: BTreeMap<(String, &'static str, String), Vec<Instant>>,
    broken: Vec<String>,
}

impl History {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Events {
            began: Instant::now(),
            lines: Vec::new(),
            open: BTreeSet::new(),
            attempts: BTreeMap::new(),
            broken: Vec::new(),
        })))
    }

    /// Notes that something happened.
    pub(crate) fn note(&self, event: impl Display) {
        let mut events = self.0.lock();
        let at = events.began.elapsed();
        events.lines.push(format!("{:>9.3} {event}", at.as_secs_f64()));
    }

    /// Notes that something happened that must not.
    pub(crate) fn fail(&self, what: impl Display) {
        self.note(format!("{BROKEN} {what}"));
        self.0.lock().broken.push(what.to_string());
    }

    /// Notes a step of a call between programs.
    pub(crate) fn call(&self, call: &Call, step: &Step) {
        let Call {
            from,
            to,
            api,
            kind,
            id,
        } = call;
        self.note(format!("{from} -> {to} {api} {kind:?} {id}: {step:?}"));
        let key = (from.clone(), *api, id.clone());
        let what = match step {
            _ if *kind == Kind::Find => None,
            Step::Sent => self.begins(key),
            Step::Over => {
                self.0.lock().open.remove(&key);
                None
            }
            Step::Arrived | Step::Answered(_) => None,
        };
        if let Some(what) = what {
            self.fail(what);
        }
    }

    /// I4: the events of one connection run one at a time. I9: they are not repeated without end.
    fn begins(&self, key: (String, &'static str, String)) -> Option<String> {
        let mut events = self.0.lock();
        let now = Instant::now();
        let attempts = events.attempts.entry(key.clone()).or_default();
        attempts.retain(|at| now - *at < Duration::from_secs(60));
        attempts.push(now);
        let count = attempts.len();
        if !events.open.insert(key.clone()) {
            return Some(format!("I4: two events of {key:?} at once"));
        }
        (count > MOST_ATTEMPTS).then(|| format!("I9: {count} calls of {key:?} within a minute"))
    }

    /// A program has died: its calls are over.
    pub(crate) fn died(&self, name: &str) {
        self.note(format!("{name} dies"));
        self.0.lock().open.retain(|(from, ..)| from != name);
    }

    /// A number that two histories share only when they are equal.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.lock().lines.hash(&mut hasher);
        hasher.finish()
    }

    /// Everything.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().lines.clone()
    }

    /// What was broken, with what led to it.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let events = self.0.lock();
        if events.broken.is_empty() {
            return Ok(());
        }
        let first = events
            .lines
            .iter()
            .position(|line| line.contains(BROKEN))
            .unwrap_or_default();
        let led_to = &events.lines[first.saturating_sub(TOLD)..=first];
        Err(format!("{}\n{}", led_to.join("\n"), events.broken.join("\n")))
    }
}
