// SPDX-License-Identifier: Apache-2.0
//! Answers reviews of the API server (`admission.k8s.io/v1`).
//!
//! **Guarantees**: whatever asks for nothing is let through as it is. What cannot be connected is refused with the
//! reason when it is made or its annotation changes; what was let in before is only told about, so that it can still
//! be changed otherwise, and deleted. An answer depends on nothing but the object, its namespace and its services.
//! **Cost**: one question to the API server for a pod; one more for each service with labels that people ask for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use thiserror::Error;
use tracing::{debug, info};

use crate::cluster::Cluster;
use crate::patch::{Patch, at, text};
use crate::pod::{self, Level};
use crate::rules::Rules;
use crate::services::Services;
use crate::{namespace, workload};

/// Who answers.
pub(crate) struct Reviewer {
    pub(crate) rules: Rules,
    pub(crate) cluster: Cluster,
}

/// A text that is no review.
#[derive(Debug, Error)]
#[error("this is no AdmissionReview of admission.k8s.io/v1: {0}")]
pub(crate) struct NoReview(String);

/// What becomes of an object that is let in.
#[derive(Default)]
struct Verdict {
    operations: Vec<Value>,
    warnings: Vec<String>,
}

/// Why an object is not let in.
struct Refusal {
    code: u16,
    text: String,
}

impl Verdict {
    fn new(patch: Patch, warnings: Vec<String>) -> Self {
        Self {
            operations: patch.into_operations(),
            warnings,
        }
    }
}

impl Refusal {
    /// What is asked for can never be.
    fn invalid(text: String) -> Self {
        Self { code: 400, text }
    }
}

impl Reviewer {
    /// The answer to a review.
    pub(crate) async fn review(&self, body: &[u8]) -> Result<Value, NoReview> {
        let review: Value = serde_json::from_slice(body).map_err(|error| NoReview(error.to_string()))?;
        let version = text(&review, &["apiVersion"]).unwrap_or_default();
        if version != "admission.k8s.io/v1" {
            return Err(NoReview(format!("its apiVersion is {version:?}")));
        }
        let request = at(&review, &["request"]).ok_or_else(|| NoReview("it has no request".into()))?;
        let uid = text(request, &["uid"]).ok_or_else(|| NoReview("its request has no uid".into()))?;
        let verdict = self.judge(request).await;
        tell(request, &verdict);
        Ok(json!({
            "apiVersion": version,
            "kind": "AdmissionReview",
            "response": response(uid, verdict),
        }))
    }

    async fn judge(&self, request: &Value) -> Result<Verdict, Refusal> {
        let operation = text(request, &["operation"]).unwrap_or_default();
        let kind = text(request, &["kind", "kind"]).unwrap_or_default();
        let is_update = operation == "UPDATE";
        let is_whole = at(request, &["subResource"]).is_none_or(|name| name == "");
        let Some(object) =
            at(request, &["object"]).filter(|_| is_whole && (is_update || operation == "CREATE"))
        else {
            return Ok(Verdict::default());
        };
        if at(object, &["metadata", "deletionTimestamp"]).is_some() {
            return Ok(Verdict::default());
        }
        let old = at(request, &["oldObject"]).unwrap_or(&Value::Null);
        match (kind, workload::template(kind)) {
            ("Pod", _) if !is_update => self.judge_pod(request, object).await,
            ("Namespace", _) => self.judge_namespace(object, old).await,
            (_, Some(place)) if !workload::is_made(object) => {
                self.judge_workload(place, object, old, kind == "Job" && is_update)
                    .await
            }
            _ => Ok(Verdict::default()),
        }
    }

