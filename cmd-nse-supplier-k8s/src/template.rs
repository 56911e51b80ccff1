// SPDX-License-Identifier: Apache-2.0
//! Templates over the connection of the client that asks, as the predecessor's are.
//!
//! What a client says about itself comes from anybody. So where a template becomes a document, values are put in after
//! it was read: they are texts in it, and never a part of its structure.

use k8s_openapi::api::core::v1::Pod;
use nsm_api::matching::Labels;
use nsm_api::template::{Data, render_calling};
use nsm_sdk::core::{Error, Request, Result};
use nsm_sdk::networkservice::supply::Place;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// What the renderer prints for a label that is not there.
const NO_VALUE: &str = "<no value>";

/// Between these stands the number of a value, where a document is read before its values are put in. They are for
/// private use, and no text of a template.
const MARKS: [char; 2] = ['\u{f8f0}', '\u{f8f1}'];

/// Renders a text. `what` says where it is from. Errors: `bad-template`.
pub(crate) fn text(what: &str, template: &str, place: &Place, request: &Request) -> Result<String> {
    let connection = &request.connection;
    let fields = [
        ("Id", Data::Text(&connection.id)),
        ("NetworkService", Data::Text(&connection.network_service)),
        ("Payload", Data::Text(&connection.payload)),
        ("Labels", Data::Labels(&connection.labels)),
    ];
    rendered(what, template, &fields, place)
}

fn rendered(what: &str, template: &str, fields: &[(&str, Data<'_>)], place: &Place) -> Result<String> {
    let mut count = 0;
    let call = |name: &str| {
        count += 1;
        (name == "uuid").then(|| name_of(place, count))
    };
    let text = render_calling(template, Data::Fields(fields), call)
        .map_err(|error| bad(what, &error.to_string()))?
        .into_owned();
    if text.contains(NO_VALUE) {
        let problem =
            "uses a label that the client does not have; {{ index .Labels \"NAME\" }} is empty then";
        return Err(bad(what, problem));
    }
    Ok(text)
}

/// An id that is the same whenever something is started for this place: who starts it twice is told by the name.
fn name_of(place: &Place, count: u32) -> String {
    let name = format!("{}\n{}\n{count}", place.service, place.node);
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

/// Renders a pod. Errors: `bad-template`.
pub(crate) fn pod(what: &str, template: &str, place: &Place, request: &Request) -> Result<Pod> {
    let connection = &request.connection;
    let mut values = Vec::new();
    let mut mark = |value: &str| {
        values.push(value.to_string());
        format!("{}{}{}", MARKS[0], values.len() - 1, MARKS[1])
    };
    let [id, service, payload] =
        [&connection.id, &connection.network_service, &connection.payload].map(|value| mark(value));
    let labels: Labels = connection
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), mark(value)))
        .collect();
    let fields = [
        ("Id", Data::Text(&id)),
        ("NetworkService", Data::Text(&service)),
        ("Payload", Data::Text(&payload)),
        ("Labels", Data::Labels(&labels)),
    ];
    let text = rendered(what, template, &fields, place)?;
    let document: Value = serde_saphyr::from_str(&text).map_err(|error| {
        let error = error.to_string();
        bad(
            what,
            &format!("is no YAML: {}", error.lines().next().unwrap_or_default()),
        )
    })?;
    read(what, fill(document, &values))
}

/// Puts values in the place of their marks, in texts and in keys.
fn fill(document: Value, values: &[String]) -> Value {
    match document {
        Value::String(text) => Value::String(fill_text(&text, values)),
        Value::Array(list) => list.into_iter().map(|one| fill(one, values)).collect(),
        Value::Object(object) => {
            let filled = object
                .into_iter()
                .map(|(key, value)| (fill_text(&key, values), fill(value, values)));
            Value::Object(filled.collect())
        }
        other => other,
    }
}

fn fill_text(text: &str, values: &[String]) -> String {
    let mut parts = text.split(MARKS[0]);
    let mut filled = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (number, rest) = part.split_once(MARKS[1]).unwrap_or(("", part));
        let value = number.parse().ok().and_then(|number: usize| values.get(number));
        filled.push_str(value.map_or("", String::as_str));
        filled.push_str(rest);
    }
    filled
}

/// The pod that a document is, whatever version it claims: examples of the predecessor claim wrong ones.
fn read(what: &str, document: Value) -> Result<Pod> {
    let Value::Object(mut object) = document else {
        return Err(bad(what, "is no pod: it has no fields"));
    };
    let kind = object.remove("kind");
    if kind.as_ref().is_some_and(|kind| kind != "Pod") {
        return Err(bad(
            what,
            &format!("is no pod: its kind is {}", kind.unwrap_or_default()),
        ));
    }
    object.remove("apiVersion");
    let document = Value::Object(object);
    let pod: Pod = Pod::deserialize(&document).map_err(|error| bad(what, &format!("is no pod: {error}")))?;
    let known = serde_json::to_value(&pod).map_err(|error| bad(what, &error.to_string()))?;
    if let Some(place) = lost(&document, &known) {
        let place = place.trim_start_matches('.');
        let text = format!("has the key {place}, which pods do not have: look for a slip of the fingers");
        return Err(bad(what, &text));
    }
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    if containers == 0 {
        return Err(bad(what, "is no pod: spec.containers is empty"));
    }
    Ok(pod)
}

