// SPDX-License-Identifier: Apache-2.0
//! What the mesh has told of a pod, by Events.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::cluster::Cluster;
use super::pod::Pod;
use crate::reasons;

/// Who tells them.
const CONTROLLER: &str = "networkservicemesh.io/agent";

/// How many of the last ones are shown.
const MAX_SHOWN: usize = 5;

/// One thing that was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Told {
    /// When it was told last, RFC 3339.
    pub(crate) at: String,
    /// `Warning` of a refusal, otherwise `Normal`.
    pub(crate) r#type: String,
    /// The reason code.
    pub(crate) reason: String,
    /// How often.
    pub(crate) count: i64,
    /// For people.
    pub(crate) message: String,
    /// What to do, for a reason code that has a remedy.
    pub(crate) remedy: Option<&'static str>,
}

/// What was told of a pod, the last one last.
pub(crate) fn of(cluster: &Cluster, pod: &Pod) -> Result<Vec<Told>> {
    let about = format!(
        "--field-selector=involvedObject.kind=Pod,involvedObject.name={}",
        pod.name
    );
    let found = cluster.get_in(Some(&pod.namespace), &["events", &about])?;
    let items = found["items"].as_array().into_iter().flatten();
    let mut told: Vec<_> = items
        .filter(|event| event["reportingComponent"] == CONTROLLER)
        .map(Told::of)
        .collect();
    told.sort_by(|one, other| one.at.cmp(&other.at));
    told.drain(..told.len().saturating_sub(MAX_SHOWN));
    Ok(told)
}

impl Told {
    fn of(event: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let series = &event["series"];
        let last = series["lastObservedTime"]
            .as_str()
            .or_else(|| event["eventTime"].as_str());
        let (reason, r#type) = (text(&event["reason"]), text(&event["type"]));
        let entry = reasons::entry(&reason).filter(|_| r#type == "Warning");
        Self {
            at: last.unwrap_or_default().to_string(),
            count: series["count"].as_i64().unwrap_or(1),
            message: text(&event["message"]),
            remedy: entry.map(|entry| entry.remedy),
            r#type,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_told_with_its_remedy_and_how_often() {
        let event = json!({
            "type": "Warning", "reason": "pool-empty", "message": "network service vpn: no address left",
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "series": {"count": 7, "lastObservedTime": "2026-01-01T00:05:00.000000Z"},
        });
        let told = Told::of(&event);
        assert_eq!((told.count, &*told.at), (7, "2026-01-01T00:05:00.000000Z"));
        assert!(
            told.remedy
                .is_some_and(|remedy| remedy.contains("NSM_CIDR_PREFIX"))
        );
    }
}
