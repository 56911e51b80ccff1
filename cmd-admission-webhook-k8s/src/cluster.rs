// SPDX-License-Identifier: Apache-2.0
//! What we ask the API server for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, Config};
use nsm_api::service_url::ServiceUrl;
use nsm_sdk::core::{Error, Result};
use nsm_sdk_k8s::resources::{Match, NetworkService};
use serde_json::json;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::namespace;
use crate::rules::Rules;

/// How long an answer may take. The API server itself waits for us meanwhile.
const TO_ANSWER: Duration = Duration::from_secs(2);

/// How long the way to the API server may take.
const TO_CONNECT: Duration = Duration::from_secs(2);

/// How many namespaces are listed at once.
const PAGE: u32 = 500;

/// Labels that clients add by themselves, or read.
const KNOWN: [&str; 4] = ["podName", "nodeName", "clusterName", "sriovToken"];

/// The cluster that we are in.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// Where services are registered.
    home: String,
}

impl Cluster {
    /// The cluster behind `client`; services are looked for in the namespace `home`.
    pub(crate) fn new(client: Client, home: &str) -> Self {
        Self {
            client,
            home: home.to_string(),
        }
    }

    /// The cluster that the program runs in, or that of the file which `KUBECONFIG` names. Errors: `no-api-server`.
    pub(crate) async fn infer(home: &str) -> Result<Self> {
        let missing = |error: &dyn std::fmt::Display| {
            let text =
                format!("which Kubernetes? run in a pod with a service account, or set KUBECONFIG: {error}");
            Error::invalid("no-api-server", text)
        };
        let mut config = Config::infer().await.map_err(|error| missing(&error))?;
        config.connect_timeout = Some(TO_CONNECT);
        let client = Client::try_from(config).map_err(|error| missing(&error))?;
        Ok(Self::new(client, home))
    }

    /// The way to the API server.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Annotations and labels of a namespace.
    ///
    /// Errors: `namespace`, when the API server does not tell.
    pub(crate) async fn namespace(&self, name: &str) -> Result<[BTreeMap<String, String>; 2]> {
        let api: Api<Namespace> = Api::all(self.client());
        let untold = |why: &dyn std::fmt::Display| {
            let text = format!("the API server does not tell about namespace {name:?}: {why}; try again");
            Error::unavailable("namespace", text)
        };
        let answer = timeout(TO_ANSWER, api.get_metadata(name)).await;
        let found = answer
            .map_err(|_| untold(&"no answer in time"))?
            .map_err(|error| untold(&error))?;
        let both = [found.metadata.annotations, found.metadata.labels];
        Ok(both.map(Option::unwrap_or_default))
    }

    /// Marks the namespaces that were annotated before there was a webhook.
    pub(crate) async fn mark_namespaces(&self, rules: &Rules) {
        let api: Api<Namespace> = Api::all(self.client());
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match api.list_metadata(&params).await {
                Ok(page) => page,
                Err(error) => {
                    warn!(%error, "namespaces that were annotated before are not looked for; give us the role of the manifests");
                    return;
                }
            };
            for namespace in page.items {
                let metadata = json!({ "metadata": namespace.metadata });
                let name = namespace.metadata.name.unwrap_or_default();
                if !namespace::mark(rules, &metadata).into_operations().is_empty() {
                    self.mark(rules, &api, &name, &metadata).await;
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return,
            }
        }
    }

    async fn mark(&self, rules: &Rules, api: &Api<Namespace>, name: &str, metadata: &serde_json::Value) {
        let label = namespace::label(rules);
        let marked = namespace::mark(rules, metadata);
        let value = marked.get(&["metadata", "labels", &label]);
        let change = json!({ "metadata": { "labels": { &label: value } } });
        match api
            .patch_metadata(name, &PatchParams::default(), &Patch::Merge(change))
            .await
        {
            Ok(_) => info!(namespace = name, label, "marked as its annotation says"),
            Err(error) => {
                warn!(namespace = name, %error, "not marked: kubectl label namespace {name} {label}=enabled, or {label}-");
            }
        }
    }

    /// What of the labels of these URLs no match of their services knows. Says nothing where it cannot tell.
    pub(crate) async fn odd_labels(&self, urls: &[ServiceUrl]) -> Vec<String> {
        let api: Api<NetworkService> = Api::namespaced(self.client(), &self.home);
        let mut odd = Vec::new();
        for url in urls.iter().filter(|url| !url.labels.is_empty()) {
            let answer = timeout(TO_ANSWER, api.get_opt(&url.network_service)).await;
            if let Ok(Ok(Some(service))) = answer {
                odd.extend(odd_labels(url, &service.spec.matches));
            }
        }
        odd
    }
}

fn odd_labels(url: &ServiceUrl, matches: &[Match]) -> Vec<String> {
    let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in matches {
        for (key, value) in &one.source_selector {
            known.entry(key).or_default().insert(value);
        }
    }
    if known.is_empty() {
        return Vec::new();
    }
    let destinations = matches.iter().flat_map(|one| &one.routes);
    let templates: Vec<&str> = destinations
        .flat_map(|route| route.destination_selector.values().map(String::as_str))
        .chain(known.values().flatten().copied())
        .collect();
    let is_template_of = |key: &str| {
        templates
            .iter()
            .any(|value| value.contains("{{") && value.contains(key))
    };
    let mut odd = Vec::new();
    for (key, value) in &url.labels {
        let service = &url.network_service;
        match known.get(key.as_str()) {
            None if KNOWN.contains(&key.as_str()) || is_template_of(key) => {}
            None => {
                let keys: Vec<_> = known.keys().copied().collect();
                odd.push(format!(
                    "no match of service {service:?} looks at label {key:?}, but at {}",
                    keys.join(", ")
                ));
            }
            Some(values) if values.contains(value.as_str()) => {}
            Some(values) if values.iter().any(|value| value.contains("{{")) => {}
            Some(values) => {
                let values: Vec<_> = values.iter().copied().collect();
                odd.push(format!(
                    "no match of service {service:?} is for {key}={value}, but for {}",
                    values.join(", ")
                ));
            }
        }
    }
    odd
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odd(url: &str) -> Vec<String> {
        let matches = json!([
            { "source_selector": { "app": "firewall" }, "routes": [{ "destination_selector": { "on": "{{.zone}}" } }] },
            { "source_selector": { "app": "gateway", "at": "{{.nodeName}}" } },
        ]);
        let matches: Vec<Match> = serde_json::from_value(matches).expect("matches");
        odd_labels(&url.parse().expect("a URL"), &matches)
    }

    #[test]
    fn labels_that_no_match_knows_are_told_with_those_it_knows() {
        assert_eq!(
            odd("kernel://s?ap=firewall"),
            ["no match of service \"s\" looks at label \"ap\", but at app, at"]
        );
        assert_eq!(
            odd("kernel://s?app=firewal"),
            ["no match of service \"s\" is for app=firewal, but for firewall, gateway"]
        );
    }

    #[test]
    fn labels_that_something_reads_are_fine() {
        for url in [
            "kernel://s?app=gateway",
            "kernel://s?at=n1",
            "kernel://s?zone=z",
            "kernel://s?sriovToken=a/b",
        ] {
            assert!(odd(url).is_empty(), "{url}");
        }
        let url = "kernel://s?any=thing".parse().expect("a URL");
        assert!(odd_labels(&url, &[]).is_empty());
    }
}
