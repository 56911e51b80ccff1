// SPDX-License-Identifier: Apache-2.0
//! Why one thing does not fit another, in a word and in words.

use std::time::SystemTime;

use nsm_api::matching::{Labels, Refusal};
use nsm_api::registry::NetworkServiceEndpoint;

/// What a template makes of a label that is not there.
const NO_VALUE: &str = "<no value>";

/// A word for why labels do not fit.
pub(super) fn reason(refusal: &Refusal<'_>) -> &'static str {
    match refusal {
        Refusal::Label { rendered, wanted, .. } if lacks(rendered, wanted) => "client-lacks-label",
        Refusal::Label { value: None, .. } => "label-missing",
        Refusal::Label { .. } => "label-differs",
        Refusal::TooFew { .. } => "too-few-labels",
        Refusal::NoLabels => "no-labels",
    }
}

/// Why labels do not fit, in words.
pub(super) fn text(refusal: &Refusal<'_>) -> String {
    match *refusal {
        Refusal::Label {
            name,
            wanted,
            rendered,
            value,
        } => {
            let has = match value {
                Some(value) => format!("label {name} is {value:?}"),
                None => format!("there is no label {name}"),
            };
            match (lacks(rendered, wanted), wanted == rendered) {
                (true, _) => format!("{has}, wanted {wanted} of a client that has no such label"),
                (false, true) => format!("{has}, wanted {wanted:?}"),
                (false, false) => format!("{has}, wanted {rendered:?} (of {wanted})"),
            }
        }
        Refusal::TooFew { has, wants } => {
            format!("there are {has} labels, fewer than the {wants} that are wanted, be they empty")
        }
        Refusal::NoLabels => "it has no labels for this service".to_string(),
    }
}

/// Whether a template refers to a label that the client does not have.
pub(super) fn lacks(rendered: &str, wanted: &str) -> bool {
    rendered != wanted && rendered.contains(NO_VALUE)
}

/// The labels `app=a color=red` that somebody has or wants.
pub(super) fn labels(labels: &Labels) -> String {
    let pairs: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    match pairs.is_empty() {
        true => "no labels".to_string(),
        false => pairs.join(" "),
    }
}

/// Since when it has expired.
pub(super) fn expired(endpoint: &NetworkServiceEndpoint, now: SystemTime) -> String {
    let expired = endpoint
        .expiration_time
        .and_then(|time| SystemTime::try_from(time).ok());
    let ago = expired.and_then(|expired| now.duration_since(expired).ok());
    let ago = ago.unwrap_or_default().as_secs();
    format!("its registration has expired {ago} s ago")
}
