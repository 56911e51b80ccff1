// SPDX-License-Identifier: Apache-2.0
//! Between what is registered and what is stored.

use nsm_api::registry as api;
use prost_types::Timestamp;

use super::{Destination, Labels, Match, Metadata, NetworkServiceEndpointSpec, NetworkServiceSpec, Time};

impl From<api::NetworkService> for NetworkServiceSpec {
    fn from(service: api::NetworkService) -> Self {
        Self {
            name: service.name,
            payload: service.payload,
            matches: service.matches.into_iter().map(Match::from).collect(),
            path_ids: service.path_ids,
        }
    }
}

impl From<NetworkServiceSpec> for api::NetworkService {
    fn from(spec: NetworkServiceSpec) -> Self {
        Self {
            name: spec.name,
            payload: spec.payload,
            matches: spec.matches.into_iter().map(api::Match::from).collect(),
            path_ids: spec.path_ids,
        }
    }
}

impl From<api::Match> for Match {
    fn from(one: api::Match) -> Self {
        let route = |route: api::Destination| Destination {
            destination_selector: route.destination_selector,
            weight: route.weight,
        };
        Self {
            source_selector: one.source_selector,
            routes: one.routes.into_iter().map(route).collect(),
            fallthrough: one.fallthrough,
            metadata: one.metadata.map(|metadata| Metadata {
                labels: metadata.labels,
            }),
        }
    }
}

impl From<Match> for api::Match {
    fn from(one: Match) -> Self {
        let route = |route: Destination| api::Destination {
            destination_selector: route.destination_selector,
            weight: route.weight,
        };
        Self {
            source_selector: one.source_selector,
            routes: one.routes.into_iter().map(route).collect(),
            fallthrough: one.fallthrough,
            metadata: one.metadata.map(|metadata| api::Metadata {
                labels: metadata.labels,
            }),
        }
    }
}

impl From<api::NetworkServiceEndpoint> for NetworkServiceEndpointSpec {
    fn from(endpoint: api::NetworkServiceEndpoint) -> Self {
        let labels = endpoint.network_service_labels.into_iter();
        Self {
            name: endpoint.name,
            network_service_names: endpoint.network_service_names,
            network_service_labels: labels
                .map(|(service, api::NetworkServiceLabels { labels })| (service, Labels { labels }))
                .collect(),
            url: endpoint.url,
            expiration_time: endpoint.expiration_time.map(Time::from),
            initial_registration_time: endpoint.initial_registration_time.map(Time::from),
            path_ids: endpoint.path_ids,
        }
    }
}

impl From<NetworkServiceEndpointSpec> for api::NetworkServiceEndpoint {
    fn from(spec: NetworkServiceEndpointSpec) -> Self {
        let labels = spec.network_service_labels.into_iter();
        Self {
            name: spec.name,
            network_service_names: spec.network_service_names,
            network_service_labels: labels
                .map(|(service, Labels { labels })| (service, api::NetworkServiceLabels { labels }))
                .collect(),
            url: spec.url,
            expiration_time: spec.expiration_time.map(Timestamp::from),
            initial_registration_time: spec.initial_registration_time.map(Timestamp::from),
            path_ids: spec.path_ids,
        }
    }
}

impl From<Timestamp> for Time {
    fn from(Timestamp { seconds, nanos }: Timestamp) -> Self {
        Self { seconds, nanos }
    }
}

impl From<Time> for Timestamp {
    fn from(Time { seconds, nanos }: Time) -> Self {
        Self { seconds, nanos }
    }
}
