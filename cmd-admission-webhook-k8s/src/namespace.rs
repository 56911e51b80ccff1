// SPDX-License-Identifier: Apache-2.0
//! Namespaces whose pods are connected.
//!
//! The API server chooses by labels which pods it asks us about, and an annotation is none. So a namespace with the
//! annotation gets a label, and a pod in any other namespace never waits for us.

use serde_json::{Value, json};

use crate::patch::{Patch, text};
use crate::rules::Rules;

/// The name of the label, behind the domain of the annotation.
const LABEL: &str = "inject";

/// The value of the label.
const VALUE: &str = "enabled";

/// The key of the label by which the API server finds namespaces with the annotation.
pub(crate) fn label(rules: &Rules) -> String {
    rules.mark(LABEL)
}

/// Gives a namespace the label if it has the annotation, and takes it away if it has not.
pub(crate) fn mark(rules: &Rules, namespace: &Value) -> Patch {
    let mut patch = Patch::of(namespace.clone());
    let annotation = text(namespace, &["metadata", "annotations", &rules.annotation]);
    let label = label(rules);
    let place = ["metadata", "labels", label.as_str()];
    if annotation.is_some_and(|annotation| !annotation.trim().is_empty()) {
        patch.put(&place, json!(VALUE));
    } else {
        patch.remove(&place);
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::rules;

    #[test]
    fn the_label_comes_and_goes_with_the_annotation() {
        let annotated = json!({ "metadata": { "annotations": { "networkservicemesh.io": "kernel://a" }, "labels": { "a": "b" } } });
        let patch = mark(&rules(), &annotated);
        let expected = json!({ "a": "b", "networkservicemesh.io/inject": "enabled" });
        assert_eq!(patch.document()["metadata"]["labels"], expected);

        let mut marked = patch.document().clone();
        assert!(mark(&rules(), &marked).into_operations().is_empty());
        marked["metadata"]["annotations"] = json!({});
        let patch = mark(&rules(), &marked);
        assert_eq!(patch.document()["metadata"]["labels"], json!({ "a": "b" }));
        assert!(mark(&rules(), patch.document()).into_operations().is_empty());
    }

    #[test]
    fn an_empty_annotation_is_none() {
        let empty = json!({ "metadata": { "annotations": { "networkservicemesh.io": " " } } });
        assert!(mark(&rules(), &empty).into_operations().is_empty());
    }
}