    async fn judge_pod(&self, request: &Value, pod: &Value) -> Result<Verdict, Refusal> {
        let name = text(request, &["namespace"]).unwrap_or_default();
        let key = &self.rules.annotation;
        let own = text(pod, &["metadata", "annotations", key]);
        if let Some(own) = own
            && own.trim().is_empty()
        {
            return Ok(Verdict::default());
        }
        let [annotations, labels] = self.cluster.namespace(name).await.map_err(|error| Refusal {
            code: 503,
            text: error.text().to_string(),
        })?;
        let place = match own {
            Some(_) => format!("annotation {key}"),
            None => format!("annotation {key} of namespace {name}"),
        };
        let Some(annotation) = own.or(annotations.get(key).map(String::as_str)) else {
            return Ok(Verdict::default());
        };
        let Some(services) = read(&place, annotation)? else {
            return Ok(Verdict::default());
        };
        let level = Level::of(
            labels
                .get("pod-security.kubernetes.io/enforce")
                .map(String::as_str),
        );
        let (patch, odd) = pod::connect(&self.rules, level, &services, pod).map_err(Refusal::invalid)?;
        let mut warnings = services.warnings.clone();
        warnings.extend(odd);
        let is_made_by_people = at(pod, &["metadata", "ownerReferences"]).is_none();
        if is_made_by_people && own.is_some() {
            warnings.extend(self.cluster.odd_labels(&services.urls).await);
        }
        Ok(Verdict::new(patch, warnings))
    }

    async fn judge_workload(
        &self,
        place: &[&str],
        object: &Value,
        old: &Value,
        is_fixed: bool,
    ) -> Result<Verdict, Refusal> {
        let (patch, odd) = workload::inherit(&self.rules, place, object, is_fixed);
        let annotation = workload::annotation(&self.rules, place, patch.document());
        let was = workload::annotation(&self.rules, place, old);
        let mut warnings = self.check(annotation, was).await?;
        warnings.extend(odd);
        Ok(Verdict::new(patch, warnings))
    }

    async fn judge_namespace(&self, object: &Value, old: &Value) -> Result<Verdict, Refusal> {
        let annotation = |object| text(object, &["metadata", "annotations", &self.rules.annotation]);
        let warnings = self.check(annotation(object), annotation(old)).await?;
        Ok(Verdict::new(namespace::mark(&self.rules, object), warnings))
    }

    /// What is odd about an annotation that was another one before. One that was let in is not refused.
    async fn check(&self, annotation: Option<&str>, was: Option<&str>) -> Result<Vec<String>, Refusal> {
        let Some(annotation) = annotation else {
            return Ok(Vec::new());
        };
        let place = format!("annotation {}", self.rules.annotation);
        match read(&place, annotation) {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(_)) if was == Some(annotation) => Ok(Vec::new()),
            Ok(Some(mut services)) => {
                let odd = self.cluster.odd_labels(&services.urls).await;
                services.warnings.extend(odd);
                Ok(services.warnings)
            }
            Err(refusal) if was == Some(annotation) => {
                Ok(vec![format!("pods will be refused: {}", refusal.text)])
            }
            Err(refusal) => Err(refusal),
        }
    }
}

fn read(place: &str, annotation: &str) -> Result<Option<Services>, Refusal> {
    Services::read(annotation).map_err(|error| Refusal::invalid(format!("{place}: {error}")))
}

fn response(uid: &str, verdict: Result<Verdict, Refusal>) -> Value {
    let verdict = match verdict {
        Ok(verdict) => verdict,
        Err(refusal) => {
            let status = json!({ "code": refusal.code, "message": refusal.text });
            return json!({ "uid": uid, "allowed": false, "status": status });
        }
    };
    let mut response = json!({ "uid": uid, "allowed": true });
    if !verdict.operations.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(Value::Array(verdict.operations).to_string()));
    }
    if !verdict.warnings.is_empty() {
        response["warnings"] = json!(verdict.warnings);
    }
    response
}

fn tell(request: &Value, verdict: &Result<Verdict, Refusal>) {
    let of = |path: &[&str]| text(request, path).unwrap_or_default();
    let (kind, namespace) = (of(&["kind", "kind"]), of(&["namespace"]));
    let name = match of(&["name"]) {
        "" => text(request, &["object", "metadata", "generateName"]).unwrap_or_default(),
        name => name,
    };
    match verdict {
        Ok(verdict) if verdict.operations.is_empty() && verdict.warnings.is_empty() => {
            debug!(kind, namespace, name, "let in as it is");
        }
        Ok(verdict) => info!(
            kind,
            namespace,
            name,
            changes = verdict.operations.len(),
            warnings = verdict.warnings.join("; "),
            "let in"
        ),
        Err(refusal) => info!(kind, namespace, name, reason = refusal.text, "refused"),
    }
}

#[cfg(test)]
mod tests;
