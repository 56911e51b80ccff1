// SPDX-License-Identifier: Apache-2.0
//! A pod, and what it asks of the mesh.

use anyhow::{Context, Result};
use nsm_api::matching::Labels;
use nsm_api::service_url::ServiceUrl;
use serde_json::Value;

use super::cluster::Cluster;
use crate::seen::Seen;

/// The annotation by which a pod asks.
const ANNOTATION: &str = "networkservicemesh.io";

/// The variable by which a client is told what to ask for.
const SERVICES: &str = "NSM_NETWORK_SERVICES";

/// A pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Where it runs; empty while it runs nowhere.
    pub(crate) node: String,
    /// The container in it that asks, if there is one.
    pub(crate) client: Option<String>,
    /// What it asks for.
    pub(crate) asks: Vec<String>,
    /// The labels of its requests besides those of its URLs.
    labels: Labels,
}

impl Pod {
    /// The pod of this name, `NAME` or `pod/NAME`, if there is one.
    pub(crate) fn find(cluster: &Cluster, name: &str) -> Result<Option<Self>> {
        let name = name
            .strip_prefix("pod/")
            .or_else(|| name.strip_prefix("pods/"))
            .unwrap_or(name);
        let field = format!("--field-selector=metadata.name={name}");
        let found = cluster.get_in(None, &["pods", &field])?;
        Ok(found["items"].get(0).map(Self::of))
    }

    /// The same, which must be there.
    pub(crate) fn named(cluster: &Cluster, name: &str) -> Result<Self> {
        Self::find(cluster, name)?
            .with_context(|| format!("there is no pod {name}: name its namespace by -n, as to kubectl"))
    }

    fn of(pod: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let node = text(&pod["spec"]["nodeName"]);
        let containers = ["initContainers", "containers"].map(|kind| pod["spec"][kind].as_array());
        let mut containers = containers.into_iter().flatten().flatten();
        // The init client asks for the same as the client that stays.
        let client = containers.rfind(|container| variable(container, SERVICES).is_some());
        let asks = client
            .and_then(|client| variable(client, SERVICES))
            .or_else(|| pod["metadata"]["annotations"][ANNOTATION].as_str());
        let mut this = Self {
            namespace: text(&pod["metadata"]["namespace"]),
            name: text(&pod["metadata"]["name"]),
            client: client.map(|client| text(&client["name"])),
            asks: split(asks.unwrap_or_default()),
            ..Self::default()
        };
        let has = |name: &str| client.is_some_and(|client| variable_is_there(client, name));
        // The manager adds the node where the client does not.
        for (label, value, is_there) in [
            ("nodeName", &node, true),
            ("podName", &this.name, has("POD_NAME")),
        ] {
            if is_there && !value.is_empty() {
                this.labels.insert(label.into(), value.clone());
            }
        }
        this.node = node;
        this
    }

    /// A service that it asks for, with all the labels of the request.
    pub(crate) fn request(&self, url: &str) -> Result<(String, Labels)> {
        let url: ServiceUrl = url.parse().with_context(|| format!("the pod asks for {url:?}"))?;
        let mut labels = self.labels.clone();
        labels.extend(url.labels);
        Ok((url.network_service, labels))
    }

    /// Whether a connection is this pod's.
    pub(crate) fn owns(&self, seen: &Seen) -> bool {
        match seen.client_identity.split_once("/ns/") {
            Some((_, path)) => path == format!("{}/pod/{}", self.namespace, self.name),
            None => seen.client == self.name,
        }
    }
}

/// The value of a variable of a container.
fn variable<'c>(container: &'c Value, name: &str) -> Option<&'c str> {
    let mut variables = container["env"].as_array()?.iter();
    variables.find(|variable| variable["name"] == name)?["value"].as_str()
}

/// Whether a container has a variable, whatever its value comes from.
fn variable_is_there(container: &Value, name: &str) -> bool {
    let variables = container["env"].as_array();
    variables
        .into_iter()
        .flatten()
        .any(|variable| variable["name"] == name)
}

fn split(urls: &str) -> Vec<String> {
    let urls = urls.split(',').map(str::trim);
    urls.filter(|url| !url.is_empty()).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_by_its_client_or_by_its_annotation() {
        let annotated = json!({"metadata": {
            "name": "app-1", "namespace": "x", "annotations": {"networkservicemesh.io": "kernel://a, kernel://b?x=1"},
        }, "spec": {"nodeName": "node1"}});
        let pod = Pod::of(&annotated);
        assert_eq!((pod.client.as_deref(), pod.asks.len()), (None, 2));
        let (service, labels) = pod.request(&pod.asks[1]).expect("a URL");
        assert_eq!(
            (&*service, &*labels["nodeName"], &*labels["x"]),
            ("b", "node1", "1")
        );

        let mut injected = annotated.clone();
        injected["spec"]["initContainers"] = json!([{"name": "cmd-nsc", "env": [
            {"name": "NSM_NETWORK_SERVICES", "value": "kernel://c"},
            {"name": "POD_NAME", "valueFrom": {}},
        ]}]);
        let pod = Pod::of(&injected);
        assert_eq!(pod.client.as_deref(), Some("cmd-nsc"));
        let (service, labels) = pod.request(&pod.asks[0]).expect("a URL");
        assert_eq!((&*service, &*labels["podName"]), ("c", "app-1"));
    }
}
