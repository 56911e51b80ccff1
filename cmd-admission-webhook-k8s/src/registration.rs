// SPDX-License-Identifier: Apache-2.0
//! Our MutatingWebhookConfiguration: what the API server asks us about, and what it does when we are not there.
//!
//! **Guarantees**: we are asked about nothing but what names our annotation, and pods of namespaces that do; so nobody
//! else waits for us, or fails without us. What does name it is not let in without us: a pod would start without the
//! network that it asks for.
//! **On failure**: what is written stays; it is written again by whoever looks next.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use nsm_sdk::core::{Error, Result};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::namespace;
use crate::rules::Rules;

/// The path of reviews.
pub(crate) const PATH: &str = "/mutate";

/// How long the API server waits for an answer, seconds.
const TO_REVIEW: u32 = 10;

/// How long an answer of the API server may take.
const TO_ANSWER: Duration = Duration::from_secs(5);

/// Namespaces that a mesh is made of, besides our own.
const SPARED: [&str; 2] = ["kube-system", "spire"];

/// What is written, but for the authorities.
#[derive(Clone)]
pub(crate) struct Registration {
    client: Client,
    /// The configuration's name, and that of its writer.
    name: String,
    webhooks: Vec<Value>,
}

impl Registration {
    /// The configuration `name` for the service `service` of `namespace`.
    pub(crate) fn new(client: Client, name: &str, service: &str, namespace: &str, rules: &Rules) -> Self {
        Self {
            client,
            name: name.to_string(),
            webhooks: webhooks(rules, service, namespace),
        }
    }

    /// Writes it, with these authorities in PEM, or with those that somebody else writes. Changes nothing when it is
    /// as it should be.
    ///
    /// Errors: `api-server`, and `forbidden` when our rights do not suffice.
    pub(crate) async fn write(&self, authorities: Option<&[u8]>) -> Result<()> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let params = PatchParams::apply("admission-webhook-k8s").force();
        let (patch, name) = (Patch::Apply(self.document(authorities)), &self.name);
        let refused = |why: &dyn std::fmt::Display| {
            let text = format!("the API server does not take our MutatingWebhookConfiguration {name}: {why}");
            Error::unavailable("api-server", text)
        };
        match timeout(TO_ANSWER, api.patch(name, &params, &patch)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                let text = format!(
                    "{}; give our service account the role of the manifests",
                    status.message
                );
                Err(Error::denied("forbidden", text))
            }
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => Err(refused(&"no answer in time")),
        }
    }

    fn document(&self, authorities: Option<&[u8]>) -> Value {
        let mut webhooks = self.webhooks.clone();
        if let Some(authorities) = authorities {
            for webhook in &mut webhooks {
                webhook["clientConfig"]["caBundle"] = json!(STANDARD.encode(authorities));
            }
        }
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": self.name },
            "webhooks": webhooks,
        })
    }
}

