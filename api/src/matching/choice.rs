// SPDX-License-Identifier: Apache-2.0
//! How a service chooses, with every decision told on the way: what selects for requests is what explains it.

use crate::label;
use crate::matching::{Labels, Selector};
use crate::registry::{NetworkService, NetworkServiceEndpoint};

/// One decision on the way to a choice, in the order in which it is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step<'s> {
    /// The service has no matches, so every candidate is chosen.
    Everyone,
    /// The match `at` applies to the client, or it does not.
    Match {
        /// Which match, from 0.
        at: usize,
        /// Why it does not apply.
        refusal: Option<Refusal<'s>>,
    },
    /// A match that applies takes a candidate, or it does not.
    Candidate {
        /// Which match, from 0.
        at: usize,
        /// Which of its routes, from 0; always 0 for forwarders, which metadata chooses.
        route: usize,
        /// Whom it looks at.
        candidate: &'s NetworkServiceEndpoint,
        /// Why it does not take it.
        refusal: Option<Refusal<'s>>,
    },
    /// What a match that applies comes to. The choice ends here, unless it falls through.
    Outcome {
        /// Which match, from 0.
        at: usize,
        /// What it comes to.
        outcome: Outcome,
    },
}

/// What a match that applies to the client comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many choices.
    Chosen(usize),
    /// It has chosen nobody and falls through to the next match.
    FallsThrough,
    /// It has no routes and chooses a forwarder only, so every endpoint is chosen.
    Everyone,
    /// It has chosen nobody, and no other match is asked.
    Nobody,
}

/// Why labels are not what a selector wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<'s> {
    /// One of them has another value.
    Label {
        /// Its name.
        name: &'s str,
        /// The wanted value as it is written.
        wanted: &'s str,
        /// The same with templates filled in.
        rendered: &'s str,
        /// The value that is there; nothing when the label is not.
        value: Option<&'s str>,
    },
    /// There are fewer than are wanted.
    TooFew {
        /// How many there are.
        has: usize,
        /// How many are wanted.
        wants: usize,
    },
    /// There are no labels for the service at all.
    NoLabels,
}

/// [`endpoints`](super::endpoints), with every decision told to `told`.
pub fn trace_endpoints<'a>(
    labels: &Labels,
    service: &NetworkService,
    candidates: &'a [NetworkServiceEndpoint],
    mut told: impl FnMut(Step<'_>),
) -> Vec<&'a NetworkServiceEndpoint> {
    if service.matches.is_empty() {
        told(Step::Everyone);
        return candidates.iter().collect();
    }
    let none = Labels::new();
    for (at, choice) in service.matches.iter().enumerate() {
        let source = Selector::new(&choice.source_selector, labels);
        let refusal = source.refusal(labels);
        told(Step::Match { at, refusal });
        if refusal.is_some() {
            continue;
        }
        let mut chosen = Vec::new();
        for (route, wanted) in choice.routes.iter().enumerate() {
            let selector = Selector::new(&wanted.destination_selector, labels);
            let fits = |candidate: &&'a NetworkServiceEndpoint| {
                let offered = candidate.network_service_labels.get(&service.name);
                let refusal = selector.refusal(offered.map_or(&none, |offered| &offered.labels));
                told(Step::Candidate {
                    at,
                    route,
                    candidate,
                    refusal,
                });
                refusal.is_none()
            };
            chosen.extend(candidates.iter().filter(fits));
        }
        let outcome = match chosen.len() {
            0 if choice.fallthrough => Outcome::FallsThrough,
            _ if choice.metadata.is_some() && choice.routes.is_empty() => Outcome::Everyone,
            0 => Outcome::Nobody,
            count => Outcome::Chosen(count),
        };
        told(Step::Outcome { at, outcome });
        match outcome {
            Outcome::FallsThrough => {}
            Outcome::Everyone => return candidates.iter().collect(),
            Outcome::Nobody | Outcome::Chosen(_) => return chosen,
        }
    }
    Vec::new()
}

