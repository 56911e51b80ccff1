// SPDX-License-Identifier: Apache-2.0
//! Who fits whom.

use nsm_api::connection::MonitorScopeSelector;
use nsm_api::matching;
use serde_json::json;

use super::draw::Draw;
use super::theirs::{Answer, bytes};
use super::{Case, same};

/// A question whose answer is yes or no. Where they would crash, ours is no.
fn yes_or_no(question: serde_json::Value, ours: bool) -> Case {
    let compare = move |theirs: &Answer| same(&ours, &theirs.yes);
    Case {
        question,
        compare: Box::new(compare),
    }
}

pub(super) fn labels(draw: &mut Draw) -> Case {
    let (have, want, variables) = (draw.labels(4), draw.labels(3), draw.labels(4));
    let ours = matching::is_subset(&have, &want, &variables);
    let question = json!({"ask": "labels", "have": have, "want": want, "variables": variables});
    yes_or_no(question, ours)
}

pub(super) fn choice(draw: &mut Draw) -> Case {
    let (labels, service) = (draw.labels(4), draw.service());
    let mut endpoints = draw.several(5, Draw::endpoint);
    for (name, endpoint) in ["a", "b", "c", "d", "e"].into_iter().zip(&mut endpoints) {
        endpoint.name = name.to_string();
    }
    let ours = matching::endpoints(&labels, &service, &endpoints);
    let ours: Vec<_> = ours.into_iter().map(|endpoint| endpoint.name.clone()).collect();
    let endpoints: Vec<_> = endpoints.iter().map(bytes).collect();
    let question = json!({
        "ask": "choice", "have": labels, "object": bytes(&service), "endpoints": endpoints,
    });
    let compare = move |theirs: &Answer| same(&ours, &theirs.names);
    Case {
        question,
        compare: Box::new(compare),
    }
}

pub(super) fn service(draw: &mut Draw) -> Case {
    let (mut query, object) = (draw.service(), draw.service());
    if draw.chance(60) {
        query.matches.clear();
    }
    if draw.chance(20) {
        query.matches.clone_from(&object.matches);
    }
    let question = json!({"ask": "service", "query": bytes(&query), "object": bytes(&object)});
    yes_or_no(question, matching::service_matches(&query, &object))
}

pub(super) fn endpoint(draw: &mut Draw) -> Case {
    let (query, object) = (draw.endpoint(), draw.endpoint());
    let question = json!({"ask": "endpoint", "query": bytes(&query), "object": bytes(&object)});
    yes_or_no(question, matching::endpoint_matches(&query, &object))
}

pub(super) fn monitor(draw: &mut Draw) -> Case {
    let (connection, like) = (draw.connection(), draw.connection());
    let mut segments = like.path.unwrap_or_default().path_segments;
    segments.truncate(2);
    let selector = MonitorScopeSelector {
        path_segments: segments,
        network_services: draw.several(1, |draw| draw.text(&["one", "two"])),
    };
    let question = json!({"ask": "monitor", "query": bytes(&selector), "object": bytes(&connection)});
    yes_or_no(question, matching::connection_matches(&selector, &connection))
}
