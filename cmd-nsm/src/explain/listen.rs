// SPDX-License-Identifier: Apache-2.0
//! Listens to a choice and notes what becomes of each match and each candidate.

use nsm_api::matching::{Outcome, Step};
use nsm_api::registry::NetworkService;

use super::{Became, Matched, cause};

/// How many refusals of one candidate are told.
const MAX_TOLD: usize = 4;

/// What was heard of a choice.
#[derive(Debug, Default)]
pub(super) struct Listener {
    pub(super) matches: Vec<Matched>,
    pub(super) candidates: Vec<Heard>,
    /// The match and the route that look at candidates now, and at which.
    at: (usize, usize, usize),
}

/// What was heard of one candidate.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// Which match has taken it.
    pub(super) chosen: Option<String>,
    /// Why it was refused last, in a word.
    pub(super) reason: &'static str,
    /// Why it was refused, each time.
    pub(super) cause: String,
    told: usize,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            chosen: None,
            reason: "not-asked",
            cause: "no match asks for endpoints for this client".to_string(),
            told: 0,
        }
    }
}

impl Listener {
    /// Expects a choice of `service` among `count` candidates.
    pub(super) fn expect(&mut self, service: &NetworkService, count: usize) {
        let matches = service.matches.iter().enumerate();
        let matched = matches.map(|(at, one)| Matched {
            number: at + 1,
            source_selector: one.source_selector.clone(),
            routes: one
                .routes
                .iter()
                .map(|route| route.destination_selector.clone())
                .collect(),
            forwarder_selector: one.metadata.as_ref().map(|metadata| metadata.labels.clone()),
            fallthrough: one.fallthrough,
            outcome: Became::NotAsked,
            chosen: 0,
            cause: None,
        });
        self.matches = matched.collect();
        self.candidates = vec![Heard::default(); count];
    }

    /// Hears the next decision.
    pub(super) fn hear(&mut self, step: Step<'_>) {
        match step {
            Step::Everyone => self.take_all("the service has no matches"),
            Step::Match { at, refusal } => {
                self.at = (at, 0, 0);
                if let (Some(refusal), Some(matched)) = (refusal, self.matches.get_mut(at)) {
                    matched.outcome = Became::DoesNotApply;
                    matched.cause = Some(cause::text(&refusal));
                }
            }
            Step::Candidate {
                at, route, refusal, ..
            } => {
                let index = match self.at {
                    (same, other, index) if (same, other) == (at, route) => index,
                    _ => 0,
                };
                self.at = (at, route, index + 1);
                let place = || format!("match {}, route {}", at + 1, route + 1);
                if let Some(heard) = self.candidates.get_mut(index) {
                    match refusal {
                        None => drop(heard.chosen.get_or_insert_with(place)),
                        Some(refusal) => heard.refuse(&refusal, &place()),
                    }
                }
            }
            Step::Outcome { at, outcome } => self.come_to(at, outcome),
        }
    }

    fn come_to(&mut self, at: usize, outcome: Outcome) {
        if outcome == Outcome::Everyone {
            self.take_all(&format!(
                "match {} chooses a forwarder only, so every endpoint serves",
                at + 1
            ));
        }
        let count = self.candidates.len();
        if let Some(matched) = self.matches.get_mut(at) {
            matched.outcome = outcome.into();
            matched.chosen = match outcome {
                Outcome::Chosen(chosen) => chosen,
                Outcome::Everyone => count,
                Outcome::FallsThrough | Outcome::Nobody => 0,
            };
        }
    }

    fn take_all(&mut self, by: &str) {
        for heard in &mut self.candidates {
            heard.chosen = Some(by.to_string());
        }
    }
}

impl Heard {
    fn refuse(&mut self, refusal: &nsm_api::matching::Refusal<'_>, place: &str) {
        self.reason = cause::reason(refusal);
        self.told += 1;
        if self.told == 1 {
            self.cause.clear();
        } else if self.told <= MAX_TOLD {
            self.cause.push_str("; ");
        }
        if self.told <= MAX_TOLD {
            self.cause.push_str(place);
            self.cause.push_str(": ");
            self.cause.push_str(&cause::text(refusal));
        }
    }
}
