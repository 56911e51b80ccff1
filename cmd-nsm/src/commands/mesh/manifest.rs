// SPDX-License-Identifier: Apache-2.0
//! A network service as a manifest of Kubernetes says it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nsm_api::registry::{Destination, Match, Metadata, NetworkService};
use nsm_sdk::yaml;
use serde::{Deserialize, Serialize};

/// The kind of manifest.
const KIND: &str = "NetworkService";

/// Labels and their values.
type Labels = BTreeMap<String, String>;

/// What there is to know of a network service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Spec {
    name: String,
    payload: String,
    matches: Vec<Matched>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Matched {
    source_selector: Labels,
    routes: Vec<Route>,
    fallthrough: bool,
    metadata: Option<Wanted>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Route {
    destination_selector: Labels,
    weight: u32,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    labels: Labels,
}

#[derive(Deserialize)]
struct Manifest {
    kind: String,
    metadata: Named,
    spec: Spec,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Reads the manifest of one service.
pub(super) fn read(file: &Path) -> Result<Spec> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text).with_context(|| format!("{} is no manifest of a network service", file.display()))
}

fn parse(text: &str) -> Result<Spec> {
    let manifest: Manifest = yaml::read(text).map_err(anyhow::Error::msg)?;
    let Manifest {
        kind,
        metadata,
        mut spec,
    } = manifest;
    ensure!(kind == KIND, "its kind is {kind:?}, not {KIND}");
    if spec.name.is_empty() {
        spec.name = metadata.name;
    }
    Ok(spec)
}

impl Spec {
    /// As registries have it.
    pub(super) fn service(self) -> NetworkService {
        let route = |route: Route| Destination {
            destination_selector: route.destination_selector.into_iter().collect(),
            weight: route.weight,
        };
        let matches = self.matches.into_iter().map(|one| Match {
            source_selector: one.source_selector.into_iter().collect(),
            routes: one.routes.into_iter().map(route).collect(),
            fallthrough: one.fallthrough,
            metadata: one.metadata.map(|wanted| Metadata {
                labels: wanted.labels.into_iter().collect(),
            }),
        });
        NetworkService {
            name: self.name,
            payload: self.payload,
            matches: matches.collect(),
            ..NetworkService::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: networkservicemesh.io/v1\nkind: NetworkService\nmetadata:\n  name: colours\n\
        spec:\n  payload: IP\n  matches:\n    - source_selector: {app: a}\n      routes:\n        - \
        destination_selector: {colour: blue}\n          weight: 2\n";

    #[test]
    fn a_manifest_of_kubernetes_is_a_service() {
        let service = parse(MANIFEST).expect("it is one").service();
        assert_eq!(
            (service.name.as_str(), service.payload.as_str()),
            ("colours", "IP")
        );
        let route = &service.matches[0].routes[0];
        assert_eq!(route.destination_selector["colour"], "blue");
        assert_eq!(
            (route.weight, service.matches[0].source_selector["app"].as_str()),
            (2, "a")
        );
    }

    #[test]
    fn another_kind_and_an_unknown_field_are_refused() {
        let pod = MANIFEST.replace("kind: NetworkService", "kind: Pod");
        assert!(format!("{:#}", parse(&pod).expect_err("a pod")).contains("its kind is \"Pod\""));
        let typed = MANIFEST.replace("source_selector", "sourceSelector");
        assert!(format!("{:#}", parse(&typed).expect_err("a typing error")).contains("sourceSelector"));
    }
}
