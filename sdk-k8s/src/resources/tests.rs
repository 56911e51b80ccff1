// SPDX-License-Identifier: Apache-2.0
use std::path::Path;

use nsm_api::registry as api;
use serde_json::json;

use super::*;

#[test]
fn the_definitions_of_the_manifests_are_those_of_the_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deployments/crds");
    for (file, text) in definitions().expect("is YAML") {
        let stored = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        assert!(
            stored == text,
            "{file} is old: cargo run -p nsm-sdk-k8s --example crds"
        );
    }
}

#[test]
fn names_and_versions_are_those_of_the_go_implementation() {
    for (definition, plural, kind, short) in [
        (
            NetworkService::crd(),
            "networkservices",
            "NetworkService",
            ["netsvc", "netsvcs"],
        ),
        (
            NetworkServiceEndpoint::crd(),
            "networkserviceendpoints",
            "NetworkServiceEndpoint",
            ["nse", "nses"],
        ),
    ] {
        let spec = definition.spec;
        assert_eq!(definition.metadata.name, Some(format!("{plural}.{GROUP}")));
        assert_eq!((spec.group.as_str(), spec.scope.as_str()), (GROUP, "Namespaced"));
        assert_eq!(
            (spec.names.plural.as_str(), spec.names.kind.as_str()),
            (plural, kind)
        );
        assert_eq!(spec.names.short_names.unwrap_or_default(), short);
        assert_eq!(spec.versions.len(), 1);
        assert_eq!(spec.versions[0].name, "v1");
    }
}

#[test]
fn an_endpoint_is_spelt_as_the_go_implementation_spells_it() {
    let labels = [("app".to_string(), "a".to_string())].into();
    let endpoint = api::NetworkServiceEndpoint {
        name: "nse-1".into(),
        network_service_names: vec!["s".into()],
        network_service_labels: [("s".to_string(), api::NetworkServiceLabels { labels })].into(),
        url: "tcp://10.0.0.1:5001".into(),
        expiration_time: Some(prost_types::Timestamp { seconds: 7, nanos: 5 }),
        initial_registration_time: Some(prost_types::Timestamp { seconds: 3, nanos: 0 }),
        path_ids: vec!["spiffe://t/nse".into()],
    };
    let stored = json!({
        "name": "nse-1",
        "network_service_names": ["s"],
        "network_service_labels": {"s": {"labels": {"app": "a"}}},
        "url": "tcp://10.0.0.1:5001",
        "expiration_time": {"seconds": 7, "nanos": 5},
        "initial_registration_time": {"seconds": 3, "nanos": 0},
        "path_ids": ["spiffe://t/nse"],
    });
    let spec = NetworkServiceEndpointSpec::from(endpoint.clone());
    assert_eq!(serde_json::to_value(&spec).expect("is JSON"), stored);
    let read: NetworkServiceEndpointSpec = serde_json::from_value(stored).expect("reads");
    assert_eq!(api::NetworkServiceEndpoint::from(read), endpoint);
}

#[test]
fn a_service_is_spelt_as_the_go_implementation_spells_it() {
    let selector = |key: &str| [(key.to_string(), "1".to_string())].into();
    let service = api::NetworkService {
        name: "s".into(),
        payload: "ETHERNET".into(),
        matches: vec![api::Match {
            source_selector: selector("a"),
            routes: vec![api::Destination {
                destination_selector: selector("b"),
                weight: 2,
            }],
            fallthrough: true,
            metadata: Some(api::Metadata {
                labels: selector("c"),
            }),
        }],
        path_ids: vec!["spiffe://t/nse".into()],
    };
    let stored = json!({
        "name": "s",
        "payload": "ETHERNET",
        "matches": [{
            "source_selector": {"a": "1"},
            "routes": [{"destination_selector": {"b": "1"}, "weight": 2}],
            "fallthrough": true,
            "metadata": {"labels": {"c": "1"}},
        }],
        "path_ids": ["spiffe://t/nse"],
    });
    let spec = NetworkServiceSpec::from(service.clone());
    assert_eq!(serde_json::to_value(&spec).expect("is JSON"), stored);
    let read: NetworkServiceSpec = serde_json::from_value(stored).expect("reads");
    assert_eq!(api::NetworkService::from(read), service);
}

#[test]
fn what_is_absent_or_null_is_empty() {
    let written =
        json!({"payload": null, "matches": [{"source_selector": null, "routes": [{}], "metadata": null}]});
    let read: NetworkServiceSpec = serde_json::from_value(written).expect("reads");
    assert_eq!(
        read.matches,
        [Match {
            routes: vec![Destination::default()],
            ..Match::default()
        }]
    );
    assert_eq!(
        serde_json::to_value(NetworkServiceEndpointSpec::default()).expect("is JSON"),
        json!({})
    );
}
