// SPDX-License-Identifier: Apache-2.0
//! What makes pods: the annotation of the whole is that of its pods.
//!
//! **Guarantees**: nothing else of a workload is touched, so tools that compare it with a repository find one
//! annotation more and nothing changed. What people wrote into the template wins. An annotation that changes or goes
//! does so in the template as well, when it was ours.

use serde_json::{Value, json};

use crate::patch::{Patch, at, text};
use crate::rules::Rules;

/// The name of our mark: what of the template is a copy of ours.
const MARK: &str = "inherited";

/// Where the template of a kind is.
pub(crate) fn template(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            Some(&["spec", "template"])
        }
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// Whether another workload has made this one, and decides what its template is.
pub(crate) fn is_made(object: &Value) -> bool {
    let owners = at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    let makes = |owner: &Value| {
        owner.get("controller") == Some(&Value::Bool(true))
            && matches!(text(owner, &["kind"]), Some("Deployment" | "CronJob"))
    };
    owners.is_some_and(|owners| owners.iter().any(makes))
}

/// The annotation of the pods that a workload makes.
pub(crate) fn annotation<'a>(rules: &Rules, template: &[&str], object: &'a Value) -> Option<&'a str> {
    text(object, &annotations(template, &rules.annotation))
}

/// Gives the template the annotation of the whole, and tells what is odd about it. `is_fixed` is whether the template
/// cannot change any more.
pub(crate) fn inherit(
    rules: &Rules,
    template: &[&str],
    object: &Value,
    is_fixed: bool,
) -> (Patch, Option<String>) {
    let mut patch = Patch::of(object.clone());
    let own = text(object, &["metadata", "annotations", &rules.annotation]);
    let mark = rules.mark(MARK);
    let (place, marked) = (
        annotations(template, &rules.annotation),
        annotations(template, &mark),
    );
    let theirs = text(object, &place);
    let is_ours = theirs.is_some() && theirs == text(object, &marked);
    let warning = match (own, theirs) {
        (Some(own), Some(theirs)) if own == theirs => None,
        (Some(_), Some(theirs)) if !is_ours => Some(format!(
            "the annotation {} of the pod template wins: {theirs:?}",
            rules.annotation
        )),
        (Some(_), _) | (None, Some(_)) if is_fixed && (own.is_some() || is_ours) => Some(format!(
            "the pods of a Job cannot change: make it anew for another annotation {}",
            rules.annotation
        )),
        (Some(own), _) => {
            patch.put(&place, json!(own));
            patch.put(&marked, json!(own));
            None
        }
        (None, _) => {
            if is_ours {
                patch.remove(&place);
                patch.remove(&marked);
            }
            None
        }
    };
    (patch, warning)
}

fn annotations<'a>(template: &[&'a str], key: &'a str) -> Vec<&'a str> {
    [template, &["metadata", "annotations", key]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::rules;

    const KEY: &str = "networkservicemesh.io";
    const MARKED: &str = "networkservicemesh.io/inherited";

    fn object(own: Value, theirs: Value) -> Value {
        json!({
            "metadata": { "annotations": own },
            "spec": { "template": { "metadata": { "annotations": theirs, "labels": { "app": "a" } } } },
        })
    }

    /// What becomes of it: the annotations of the template, the number of changes, and a warning.
    fn inherited(object: &Value, is_fixed: bool) -> (Value, usize, Option<String>) {
        let place = template("Deployment").expect("known");
        let (patch, warning) = inherit(&rules(), place, object, is_fixed);
        let annotations = patch.document()["spec"]["template"]["metadata"]["annotations"].clone();
        (annotations, patch.into_operations().len(), warning)
    }

    #[test]
    fn a_template_with_other_annotations_gets_it_too() {
        let object = object(
            json!({ KEY: "kernel://a" }),
            json!({ "prometheus.io/scrape": "true" }),
        );
        let (annotations, _, warning) = inherited(&object, false);
        assert_eq!(
            annotations,
            json!({ "prometheus.io/scrape": "true", KEY: "kernel://a", MARKED: "kernel://a" })
        );
        assert_eq!(warning, None);
    }

    #[test]
    fn what_has_been_inherited_is_not_inherited_again() {
        let before = object(json!({ KEY: "kernel://a" }), Value::Null);
        let place = template("Deployment").expect("known");
        let (patch, _) = inherit(&rules(), place, &before, false);
        let (_, changes, warning) = inherited(patch.document(), false);
        assert_eq!((changes, warning), (0, None));
    }

    #[test]
    fn a_changed_annotation_changes_the_template() {
        let copied = json!({ KEY: "kernel://a", MARKED: "kernel://a" });
        let (annotations, ..) = inherited(&object(json!({ KEY: "kernel://b" }), copied), false);
        assert_eq!(annotations, json!({ KEY: "kernel://b", MARKED: "kernel://b" }));
    }

    #[test]
    fn an_annotation_that_goes_takes_its_copy_along_and_nothing_else() {
        let copied = json!({ KEY: "kernel://a", MARKED: "kernel://a", "other": "x" });
        let (annotations, ..) = inherited(&object(json!({}), copied), false);
        assert_eq!(annotations, json!({ "other": "x" }));
        let written = json!({ KEY: "kernel://a" });
        let (annotations, changes, _) = inherited(&object(json!({}), written.clone()), false);
        assert_eq!((annotations, changes), (written, 0));
    }

    #[test]
    fn the_template_wins_and_it_is_told() {
        let (_, changes, warning) = inherited(
            &object(json!({ KEY: "kernel://a" }), json!({ KEY: "kernel://b" })),
            false,
        );
        assert_eq!(changes, 0);
        assert!(warning.is_some_and(|text| text.contains("\"kernel://b\"")));
    }

    #[test]
    fn a_job_that_is_there_is_not_changed_but_told() {
        let (_, changes, warning) = inherited(&object(json!({ KEY: "kernel://a" }), Value::Null), true);
        assert_eq!(changes, 0);
        assert!(warning.is_some_and(|text| text.contains("make it anew")));
        let (_, _, warning) = inherited(&object(json!({}), json!({ KEY: "kernel://a" })), true);
        assert_eq!(warning, None);
    }

    #[test]
    fn a_cron_job_has_its_template_deeper() {
        let place = template("CronJob").expect("known");
        let object = json!({ "metadata": { "annotations": { KEY: "kernel://a" } },
                             "spec": { "jobTemplate": { "spec": { "template": {} } } } });
        let (patch, _) = inherit(&rules(), place, &object, false);
        assert_eq!(annotation(&rules(), place, patch.document()), Some("kernel://a"));
        assert_eq!(template("ConfigMap"), None);
    }

    #[test]
    fn what_a_workload_has_made_is_known() {
        let made =
            |kind: &str| json!({ "metadata": { "ownerReferences": [{ "controller": true, "kind": kind }] } });
        assert!(is_made(&made("Deployment")) && is_made(&made("CronJob")));
        assert!(!is_made(&made("Operator")) && !is_made(&json!({ "metadata": {} })));
    }
}