/// [`forwarders`](super::forwarders), with every decision told to `told`.
pub fn trace_forwarders<'a>(
    labels: &Labels,
    service: &NetworkService,
    forwarder_service: &str,
    candidates: &'a [NetworkServiceEndpoint],
    mut told: impl FnMut(Step<'_>),
) -> Vec<&'a NetworkServiceEndpoint> {
    if service.matches.is_empty() {
        told(Step::Everyone);
        return candidates.iter().collect();
    }
    let default: Labels = [(label::P2P.into(), "true".into())].into();
    for (at, choice) in service.matches.iter().enumerate() {
        let source = Selector::new(&choice.source_selector, labels);
        let refusal = source.refusal(labels);
        told(Step::Match { at, refusal });
        if refusal.is_some() {
            continue;
        }
        let metadata = choice.metadata.as_ref().map(|metadata| &metadata.labels);
        let wanted = metadata.filter(|wanted| !wanted.is_empty()).unwrap_or(&default);
        let selector = Selector::new(wanted, labels);
        let fits = |candidate: &&'a NetworkServiceEndpoint| {
            let offered = candidate.network_service_labels.get(forwarder_service);
            let refusal = match offered {
                Some(offered) => selector.refusal(&offered.labels),
                None => Some(Refusal::NoLabels),
            };
            told(Step::Candidate {
                at,
                route: 0,
                candidate,
                refusal,
            });
            refusal.is_none()
        };
        let chosen: Vec<_> = candidates.iter().filter(fits).collect();
        let outcome = match chosen.len() {
            0 if choice.fallthrough => Outcome::FallsThrough,
            0 => Outcome::Nobody,
            count => Outcome::Chosen(count),
        };
        told(Step::Outcome { at, outcome });
        if outcome != Outcome::FallsThrough {
            return chosen;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Destination, Match, NetworkServiceLabels};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    fn endpoint(name: &str, pairs: &[(&str, &str)]) -> NetworkServiceEndpoint {
        let offered = NetworkServiceLabels {
            labels: labels(pairs),
        };
        NetworkServiceEndpoint {
            name: name.into(),
            network_service_labels: [("s".to_string(), offered)].into(),
            ..Default::default()
        }
    }

    fn route(pairs: &[(&str, &str)]) -> Destination {
        Destination {
            destination_selector: labels(pairs),
            ..Default::default()
        }
    }

    fn told(client: &Labels, service: &NetworkService, candidates: &[NetworkServiceEndpoint]) -> Vec<String> {
        let mut steps = Vec::new();
        let chosen = trace_endpoints(client, service, candidates, |step| {
            steps.push(match step {
                Step::Everyone => "everyone".to_string(),
                Step::Match { at, refusal } => format!("{at} {refusal:?}"),
                Step::Candidate {
                    at,
                    route,
                    candidate,
                    refusal,
                } => format!("{at}.{route} {} {refusal:?}", candidate.name),
                Step::Outcome { at, outcome } => format!("{at} {outcome:?}"),
            });
        });
        let names = chosen.iter().map(|endpoint| endpoint.name.clone());
        steps.extend(names);
        steps
    }

    #[test]
    fn every_decision_is_told_in_its_order() {
        let service = NetworkService {
            name: "s".into(),
            matches: vec![
                Match {
                    source_selector: labels(&[("app", "a")]),
                    ..Default::default()
                },
                Match {
                    routes: vec![route(&[("node", "{{.node}}")])],
                    fallthrough: true,
                    ..Default::default()
                },
                Match {
                    routes: vec![route(&[("app", "x")])],
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let candidates = [endpoint("e", &[("app", "x")])];
        let steps = told(&labels(&[("node", "n1")]), &service, &candidates);
        assert_eq!(
            steps,
            [
                "0 Some(Label { name: \"app\", wanted: \"a\", rendered: \"a\", value: None })",
                "1 None",
                "1.0 e Some(Label { name: \"node\", wanted: \"{{.node}}\", rendered: \"n1\", value: None })",
                "1 FallsThrough",
                "2 None",
                "2.0 e None",
                "2 Chosen(1)",
                "e"
            ]
        );
    }

    #[test]
    fn labels_that_are_fewer_than_wanted_are_told_by_their_number_when_each_fits() {
        let wanted = labels(&[("a", ""), ("b", "")]);
        let selector = Selector::new(&wanted, &wanted);
        let one = labels(&[("c", "x")]);
        assert_eq!(selector.refusal(&one), Some(Refusal::TooFew { has: 1, wants: 2 }));
    }

    #[test]
    fn a_forwarder_without_labels_for_its_service_is_told_as_such() {
        let service = NetworkService {
            name: "s".into(),
            matches: vec![Match::default()],
            ..Default::default()
        };
        let candidates = [NetworkServiceEndpoint::default()];
        let mut refusals = Vec::new();
        let chosen = trace_forwarders(&Labels::new(), &service, "forwarder", &candidates, |step| {
            if let Step::Candidate { refusal, .. } = step {
                refusals.push(refusal.is_some_and(|refusal| refusal == Refusal::NoLabels));
            }
        });
        assert!(chosen.is_empty());
        assert_eq!(refusals, [true]);
    }
}
