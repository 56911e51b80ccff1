// SPDX-License-Identifier: Apache-2.0
//! What a choice comes to: the cause, and what to do about it.

use std::fmt::Write;

use nsm_api::matching::{self, Labels};
use nsm_api::registry::NetworkService;
use nsm_sdk::networkservice::is_alive;

use super::{Asked, Became, Choice, Matched, Verdict, candidates, cause};
use crate::nearest::nearest;
use crate::offline::Known;

/// How many names a sentence has.
const MAX_NAMES: usize = 3;

/// There is no such service.
pub(super) fn no_service(known: &Known, asked: &Asked<'_>, near: &[String]) -> Verdict {
    let name = asked.network_service;
    let mut cause = format!("there is no network service {name:?}");
    let offering = candidates(known, name).len();
    if offering > 0 {
        let _infallible = write!(
            cause,
            ", though {offering} endpoints offer it: an endpoint names services, and does not make them"
        );
    }
    let remedy = match near {
        [] => format!("create it: a NetworkService called {name}, or let an endpoint register it"),
        near => format!("ask for {}, or create it", near.join(" or ")),
    };
    Verdict::refused("no-service", cause, remedy)
}

/// What the choices come to.
pub(super) fn of(
    known: &Known,
    service: &NetworkService,
    asked: &Asked<'_>,
    endpoints: &Choice,
    forwarders: &Choice,
) -> Verdict {
    if endpoints.judged.is_empty() {
        return nobody_offers(known, service);
    }
    if endpoints.judged.iter().all(|judged| judged.reason == "expired") {
        return all_expired(service, endpoints);
    }
    let names: Vec<_> = endpoints.chosen().map(|judged| judged.name.as_str()).collect();
    if names.is_empty() {
        return nobody_chosen(known, service, asked, endpoints);
    }
    let chooses_forwarder = asked.is_whole || !forwarders.judged.is_empty();
    if chooses_forwarder && forwarders.chosen().next().is_none() {
        return no_forwarder(asked, forwarders);
    }
    let text = format!(
        "{} of {} endpoints serve this client and are tried in turn: {}",
        names.len(),
        endpoints.judged.len(),
        list(&names)
    );
    Verdict::served(text)
}

fn nobody_offers(known: &Known, service: &NetworkService) -> Verdict {
    let name = &service.name;
    let offered = known
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.network_service_names);
    let near = nearest(
        name,
        offered.map(String::as_str).filter(|offered| offered != name),
    );
    let cause = match near.as_slice() {
        [] => format!("no endpoint offers {name}"),
        near => format!(
            "no endpoint offers {name}; what is offered has names like {}",
            list(near)
        ),
    };
    let remedy =
        format!("start an endpoint with NSM_SERVICE_NAMES={name}, and look into its log if there is one");
    Verdict::refused("no-endpoint", cause, remedy)
}

fn all_expired(service: &NetworkService, endpoints: &Choice) -> Verdict {
    let last = endpoints.judged.last();
    let (name, since) = last.map_or(("", ""), |last| (last.name.as_str(), last.cause.as_str()));
    let cause = format!(
        "all {} endpoints of {} have expired: of {name}, {since}",
        endpoints.judged.len(),
        service.name
    );
    let remedy = "see whether they run and reach their manager, for who lives registers again in time; and whether \
                  the clocks of the nodes agree";
    Verdict::refused("no-endpoint", cause, remedy)
}

fn nobody_chosen(known: &Known, service: &NetworkService, asked: &Asked<'_>, endpoints: &Choice) -> Verdict {
    if let Some(nobody) = endpoints.judged.iter().find(|judged| judged.reason == "bad-url") {
        let cause = format!("{} fits, but {}", nobody.name, nobody.cause);
        let remedy =
            "give the endpoint a URL: programs register theirs by NSM_LISTEN_ON, objects have it in spec.url";
        return Verdict::refused("no-endpoint", cause, remedy);
    }
    let matches = &endpoints.listener.matches;
    match matches
        .iter()
        .rev()
        .find(|matched| matches!(matched.outcome, Became::ChoseNobody | Became::FellThrough))
    {
        None => no_match(asked, matches),
        Some(matched) => nobody_fits(known, service, asked, endpoints, matched),
    }
}

