// SPDX-License-Identifier: Apache-2.0
//! What is written on a pod, and what is read from one.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use nsm_api::matching::Labels;
use nsm_sdk::core::Request;
use nsm_sdk::networkservice::supply::Place;
use uuid::Uuid;

/// The label by which pods of suppliers are found, and its value.
pub(super) const MANAGED: &str = "app.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "nse-supplier-k8s";

/// The label that says for which service and node a pod is.
const PLACE: &str = "networkservicemesh.io/supplies";

/// The label by which the predecessor's pods name their supplier.
const CREATED_BY: &str = "createdBy";

/// Annotations: the service, and the labels of the client that asked first.
const SERVICE: &str = "networkservicemesh.io/service";
const CLIENT: &str = "networkservicemesh.io/client-labels";

/// How much the labels of a client may take, bytes; of one with more only its node is written down.
const MAX_CLIENT: usize = 4096;

/// How long a text about a pod is, characters.
const MAX_TEXT: usize = 300;

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) uid: String,
    /// The [`hash`] of its place.
    pub(super) place: String,
    /// Whether it was told to end.
    pub(super) is_going: bool,
    has_ended: bool,
    /// What it is doing, for people.
    pub(super) state: String,
    service: String,
    client: Labels,
}

impl Seen {
    pub(super) fn of(pod: &Pod) -> Self {
        let text = |key: &str| pod.annotations().get(key).cloned().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            place: pod.labels().get(PLACE).cloned().unwrap_or_default(),
            is_going: pod.metadata.deletion_timestamp.is_some(),
            has_ended: matches!(phase, Some("Succeeded" | "Failed")),
            state: state(pod),
            service: text(SERVICE),
            client: serde_json::from_str(&text(CLIENT)).unwrap_or_default(),
        }
    }

    /// Whether it may register, or has.
    pub(super) fn lives(&self) -> bool {
        !self.is_going && !self.has_ended
    }

    /// The request for which it was made, as far as it is written down.
    pub(super) fn request(&self) -> Option<Request> {
        if self.service.is_empty() {
            return None;
        }
        let mut request = Request::default();
        request.connection.network_service.clone_from(&self.service);
        request.connection.labels.clone_from(&self.client);
        Some(request)
    }
}

/// A name for a place that fits into a label.
pub(super) fn hash(place: &Place) -> String {
    let name = format!("{}\n{}", place.service, place.node);
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
}

/// Writes on a pod whose it is, and what a template leaves out: a name, the node, and that it is not started again when
/// it ends, since endpoints that are not needed any more end.
pub(super) fn mark(pod: &mut Pod, namespace: &str, us: &str, place: &Place, request: &Request) {
    pod.metadata.namespace = Some(namespace.into());
    if pod.metadata.name.as_ref().is_none_or(String::is_empty) {
        let prefix = pod.metadata.generate_name.take().unwrap_or_else(|| "nse-".into());
        pod.metadata.name = Some(format!("{prefix}{}", hash(place)));
    }
    let by: String = us
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(63)
        .collect();
    let by = by.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let labels = [(MANAGED, MANAGER), (PLACE, &hash(place)), (CREATED_BY, by)];
    pod.labels_mut()
        .extend(labels.map(|(key, value)| (key.to_string(), value.to_string())));
    let all = serde_json::to_string(&request.connection.labels).unwrap_or_default();
    let client = match all.len() {
        0..=MAX_CLIENT => all,
        _ => serde_json::json!({ "nodeName": place.node }).to_string(),
    };
    let annotations = [(SERVICE, place.service.clone()), (CLIENT, client)];
    pod.annotations_mut()
        .extend(annotations.map(|(key, value)| (key.to_string(), value)));
    if let Some(spec) = pod.spec.as_mut() {
        if spec.node_name.as_ref().is_none_or(String::is_empty) && !place.node.is_empty() {
            spec.node_name = Some(place.node.clone());
        }
        spec.restart_policy.get_or_insert_with(|| "Never".into());
    }
}

/// What a pod is doing: its phase, and the reason of what holds it up.
fn state(pod: &Pod) -> String {
    let Some(status) = &pod.status else {
        return "made".into();
    };
    let phase = status.phase.as_deref().unwrap_or("Pending").to_string();
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let mut reasons: Vec<String> = containers
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(reason)
        .collect();
    reasons.extend(status.reason.clone());
    reasons.extend(status.message.clone());
    let waiting = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    reasons.extend(waiting.and_then(|condition| condition.message.clone()));
    if reasons.is_empty() {
        return phase;
    }
    let text = format!("{phase} ({})", reasons.join("; "));
    text.chars().take(MAX_TEXT).collect()
}

