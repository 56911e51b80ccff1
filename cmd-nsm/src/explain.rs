// SPDX-License-Identifier: Apache-2.0
//! Why a client gets the endpoint that it gets, or none.
//!
//! The choice itself is made by the code that chooses for requests ([`nsm_api::matching`], and what `discover` looks at
//! before); this only listens to its decisions and puts them into words.

use std::time::SystemTime;

use nsm_api::matching::{self, Labels, Outcome};
use nsm_api::registry::{NetworkService, NetworkServiceEndpoint};
use nsm_sdk::networkservice::{MAX_FOUND, is_alive, is_dialable};
use serde::Serialize;

mod cause;
mod listen;
mod text;
mod verdict;

use crate::offline::Known;
use listen::Listener;

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The service's name.
    pub network_service: &'a str,
    /// The client's labels.
    pub labels: &'a Labels,
    /// The service that forwarders offer.
    pub forwarder_service: &'a str,
    /// Whether everything that there is is known. Otherwise that there are no forwarders says nothing.
    pub is_whole: bool,
    /// The time at which endpoints have expired or have not.
    pub now: SystemTime,
}

/// How a service is chosen for one client.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The service.
    pub network_service: String,
    /// What it carries; empty when there is no such service.
    pub payload: String,
    /// The client's labels.
    pub labels: Labels,
    /// What it comes to.
    pub verdict: Verdict,
    /// The service's matches in their order.
    pub matches: Vec<Matched>,
    /// Who offers the service.
    pub endpoints: Vec<Judged>,
    /// Who could make the wire.
    pub forwarders: Vec<Judged>,
    /// The services that may have been meant.
    pub nearest: Vec<String>,
    /// The endpoint that the connection has now, when one is explained.
    pub is_at: Option<String>,
}

/// What a choice comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether the client is served.
    pub is_served: bool,
    /// `served`, or the reason of the error that the client gets.
    pub reason: &'static str,
    /// Why that is so.
    pub cause: String,
    /// What to do; empty when the client is served.
    pub remedy: String,
}

/// One match of the service.
#[derive(Clone, Debug, Serialize)]
pub struct Matched {
    /// Its place, from 1.
    pub number: usize,
    /// The labels that it wants of the client.
    pub source_selector: Labels,
    /// The labels that each of its routes wants of an endpoint.
    pub routes: Vec<Labels>,
    /// The labels that it wants of a forwarder.
    pub forwarder_selector: Option<Labels>,
    /// Whether the next match is tried when it chooses nobody.
    pub fallthrough: bool,
    /// What became of it.
    pub outcome: Became,
    /// How many endpoints it has chosen.
    pub chosen: usize,
    /// Why it does not apply.
    pub cause: Option<String>,
}

/// What became of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Became {
    /// An earlier one had decided.
    NotAsked,
    /// It is for other clients.
    DoesNotApply,
    /// It has chosen.
    Chose,
    /// It has chosen nobody, and the next one was tried.
    FellThrough,
    /// It has chosen nobody, and that was the end.
    ChoseNobody,
}

/// An endpoint or a forwarder, and whether it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// Where it is dialled.
    pub url: String,
    /// Whether it may be tried.
    pub is_chosen: bool,
    /// `chosen`, or a word for why not.
    pub reason: &'static str,
    /// Which match has taken it, or why none has.
    pub cause: String,
}

/// Explains what `known` comes to for who asks.
pub fn explain(known: &Known, asked: &Asked<'_>) -> Explanation {
    let mut explanation = Explanation {
        network_service: asked.network_service.to_string(),
        payload: String::new(),
        labels: asked.labels.clone(),
        verdict: Verdict::served(String::new()),
        matches: Vec::new(),
        endpoints: Vec::new(),
        forwarders: Vec::new(),
        nearest: Vec::new(),
        is_at: None,
    };
    let service = known
        .services
        .iter()
        .find(|service| service.name == asked.network_service);
    let Some(service) = service else {
        let names = known.services.iter().map(|service| service.name.as_str());
        let near = crate::nearest::nearest(asked.network_service, names);
        explanation.nearest = near.into_iter().map(str::to_string).collect();
        explanation.verdict = verdict::no_service(known, asked, &explanation.nearest);
        return explanation;
    };
    explanation.payload.clone_from(&service.payload);
    let offering = candidates(known, &service.name);
    let endpoints = Choice::of_endpoints(service, asked, &offering);
    let offering = candidates(known, asked.forwarder_service);
    let forwarders = Choice::of_forwarders(service, asked, &offering);
    explanation.verdict = verdict::of(known, service, asked, &endpoints, &forwarders);
    explanation.matches = endpoints.listener.matches;
    explanation.endpoints = endpoints.judged;
    explanation.forwarders = forwarders.judged;
    explanation
}