/// No match is for this client.
fn no_match(asked: &Asked<'_>, matches: &[Matched]) -> Verdict {
    let told = matches.iter().take(MAX_NAMES).map(|matched| {
        let cause = matched.cause.as_deref().unwrap_or_default();
        format!(
            "match {} wants {}: {cause}",
            matched.number,
            cause::labels(&matched.source_selector)
        )
    });
    let told: Vec<_> = told.collect();
    let cause = format!(
        "none of the {} matches applies to a client with {}; {}",
        matches.len(),
        cause::labels(asked.labels),
        told.join("; ")
    );
    let wanted = matches.first().map(|matched| query(&matched.source_selector));
    let remedy = format!(
        "ask for {}?{}, or add a match without a source_selector at the end",
        asked.network_service,
        wanted.unwrap_or_default()
    );
    Verdict::refused("no-endpoint", cause, remedy)
}

/// A match is for this client, and no endpoint fits it.
fn nobody_fits(
    known: &Known,
    service: &NetworkService,
    asked: &Asked<'_>,
    endpoints: &Choice,
    matched: &Matched,
) -> Verdict {
    let number = matched.number;
    if matched.routes.is_empty() {
        let cause = format!("match {number} applies to this client and has no routes, so it chooses nobody");
        let remedy = format!("give match {number} a route; routes: [{{}}] chooses every endpoint");
        return Verdict::refused("no-endpoint", cause, remedy);
    }
    let (mut told, count) = (Vec::new(), endpoints.judged.len());
    for judged in endpoints.judged.iter().take(MAX_NAMES) {
        told.push(format!("{}: {}", judged.name, judged.cause));
    }
    let cause = format!(
        "match {number} applies to this client, and none of {count} endpoints fits; {}",
        told.join("; ")
    );
    let wants: Vec<_> = matched.routes.iter().map(cause::labels).take(MAX_NAMES).collect();
    let lacks = endpoints
        .judged
        .iter()
        .any(|judged| judged.reason == "client-lacks-label");
    let mut remedy = match lacks {
        true => "give the client the label that the template names, in its URL or by NODE_NAME, POD_NAME or \
                 CLUSTER_NAME in its environment"
            .to_string(),
        false => format!(
            "give an endpoint the labels {} (NSM_LABELS, for the service {}), or change the route",
            wants.join(" or "),
            service.name
        ),
    };
    if let Some(behind) = behind(known, service, asked, number) {
        let _infallible = write!(remedy, "; {behind}");
    }
    Verdict::refused("no-endpoint", cause, remedy)
}

/// Who would be chosen if the match fell through.
fn behind(known: &Known, service: &NetworkService, asked: &Asked<'_>, number: usize) -> Option<String> {
    let mut fallen = service.clone();
    let matched = fallen.matches.get_mut(number.checked_sub(1)?)?;
    if std::mem::replace(&mut matched.fallthrough, true) {
        return None;
    }
    let mut alive = candidates(known, &service.name);
    alive.retain(|endpoint| is_alive(endpoint, asked.now));
    let chosen = matching::endpoints(asked.labels, &fallen, &alive);
    let names: Vec<_> = chosen.iter().map(|endpoint| endpoint.name.as_str()).collect();
    let would = format!(
        "with fallthrough: true in match {number} a later one would choose {}",
        list(&names)
    );
    (!names.is_empty()).then_some(would)
}

fn no_forwarder(asked: &Asked<'_>, forwarders: &Choice) -> Verdict {
    let service = asked.forwarder_service;
    let told = forwarders
        .judged
        .iter()
        .take(MAX_NAMES)
        .map(|judged| format!("{}: {}", judged.name, judged.cause));
    let told: Vec<_> = told.collect();
    if told.is_empty() {
        let cause = format!("there are endpoints, but no forwarder is registered under {service}");
        let remedy = "start a forwarder on the client's node, and look into its log if it runs";
        return Verdict::refused("no-forwarder", cause, remedy);
    }
    let cause = format!(
        "there are endpoints, but the matches allow none of {} forwarders; {}",
        forwarders.judged.len(),
        told.join("; ")
    );
    let remedy = "give a forwarder of the client's node the labels that the match's metadata wants, p2p=true when it \
                  has none (NSM_LABELS), or change the metadata";
    Verdict::refused("no-forwarder", cause, remedy)
}

/// The labels as a URL has them.
fn query(labels: &Labels) -> String {
    let pairs: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

/// Some names, and how many more there are.
fn list(names: &[&str]) -> String {
    let told = names
        .iter()
        .take(MAX_NAMES)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}
