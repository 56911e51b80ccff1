// SPDX-License-Identifier: Apache-2.0
//! Network services and endpoints from files: the custom resources as people write them, or as `kubectl get -o yaml`
//! and `-o json` print them.
//!
//! Objects of other kinds are skipped. A field that does not exist is an error here: the API server keeps some silently,
//! and a selector that is spelled wrong selects everything.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use nsm_api::registry as api;
use nsm_sdk::yaml;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What a registry would know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The services.
    pub services: Vec<api::NetworkService>,
    /// The endpoints, forwarders among them.
    pub endpoints: Vec<api::NetworkServiceEndpoint>,
}

/// How deep lists of lists may be.
const MAX_LISTS: usize = 4;

impl Known {
    /// What the files say together, in their order.
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Self> {
        let mut known = Self::default();
        for file in files {
            let file = file.as_ref();
            let name = file.display();
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
            known.add(&text).with_context(|| format!("in {name}"))?;
        }
        Ok(known)
    }

    /// Adds what a text of one or more documents says, YAML or JSON.
    pub fn add(&mut self, text: &str) -> Result<()> {
        if text.trim_start().starts_with('{') {
            return self.object(serde_json::from_str(text)?, 0);
        }
        for (number, document) in documents(text).enumerate() {
            let what = || format!("document {}", number + 1);
            let object: Option<Value> = yaml::read(&document).map_err(Error::msg).with_context(what)?;
            if let Some(object) = object {
                let added = self.object(object, 0);
                added
                    .map_err(|error| placed(&document, error))
                    .with_context(what)?;
            }
        }
        Ok(())
    }

    fn object(&mut self, object: Value, depth: usize) -> Result<()> {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_string);
        let kind = text(&object, "kind").unwrap_or_default();
        let metadata = object.get("metadata");
        let name = metadata
            .and_then(|metadata| text(metadata, "name"))
            .unwrap_or_default();
        let (mut object, what) = (object, || format!("{kind} {name:?}"));
        if kind.ends_with("List") {
            if depth == MAX_LISTS {
                bail!("lists are nested too deep");
            }
            let Some(Value::Array(items)) = object.get_mut("items").map(Value::take) else {
                return Ok(());
            };
            return items
                .into_iter()
                .try_for_each(|item| self.object(item, depth + 1));
        }
        let is_ours = text(&object, "apiVersion").is_some_and(|version| version.starts_with(GROUP));
        if !is_ours || !matches!(kind.as_str(), "NetworkService" | "NetworkServiceEndpoint") {
            return Ok(());
        }
        let spec = object.get_mut("spec").map(Value::take).unwrap_or_default();
        if kind == "NetworkService" {
            let spec: Option<Service> = serde_json::from_value(spec).with_context(what)?;
            self.services.push(spec.unwrap_or_default().named(name));
        } else {
            let spec: Option<Endpoint> = serde_json::from_value(spec).with_context(what)?;
            self.endpoints.push(spec.unwrap_or_default().named(name));
        }
        Ok(())
    }
}

/// An error of an object, with its line where the document is the object itself.
fn placed(document: &str, error: Error) -> Error {
    #[derive(Deserialize)]
    struct Object<T> {
        #[serde(rename = "spec")]
        _spec: Option<T>,
    }
    let what = error.to_string();
    let told = match what.starts_with("NetworkServiceEndpoint ") {
        true => yaml::read::<Object<Endpoint>>(document).err(),
        false => yaml::read::<Object<Service>>(document).err(),
    };
    told.map_or(error, |told| Error::msg(told).context(what))
}

/// The group of the custom resources.
const GROUP: &str = "networkservicemesh.io/";

/// The documents of a YAML file, each at its lines.
fn documents(text: &str) -> impl Iterator<Item = String> {
    let (mut documents, mut document) = (Vec::new(), String::new());
    for (number, line) in text.lines().enumerate() {
        match line.strip_prefix("---").map(str::trim_start) {
            Some(rest) if rest.is_empty() || rest.starts_with('#') => {
                documents.push(std::mem::replace(&mut document, "\n".repeat(number + 1)));
            }
            _ => {
                document.push_str(line);
                document.push('\n');
            }
        }
    }
    documents.push(document);
    documents
        .into_iter()
        .filter(|document| !document.trim().is_empty())
}