/// Where `document` says something that `known`, what was understood of it, does not.
fn lost(document: &Value, known: &Value) -> Option<String> {
    match (document, known) {
        (Value::Object(document), Value::Object(known)) => document.iter().find_map(|(key, value)| {
            let says_nothing = value.is_null()
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            let below = match known.get(key) {
                Some(known) => lost(value, known)?,
                None if says_nothing => return None,
                None => String::new(),
            };
            Some(format!(".{key}{below}"))
        }),
        (Value::Array(document), Value::Array(known)) => {
            let mut pairs = document.iter().zip(known).enumerate();
            pairs.find_map(|(at, (one, known))| Some(format!("[{at}]{}", lost(one, known)?)))
        }
        _ => None,
    }
}

fn bad(what: &str, problem: &str) -> Error {
    Error::unavailable("bad-template", format!("{what} {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(labels: &[(&str, &str)]) -> (Place, Request) {
        let mut request = Request::default();
        request.connection.id = "id-1".into();
        request.connection.network_service = "s".into();
        let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        request.connection.labels = labels.iter().map(owned).collect();
        (Place::of(&request).expect("a place"), request)
    }

    fn made(template: &str, labels: &[(&str, &str)]) -> Result<Pod> {
        let (place, request) = asked(labels);
        pod("pod.yaml", template, &place, &request)
    }

    const THEIRS: &str = "---
apiVersion: apps/v1
kind: Pod
metadata:
  name: nse-{{ index .Labels \"nodeName\" }}
spec:
  nodeName: {{index .Labels \"nodeName\"}}
  restartPolicy: Never
  containers:
    - name: nse
      image: cmd-nse
      env:
        - name: NSM_SERVICE_NAMES
          value: {{ .NetworkService }}
";

    #[test]
    fn templates_of_the_predecessor_work() {
        let pod = made(THEIRS, &[("nodeName", "n1")]).expect("a pod");
        assert_eq!(pod.metadata.name.as_deref(), Some("nse-n1"));
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.node_name.as_deref(), Some("n1"));
        let env = spec.containers[0].env.as_ref().expect("variables");
        assert_eq!(env[0].value.as_deref(), Some("s"));
    }

    #[test]
    fn values_of_clients_are_texts_and_no_structure() {
        let evil = "x\"\n  hostNetwork: true\n#";
        let template =
            "metadata: {name: a}\nspec:\n  containers:\n  - name: b\n    image: {{ index .Labels \"i\" }}\n";
        let pod = made(template, &[("i", evil)]).expect("a pod");
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.host_network, None);
        assert_eq!(spec.containers[0].image.as_deref(), Some(evil));
        let marks: String = MARKS.iter().collect();
        let pod = made(template, &[("i", &marks)]).expect("a pod");
        assert_eq!(
            pod.spec.expect("a spec").containers[0].image.as_ref(),
            Some(&marks)
        );
    }

    #[test]
    fn an_id_is_the_same_for_a_place_and_another_one_each_time_it_is_used() {
        let names = |node: &str| {
            let (place, request) = asked(&[("nodeName", node)]);
            text("a test", "{{ uuid }} {{ uuid }}", &place, &request).expect("a text")
        };
        assert_eq!(names("n1"), names("n1"));
        assert_ne!(names("n1"), names("n2"));
        let both = names("n1");
        let (one, other) = both.split_once(' ').expect("two");
        assert_ne!(one, other);
    }

    #[test]
    fn what_makes_no_pod_is_told() {
        let cases = [
            (
                "metadata: {name: {{ range .Labels }}}",
                "gives arguments to what takes none",
            ),
            ("kind: Deployment\nspec: {}", "its kind is \"Deployment\""),
            ("a: [", "is no YAML"),
            ("just text", "it has no fields"),
            ("metadata: {name: a}", "spec.containers is empty"),
            ("spec: {containers: [{image: 7}]}", "is no pod"),
            (
                "spec: {nodeSelecter: {a: b}, containers: [{name: a}]}",
                "has the key spec.nodeSelecter, which pods do not have",
            ),
            (
                "spec: {containers: [{name: a}, {name: b, env: [{name: c, valeu: d}]}]}",
                "has the key spec.containers[1].env[0].valeu, which",
            ),
            (
                "spec: {nodeName: \"{{ .Labels.nodeName }}\", containers: [{name: a}]}",
                "does not have",
            ),
        ];
        for (template, told) in cases {
            let error = made(template, &[]).expect_err(template);
            assert!(error.text().contains(told), "{template}: {error}");
            assert!(error.text().starts_with("pod.yaml "), "{error}");
        }
    }
}