/// Why a container does not run.
fn reason(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let name = &container.name;
    if let Some(waiting) = &state.waiting {
        let message = waiting.message.as_ref().map(|message| format!(": {message}"));
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        return Some(format!("{name} {reason}{}", message.unwrap_or_default()));
    }
    let ended = state.terminated.as_ref()?;
    let reason = ended.reason.as_deref().unwrap_or("ended");
    Some(format!("{name} {reason}, exit code {}", ended.exit_code))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn asked(labels: &[(&str, &str)]) -> (Place, Request) {
        let mut request = Request::default();
        request.connection.network_service = "a service".into();
        let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        request.connection.labels = labels.iter().map(owned).collect();
        (Place::of(&request).expect("a place"), request)
    }

    fn marked(pod: Value, labels: &[(&str, &str)]) -> Pod {
        let (place, request) = asked(labels);
        let mut pod: Pod = from_value(pod).expect("a pod");
        mark(&mut pod, "ns", "supplier-1", &place, &request);
        pod
    }

    #[test]
    fn whom_a_pod_is_for_is_read_from_it_again() {
        let labels = [("nodeName", "n1"), ("app", "client")];
        let pod = marked(json!({ "spec": { "containers": [] } }), &labels);
        let seen = Seen::of(&pod);
        let (place, request) = asked(&labels);
        assert_eq!(seen.place, hash(&place));
        assert_eq!(seen.request(), Some(request));
        assert!(seen.lives());
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.node_name.as_deref(), Some("n1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
        assert_eq!(pod.metadata.labels.expect("labels")["createdBy"], "supplier-1");
    }

    #[test]
    fn what_a_template_says_stays() {
        let pod = json!({
            "metadata": { "name": "mine", "labels": { "app": "nse" } },
            "spec": { "containers": [], "nodeName": "n2", "restartPolicy": "OnFailure" },
        });
        let pod = marked(pod, &[("nodeName", "n1")]);
        assert_eq!(pod.metadata.name.as_deref(), Some("mine"));
        assert_eq!(pod.metadata.labels.as_ref().expect("labels")["app"], "nse");
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.node_name.as_deref(), Some("n2"));
        assert_eq!(spec.restart_policy.as_deref(), Some("OnFailure"));
    }

    #[test]
    fn a_pod_without_a_name_is_called_by_its_place() {
        let name = |node: &str| {
            let pod = json!({ "metadata": { "generateName": "w-" }, "spec": { "containers": [] } });
            marked(pod, &[("nodeName", node)]).name_any()
        };
        assert!(name("n1").starts_with("w-"));
        assert_eq!(name("n1"), name("n1"));
        assert_ne!(name("n1"), name("n2"));
    }

    #[test]
    fn labels_that_are_too_many_leave_the_node() {
        let long = "x".repeat(MAX_CLIENT);
        let pod = marked(
            json!({ "spec": { "containers": [] } }),
            &[("nodeName", "n1"), ("a", &long)],
        );
        let request = Seen::of(&pod).request().expect("it is ours");
        assert_eq!(
            request.connection.labels,
            [("nodeName".to_string(), "n1".to_string())].into()
        );
    }

    #[test]
    fn a_pod_tells_why_it_does_not_run() {
        let seen = |status: Value| {
            let pod: Pod =
                from_value(json!({ "metadata": { "name": "a" }, "status": status })).expect("a pod");
            Seen::of(&pod)
        };
        let pulling = json!({ "phase": "Pending", "containerStatuses": [{
            "name": "nse", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } },
        }] });
        assert_eq!(
            seen(pulling).state,
            "Pending (nse ImagePullBackOff: no such image)"
        );
        let failed = json!({ "phase": "Failed", "containerStatuses": [{
            "name": "nse", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "reason": "Error", "exitCode": 64 } },
        }] });
        let failed = seen(failed);
        assert_eq!(failed.state, "Failed (nse Error, exit code 64)");
        assert!(!failed.lives());
        assert_eq!(seen(json!({ "phase": "Running" })).state, "Running");
    }
}