/// Which pods, workloads and namespaces we are asked about.
fn webhooks(rules: &Rules, service: &str, namespace: &str) -> Vec<Value> {
    let (key, label) = (&rules.annotation, namespace::label(rules));
    let own = has("object", "annotations", key);
    let [template, deeper] = [
        &["object.spec.template"][..],
        &["object.spec.jobTemplate", "object.spec.jobTemplate.spec.template"],
    ]
    .map(|path| template_has(path, key));
    let lives = ("lives", "!has(object.metadata.deletionTimestamp)".to_string());
    let (made, changed) = (["CREATE"], ["CREATE", "UPDATE"]);
    let pods = json!([asked("", &made, &["pods"], "Namespaced")]);
    let sets = ["deployments", "statefulsets", "daemonsets", "replicasets"];
    let workloads = json!([
        asked("apps", &changed, &sets, "Namespaced"),
        asked("batch", &changed, &["jobs", "cronjobs"], "Namespaced"),
        asked("", &changed, &["replicationcontrollers"], "Namespaced"),
    ]);
    let namespaces = json!([asked("", &changed, &["namespaces"], "Cluster")]);
    let is_marked = has("object", "labels", &label);
    let spared: Vec<&str> = SPARED.into_iter().chain([namespace]).collect();
    let spare = json!({ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": spared });
    let (everywhere, marked) = (
        json!([spare]),
        json!([spare, { "key": label, "operator": "Exists" }]),
    );
    let webhook = |name, asked, of_namespaces: &Value, conditions: &[(&str, String)]| {
        let mut webhook = webhook(name, asked, of_namespaces, conditions);
        webhook["clientConfig"]["service"] =
            json!({ "name": service, "namespace": namespace, "path": PATH, "port": 443 });
        webhook
    };
    vec![
        webhook("pods", &pods, &everywhere, &[("annotated", own.clone())]),
        webhook(
            "pods-of-namespaces",
            &pods,
            &marked,
            &[("not-annotated", format!("!{own}"))],
        ),
        webhook(
            "workloads",
            &workloads,
            &everywhere,
            &[
                lives.clone(),
                ("annotated", format!("{own} || {template} || {deeper}")),
                ("not-made-by-another", NOT_MADE.to_string()),
            ],
        ),
        webhook(
            "namespaces",
            &namespaces,
            &everywhere,
            &[lives, ("annotated", format!("{own} || {is_marked}"))],
        ),
    ]
}

/// CEL: no other workload has made this one.
const NOT_MADE: &str = "!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(owner, \
                        has(owner.controller) && owner.controller && owner.kind in ['Deployment', 'CronJob'])";

/// CEL: whether what is at `place` has this annotation or label.
fn has(place: &str, map: &str, key: &str) -> String {
    format!("(has({place}.metadata) && has({place}.metadata.{map}) && '{key}' in {place}.metadata.{map})")
}

/// CEL: whether there is a template at the end of `path`, and has this annotation.
fn template_has(path: &[&str], key: &str) -> String {
    let guards: String = path.iter().map(|step| format!("has({step}) && ")).collect();
    let place = path.last().copied().unwrap_or("object");
    format!("({guards}{})", has(place, "annotations", key))
}

fn asked(group: &str, operations: &[&str], resources: &[&str], scope: &str) -> Value {
    json!({
        "apiGroups": [group], "apiVersions": ["v1"],
        "operations": operations, "resources": resources, "scope": scope,
    })
}

fn webhook(name: &str, asked: &Value, of_namespaces: &Value, conditions: &[(&str, String)]) -> Value {
    let conditions = conditions.iter();
    let conditions: Vec<_> = conditions
        .map(|(name, expression)| json!({ "name": name, "expression": expression }))
        .collect();
    json!({
        "name": format!("{name}.networkservicemesh.io"),
        "admissionReviewVersions": ["v1"],
        "clientConfig": {},
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "reinvocationPolicy": "Never",
        "sideEffects": "None",
        "timeoutSeconds": TO_REVIEW,
        "rules": asked,
        "namespaceSelector": { "matchExpressions": of_namespaces },
        "objectSelector": {},
        "matchConditions": conditions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{model, rules};

    fn written(authorities: Option<&[u8]>) -> Value {
        let (client, _) = model();
        Registration::new(client, "webhook", "svc", "nsm-system", &rules()).document(authorities)
    }

    #[tokio::test]
    async fn nobody_is_asked_about_who_does_not_name_the_annotation() {
        let document = written(None);
        let webhooks = document["webhooks"].as_array().expect("a list");
        assert_eq!(webhooks.len(), 4);
        for webhook in webhooks {
            let conditions = webhook["matchConditions"].to_string();
            assert!(
                conditions.contains("'networkservicemesh.io' in object"),
                "{webhook}"
            );
            let selectors = webhook["namespaceSelector"].to_string();
            assert!(
                selectors.contains(r#"["kube-system","spire","nsm-system"]"#),
                "{webhook}"
            );
            assert_eq!(webhook["failurePolicy"], "Fail");
        }
    }

    #[tokio::test]
    async fn authorities_are_written_for_each_or_left_to_others() {
        let with = written(Some(b"PEM"));
        let without = written(None);
        let bundles = |document: &Value| {
            let webhooks = document["webhooks"].as_array().expect("a list");
            webhooks
                .iter()
                .map(|webhook| webhook["clientConfig"].get("caBundle").cloned())
                .collect::<Vec<_>>()
        };
        assert_eq!(bundles(&with), vec![Some(json!("UEVN")); 4]);
        assert_eq!(bundles(&without), vec![None; 4]);
    }

    #[tokio::test]
    async fn it_is_what_kubernetes_knows() {
        let document = written(Some(b"PEM"));
        let typed: MutatingWebhookConfiguration =
            serde_json::from_value(document.clone()).expect("a configuration");
        assert_eq!(serde_json::to_value(typed).expect("JSON"), document);
    }

    #[tokio::test]
    async fn the_manifest_asks_about_the_same_before_we_are_there() {
        let text = include_str!("../../deployments/admission-webhook-k8s/mutating-webhook-config.yaml");
        let manifest: Value = serde_saphyr::from_str(text).expect("YAML");
        let (client, _) = model();
        let ours = Registration::new(
            client,
            "admission-webhook-k8s",
            "admission-webhook-svc",
            "nsm-system",
            &rules(),
        );
        assert_eq!(manifest["webhooks"], ours.document(None)["webhooks"]);
        assert_eq!(manifest["metadata"]["name"], ours.name);
    }
}
