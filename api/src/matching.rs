// SPDX-License-Identifier: Apache-2.0
//! Who fits whom: clients and endpoints by labels, queries and registry entries, monitors and connections.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::connection::{Connection, MonitorScopeSelector, PathSegment};
use crate::registry::{NetworkService, NetworkServiceEndpoint};
use crate::template::{Data, render};

mod choice;

pub use choice::{Outcome, Refusal, Step, trace_endpoints, trace_forwarders};

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// Labels that are wanted, with the templates in their values filled in.
///
/// Filling in is done once; [`Selector::accepts`] then only compares.
#[derive(Clone, Debug)]
pub struct Selector<'a> {
    wanted: Vec<Wanted<'a>>,
}

#[derive(Clone, Debug)]
struct Wanted<'a> {
    name: &'a str,
    literal: &'a str,
    rendered: Cow<'a, str>,
}

impl<'a> Selector<'a> {
    /// Wants `labels`, whose values may be templates over `variables`: the labels of the client.
    pub fn new(labels: &'a Labels, variables: &Labels) -> Self {
        let wanted = labels.iter().map(|(name, literal)| Wanted {
            name,
            literal,
            rendered: render(literal, Data::Labels(variables)).unwrap_or(Cow::Borrowed(literal)),
        });
        Self {
            wanted: wanted.collect(),
        }
    }

    /// Whether `labels` has what is wanted, be it as the template's result or literally as the template. It
    /// must have at least as many labels as are wanted; then an empty value is also had by not having the
    /// label.
    pub fn accepts(&self, labels: &Labels) -> bool {
        self.refusal(labels).is_none()
    }

    /// Why it does not accept `labels`; nothing when it does.
    pub fn refusal<'s>(&'s self, labels: &'s Labels) -> Option<Refusal<'s>> {
        let differs = |wanted: &'s Wanted<'a>| {
            let value = labels.get(wanted.name).map(String::as_str);
            let has = value.unwrap_or_default();
            (has != wanted.literal && has != wanted.rendered).then_some(Refusal::Label {
                name: wanted.name,
                wanted: wanted.literal,
                rendered: &wanted.rendered,
                value,
            })
        };
        let (has, wants) = (labels.len(), self.wanted.len());
        let too_few = || (has < wants).then_some(Refusal::TooFew { has, wants });
        self.wanted.iter().find_map(differs).or_else(too_few)
    }
}

/// Whether `labels` has the labels `wanted`, whose values may be templates over `variables`.
///
/// ```
/// use nsm_api::matching::{Labels, is_subset};
/// let node: Labels = [("nodeName".to_string(), "n1".to_string())].into();
/// let wanted: Labels = [("nodeName".to_string(), "{{.nodeName}}".to_string())].into();
/// assert!(is_subset(&node, &wanted, &node));
/// ```
pub fn is_subset(labels: &Labels, wanted: &Labels, variables: &Labels) -> bool {
    Selector::new(wanted, variables).accepts(labels)
}

/// The endpoints among `candidates` that `service` chooses for a client with `labels`, in its order of
/// preference. An endpoint that several routes of a match choose appears as often.
///
/// The candidates offer the service and are alive: neither is looked at here.
pub fn endpoints<'a>(
    labels: &Labels,
    service: &NetworkService,
    candidates: &'a [NetworkServiceEndpoint],
) -> Vec<&'a NetworkServiceEndpoint> {
    trace_endpoints(labels, service, candidates, |_| {})
}

/// The forwarders among `candidates` that `service` allows for a client with `labels`, in their order.
///
/// Candidates are registered under the service `forwarder_service`. A match wants the labels of its metadata,
/// or `p2p: "true"` when it has none.
pub fn forwarders<'a>(
    labels: &Labels,
    service: &NetworkService,
    forwarder_service: &str,
    candidates: &'a [NetworkServiceEndpoint],
) -> Vec<&'a NetworkServiceEndpoint> {
    trace_forwarders(labels, service, forwarder_service, candidates, |_| {})
}

/// Whether a registry answers `query` with `service`. What the query leaves empty may be anything: name and
/// payload must be equal, and the matches in their order. The path is not looked at.
pub fn service_matches(query: &NetworkService, service: &NetworkService) -> bool {
    (query.name.is_empty() || query.name == service.name)
        && (query.payload.is_empty() || query.payload == service.payload)
        && (query.matches.is_empty() || query.matches == service.matches)
}

/// Whether a registry answers `query` with `endpoint`. What the query leaves empty may be anything: the name
/// must be equal, the URL a part of the endpoint's, the expiration in the same second, and services and
/// labels among the endpoint's. Labels are no templates here. Path and first registration are not looked at.
pub fn endpoint_matches(query: &NetworkServiceEndpoint, endpoint: &NetworkServiceEndpoint) -> bool {
    let seconds =
        |endpoint: &NetworkServiceEndpoint| endpoint.expiration_time.as_ref().map(|time| time.seconds);
    (query.name.is_empty() || query.name == endpoint.name)
        && endpoint.url.contains(&query.url)
        && (query.expiration_time.is_none() || seconds(query) == seconds(endpoint))
        && offers_services(endpoint, &query.network_service_names)
        && query.network_service_labels.iter().all(|(service, wanted)| {
            let offered = endpoint.network_service_labels.get(service);
            offered.is_some_and(|offered| {
                let has = |(name, value)| offered.labels.get(name) == Some(value);
                wanted.labels.iter().all(has)
            })
        })
}

fn offers_services(endpoint: &NetworkServiceEndpoint, services: &[String]) -> bool {
    if let [service] = services {
        return endpoint.network_service_names.contains(service);
    }
    let offered: BTreeSet<_> = endpoint.network_service_names.iter().collect();
    services.iter().all(|service| offered.contains(service))
}

/// Whether a monitor with `selector` is told of `connection`: if its service is one of those selected, and
/// somewhere on its path neighbouring segments fit the selected ones one by one. A list that is empty, and a
/// name, id or token that is empty, may be anything.
pub fn connection_matches(selector: &MonitorScopeSelector, connection: &Connection) -> bool {
    let services = &selector.network_services;
    if !services.is_empty() && !services.contains(&connection.network_service) {
        return false;
    }
    let wanted = selector.path_segments.as_slice();
    if wanted.is_empty() {
        return true;
    }
    let fits = |(wanted, segment)| segment_matches(wanted, segment);
    connection.path.as_ref().is_some_and(|path| {
        let mut windows = path.path_segments.windows(wanted.len());
        windows.any(|window| wanted.iter().zip(window).all(fits))
    })
}

fn segment_matches(wanted: &PathSegment, segment: &PathSegment) -> bool {
    let fits = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
    fits(&wanted.name, &segment.name) && fits(&wanted.id, &segment.id) && fits(&wanted.token, &segment.token)
}

#[cfg(test)]
mod tests;