type Labels = BTreeMap<String, String>;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Service {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    payload: String,
    #[serde(deserialize_with = "nullable")]
    matches: Vec<Match>,
    #[serde(deserialize_with = "nullable")]
    path_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Match {
    #[serde(deserialize_with = "nullable")]
    source_selector: Labels,
    #[serde(deserialize_with = "nullable")]
    routes: Vec<Route>,
    #[serde(deserialize_with = "nullable")]
    fallthrough: bool,
    metadata: Option<OnlyLabels>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Route {
    #[serde(deserialize_with = "nullable")]
    destination_selector: Labels,
    #[serde(deserialize_with = "nullable")]
    weight: u32,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OnlyLabels {
    #[serde(deserialize_with = "nullable")]
    labels: Labels,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Endpoint {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    network_service_names: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    network_service_labels: BTreeMap<String, OnlyLabels>,
    #[serde(deserialize_with = "nullable")]
    url: String,
    expiration_time: Option<Time>,
    initial_registration_time: Option<Time>,
    #[serde(deserialize_with = "nullable")]
    path_ids: Vec<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Time {
    #[serde(deserialize_with = "nullable")]
    seconds: i64,
    #[serde(deserialize_with = "nullable")]
    nanos: i32,
}

/// Reads `null`, which YAML has for a key with nothing behind it, as what the field is without it.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The name in the specification, or that of the object.
fn name_of(spec: String, object: String) -> String {
    match spec.is_empty() {
        true => object,
        false => spec,
    }
}

impl Service {
    fn named(self, object: String) -> api::NetworkService {
        let route = |route: Route| api::Destination {
            destination_selector: route.destination_selector,
            weight: route.weight,
        };
        let one = |one: Match| api::Match {
            source_selector: one.source_selector,
            routes: one.routes.into_iter().map(route).collect(),
            fallthrough: one.fallthrough,
            metadata: one.metadata.map(|OnlyLabels { labels }| api::Metadata { labels }),
        };
        api::NetworkService {
            name: name_of(self.name, object),
            payload: self.payload,
            matches: self.matches.into_iter().map(one).collect(),
            path_ids: self.path_ids,
        }
    }
}

impl Endpoint {
    fn named(self, object: String) -> api::NetworkServiceEndpoint {
        let time = |Time { seconds, nanos }| prost_types::Timestamp { seconds, nanos };
        let labels = self.network_service_labels.into_iter();
        api::NetworkServiceEndpoint {
            name: name_of(self.name, object),
            network_service_names: self.network_service_names,
            network_service_labels: labels
                .map(|(service, OnlyLabels { labels })| (service, api::NetworkServiceLabels { labels }))
                .collect(),
            url: self.url,
            expiration_time: self.expiration_time.map(time),
            initial_registration_time: self.initial_registration_time.map(time),
            path_ids: self.path_ids,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "---
apiVersion: networkservicemesh.io/v1
kind: NetworkService
metadata:
  name: vpn
spec:
  payload: IP
  matches:
    - source_selector:
      fallthrough: true
      routes:
        - destination_selector:
            nodeName: \"{{.nodeName}}\"
---
# Not ours.
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
data: {whatever: \"1\"}
--- # The endpoint.
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: object}
spec:
  name: gateway
  network_service_names: [vpn]
  network_service_labels: {vpn: {labels: {app: gateway}}}
  url: tcp://10.0.0.1:5001
  expiration_time: {seconds: 12, nanos: 5}
";

    #[test]
    fn reads_what_is_ours_and_skips_the_rest() {
        let mut known = Known::default();
        known.add(FILE).expect("it is well formed");
        let [service] = &known.services[..] else {
            panic!("{known:?}")
        };
        assert_eq!((&*service.name, &*service.payload), ("vpn", "IP"));
        assert!(service.matches[0].fallthrough);
        let [endpoint] = &known.endpoints[..] else {
            panic!("{known:?}")
        };
        assert_eq!(endpoint.name, "gateway");
        assert_eq!(endpoint.network_service_labels["vpn"].labels["app"], "gateway");
        assert_eq!(endpoint.expiration_time.map(|time| time.seconds), Some(12));
    }

    #[test]
    fn reads_lists_as_kubectl_prints_them() {
        let item = r#"{"apiVersion":"networkservicemesh.io/v1","kind":"NetworkService",
            "metadata":{"name":"a","uid":"1"},"spec":null,"status":{"conditions":[]}}"#;
        let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{item}]}}"#);
        let mut known = Known::default();
        known.add(&list).expect("it is well formed");
        assert_eq!(known.services[0].name, "a");
    }

    #[test]
    fn a_field_that_is_spelled_wrong_is_told_with_its_object() {
        let wrong = FILE.replace("source_selector", "sourceSelector");
        let error = format!("{:#}", Known::default().add(&wrong).expect_err("it is wrong"));
        assert!(
            error.contains("document 1: NetworkService \"vpn\": line "),
            "{error}"
        );
        let line = 1 + wrong
            .lines()
            .position(|line| line.contains("sourceSelector"))
            .expect("it is there");
        assert!(error.contains(&format!(": line {line}, column ")), "{error}");
        let told = "the key \"sourceSelector\" is not known: did you mean \"source_selector\"?";
        assert!(error.ends_with(told), "{error}");
    }

    #[test]
    fn lines_are_counted_over_all_documents() {
        let service = "apiVersion: networkservicemesh.io/v1\nkind: NetworkService\nmetadata: {name: s}\n";
        let text = format!("{service}---\n{service}spec:\n  payloat: IP\n");
        let error = format!("{:#}", Known::default().add(&text).expect_err("it is wrong"));
        let told = "document 2: NetworkService \"s\": line 9, column 3: the key \"payloat\" is not known: \
            did you mean \"payload\"?";
        assert_eq!(error, told);
    }
}