/// Who offers a service, as a registry answers that asks for it by name.
fn candidates(known: &Known, service: &str) -> Vec<NetworkServiceEndpoint> {
    let query = NetworkServiceEndpoint {
        network_service_names: vec![service.to_string()],
        ..Default::default()
    };
    let offers = |endpoint: &&NetworkServiceEndpoint| matching::endpoint_matches(&query, endpoint);
    known.endpoints.iter().filter(offers).cloned().collect()
}

/// A choice among candidates, and what was heard of it.
struct Choice {
    judged: Vec<Judged>,
    listener: Listener,
}

impl Choice {
    fn of_endpoints(service: &NetworkService, asked: &Asked<'_>, all: &[NetworkServiceEndpoint]) -> Self {
        Self::of(asked, all, |alive, listener| {
            listener.expect(service, alive.len());
            matching::trace_endpoints(asked.labels, service, alive, |step| listener.hear(step));
        })
    }

    fn of_forwarders(service: &NetworkService, asked: &Asked<'_>, all: &[NetworkServiceEndpoint]) -> Self {
        Self::of(asked, all, |alive, listener| {
            listener.expect(service, alive.len());
            let told = |step: matching::Step<'_>| listener.hear(step);
            matching::trace_forwarders(asked.labels, service, asked.forwarder_service, alive, told);
        })
    }

    /// Looks at candidates as `discover` does: of those that live and are chosen, as many as it takes, that can be
    /// dialled.
    fn of(
        asked: &Asked<'_>,
        all: &[NetworkServiceEndpoint],
        choose: impl FnOnce(&[NetworkServiceEndpoint], &mut Listener),
    ) -> Self {
        let alive = all.iter().filter(|endpoint| is_alive(endpoint, asked.now));
        let alive: Vec<_> = alive.cloned().collect();
        let mut listener = Listener::default();
        choose(&alive, &mut listener);
        let mut heard = listener.candidates.iter();
        let mut left = MAX_FOUND;
        let judged = all.iter().map(|endpoint| {
            if !is_alive(endpoint, asked.now) {
                return Judged::refused(endpoint, "expired", cause::expired(endpoint, asked.now));
            }
            let heard = heard.next().cloned().unwrap_or_default();
            if heard.chosen.is_some() {
                if left == 0 {
                    let text = format!("not taken: only {MAX_FOUND} endpoints that fit one client are");
                    return Judged::refused(endpoint, "too-many", text);
                }
                left -= 1;
            }
            match (heard.chosen, is_dialable(endpoint)) {
                (Some(_), Err(_)) => {
                    let text = "it has no URL, so nobody can dial it".to_string();
                    Judged::refused(endpoint, "bad-url", text)
                }
                (Some(by), Ok(())) => Judged::new(endpoint, true, "chosen", by),
                (None, _) => Judged::refused(endpoint, heard.reason, heard.cause),
            }
        });
        Self {
            judged: judged.collect(),
            listener,
        }
    }

    fn chosen(&self) -> impl Iterator<Item = &Judged> {
        self.judged.iter().filter(|judged| judged.is_chosen)
    }
}

impl Judged {
    fn new(endpoint: &NetworkServiceEndpoint, is_chosen: bool, reason: &'static str, cause: String) -> Self {
        Self {
            name: endpoint.name.clone(),
            url: endpoint.url.clone(),
            is_chosen,
            reason,
            cause,
        }
    }

    fn refused(endpoint: &NetworkServiceEndpoint, reason: &'static str, cause: String) -> Self {
        Self::new(endpoint, false, reason, cause)
    }
}

impl Verdict {
    fn served(cause: String) -> Self {
        Self {
            is_served: true,
            reason: "served",
            cause,
            remedy: String::new(),
        }
    }

    fn refused(reason: &'static str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            is_served: false,
            reason,
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }
}

impl From<Outcome> for Became {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Chosen(_) | Outcome::Everyone => Self::Chose,
            Outcome::FallsThrough => Self::FellThrough,
            Outcome::Nobody => Self::ChoseNobody,
        }
    }
}

#[cfg(test)]
mod tests;
