// SPDX-License-Identifier: Apache-2.0
//! A notice as an Event of Kubernetes on the client's pod.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use nsm_sdk::networkservice::report::{Became, Notice};

use crate::pods::Pod;

/// Who says it.
const CONTROLLER: &str = "networkservicemesh.io/agent";

/// How long a note may be, as Kubernetes has it, bytes.
const MAX_NOTE: usize = 1024;

/// How much of the pod's name is in the name of the Event, bytes: there is more to it.
const MAX_NAME: usize = 200;

/// Something to tell of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    /// What has happened.
    pub(crate) notice: Notice,
    /// To whom.
    pub(crate) pod: Pod,
    /// The node that tells it.
    pub(crate) node: String,
    /// How often it was so.
    pub(crate) count: i32,
    /// When it was so last.
    pub(crate) at: Timestamp,
}

/// The Event for it, about the life of the pod that has this uid. What is told of a connection again, in the same words,
/// has the same name: it is the same Event, whoever tells it. (Kubernetes lets nobody change the words of one.)
pub(crate) fn event(telling: &Telling, uid: &str) -> Event {
    let Telling {
        notice,
        pod,
        node,
        count,
        at,
    } = telling;
    let note = note(notice);
    let series = (*count > 1).then_some(EventSeries {
        count: *count,
        last_observed_time: MicroTime(*at),
    });
    Event {
        metadata: ObjectMeta {
            name: Some(name(notice, pod, uid, &note)),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some(action(notice.became).into()),
        event_time: Some(MicroTime(*at)),
        note: Some(note),
        reason: Some(notice.reason.clone()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(uid.into()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(
            if node.is_empty() {
                CONTROLLER
            } else {
                node.as_str()
            }
            .into(),
        ),
        series,
        type_: Some(kind(notice.became).into()),
        ..Event::default()
    }
}

fn name(notice: &Notice, pod: &Pod, uid: &str, note: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (uid, &notice.id, &notice.reason, note).hash(&mut hasher);
    let cut = pod.name.floor_char_boundary(MAX_NAME);
    let begins = pod
        .name
        .get(..cut)
        .unwrap_or_default()
        .trim_end_matches(['.', '-']);
    format!("{begins}.{:016x}", hasher.finish())
}

/// What was tried.
fn action(became: Became) -> &'static str {
    match became {
        Became::Refused | Became::Attached => "Attach",
        Became::Healed => "Heal",
    }
}

fn kind(became: Became) -> &'static str {
    match became {
        Became::Refused => "Warning",
        Became::Attached | Became::Healed => "Normal",
    }
}

/// What people read: the service, the text, and for a refusal where its remedy is.
fn note(notice: &Notice) -> String {
    let remedy = nsm::reasons::entry(&notice.reason).filter(|_| notice.became == Became::Refused);
    let mut note = format!("network service {}: {}", notice.network_service, notice.text);
    let remedy = remedy.map_or(String::new(), |entry| format!("; remedy: {}", entry.remedy));
    note.truncate(note.floor_char_boundary(MAX_NOTE.saturating_sub(remedy.len())));
    note.push_str(&remedy);
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    note
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn refused() -> Notice {
        Notice {
            client: "spiffe://mesh/ns/default/pod/nsc-1".into(),
            id: "nsc-1-0".into(),
            network_service: "vpn".into(),
            endpoint: String::new(),
            became: Became::Refused,
            reason: "pool-empty".into(),
            text: "nse/point2pointipam: no address left".into(),
        }
    }

    pub(crate) fn pod() -> Pod {
        Pod {
            namespace: "default".into(),
            name: "nsc-1".into(),
        }
    }

    pub(crate) fn telling(count: i32) -> Telling {
        Telling {
            notice: refused(),
            pod: pod(),
            node: "node1".into(),
            count,
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_refusal_is_a_warning_with_its_code_its_cause_and_its_remedy() {
        let event = event(&telling(1), "0b5e");
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.reason.as_deref(), Some("pool-empty"));
        let note = event.note.expect("it has one");
        for part in ["vpn", "no address left", "remedy: ", "NSM_CIDR_PREFIX"] {
            assert!(note.contains(part), "{note}");
        }
        let regarding = event.regarding.expect("it is about a pod");
        assert_eq!(regarding.uid.as_deref(), Some("0b5e"));
        assert_eq!(event.series, None);
    }

    #[test]
    fn the_same_has_the_same_name_and_something_else_another() {
        let (one, mut other) = (refused(), refused());
        let name = |notice: &Notice| name(notice, &pod(), "0b5e", &note(notice));
        assert_eq!(name(&one), name(&other));
        other.text = "another text".into();
        assert_ne!(name(&one), name(&other), "nobody may change its note");
        other = refused();
        other.reason = "no-endpoint".into();
        assert_ne!(name(&one), name(&other));
        assert_ne!(name(&one), super::name(&one, &pod(), "another life", &note(&one)));
        let long = Pod {
            name: format!("{}.b", "a-".repeat(120)),
            ..pod()
        };
        assert!(super::name(&one, &long, "0b5e", "").len() < 253);
    }

    #[test]
    fn a_note_is_not_longer_than_kubernetes_takes_and_keeps_its_remedy() {
        let mut long = refused();
        long.text = "ä".repeat(2000);
        let note = note(&long);
        assert!(note.len() <= MAX_NOTE && note.contains("remedy: "), "{note}");
        long.became = Became::Healed;
        long.reason = "healed".into();
        assert!(!super::note(&long).contains("remedy"));
    }
}
