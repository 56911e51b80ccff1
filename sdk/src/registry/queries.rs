// SPDX-License-Identifier: Apache-2.0
//! What the registry of endpoints and the registry of services ask and answer, so that elements are written once
//! for both.

use std::time::SystemTime;

use nsm_api::matching::{endpoint_matches, service_matches};
use nsm_api::registry::{
    NetworkService, NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
    NetworkServiceQuery, NetworkServiceResponse,
};

use crate::core::{Api, Entry, NsRegistry, NseRegistry, Registration};

/// An API whose messages are entries under a name, and whose queries are examples of entries.
pub trait Registry: Api<Message = Registration<Self::Entry>> {
    /// What is registered.
    type Entry: Entry + prost::Message;

    /// Whether the deletion of an entry by others is a loss to who registered it: an endpoint lives as long as its
    /// program, while a service may be an administrator's, who may delete it.
    const DELETION_IS_LOSS: bool;

    /// The example that a query carries and whether it watches; an absent example reads as an empty one.
    fn asked(query: Self::Query) -> (Self::Entry, bool);

    /// The query that carries `example`.
    fn query(example: Self::Entry, watch: bool) -> Self::Query;

    /// The query for the entry of this name.
    fn by_name(name: &str, watch: bool) -> Self::Query {
        let mut example = Self::Entry::default();
        example.set_name(name.to_string());
        Self::query(example, watch)
    }

    /// The answer that tells of `entry`.
    fn found(entry: Self::Entry, deleted: bool) -> Self::Found;

    /// The entry of an answer and whether it is deleted; nothing when the peer left the entry out.
    fn told(found: &Self::Found) -> Option<(&Self::Entry, bool)>;

    /// Whether `entry` is like `example`.
    fn matches(example: &Self::Entry, entry: &Self::Entry) -> bool;

    /// Parts a query that looks up a name or a service: what a watch of its own is worth, and what is left to
    /// compare with the entries that the watch tells. The URL is part of the watch, since whoever answers may put
    /// another one into its answers.
    fn split(example: Self::Entry) -> Option<(Self::Entry, Self::Entry)>;

    /// The services that the entry offers; none for a service itself.
    fn services(_: &Self::Entry) -> &[String] {
        &[]
    }

    /// Until when the entry is promised to be there.
    fn expires(_: &Self::Entry) -> Option<SystemTime> {
        None
    }
}

impl Registry for NseRegistry {
    type Entry = NetworkServiceEndpoint;
    const DELETION_IS_LOSS: bool = true;

    fn asked(query: NetworkServiceEndpointQuery) -> (NetworkServiceEndpoint, bool) {
        (query.network_service_endpoint.unwrap_or_default(), query.watch)
    }

    fn query(example: NetworkServiceEndpoint, watch: bool) -> NetworkServiceEndpointQuery {
        NetworkServiceEndpointQuery {
            network_service_endpoint: Some(example),
            watch,
        }
    }

    fn found(entry: NetworkServiceEndpoint, deleted: bool) -> NetworkServiceEndpointResponse {
        NetworkServiceEndpointResponse {
            network_service_endpoint: Some(entry),
            deleted,
        }
    }

    fn told(found: &NetworkServiceEndpointResponse) -> Option<(&NetworkServiceEndpoint, bool)> {
        Some((found.network_service_endpoint.as_ref()?, found.deleted))
    }

    fn matches(example: &NetworkServiceEndpoint, entry: &NetworkServiceEndpoint) -> bool {
        endpoint_matches(example, entry)
    }

    fn split(
        mut example: NetworkServiceEndpoint,
    ) -> Option<(NetworkServiceEndpoint, NetworkServiceEndpoint)> {
        let name = std::mem::take(&mut example.name);
        let services = example.network_service_names.first().filter(|_| name.is_empty());
        let wide = NetworkServiceEndpoint {
            network_service_names: services.cloned().into_iter().collect(),
            url: std::mem::take(&mut example.url),
            name,
            ..Default::default()
        };
        let is_narrow = !wide.name.is_empty() || !wide.network_service_names.is_empty();
        is_narrow.then_some((wide, example))
    }

    fn services(entry: &NetworkServiceEndpoint) -> &[String] {
        &entry.network_service_names
    }

    fn expires(entry: &NetworkServiceEndpoint) -> Option<SystemTime> {
        entry.expiration_time?.try_into().ok()
    }
}

impl Registry for NsRegistry {
    type Entry = NetworkService;
    const DELETION_IS_LOSS: bool = false;

    fn asked(query: NetworkServiceQuery) -> (NetworkService, bool) {
        (query.network_service.unwrap_or_default(), query.watch)
    }

    fn query(example: NetworkService, watch: bool) -> NetworkServiceQuery {
        NetworkServiceQuery {
            network_service: Some(example),
            watch,
        }
    }

    fn found(entry: NetworkService, deleted: bool) -> NetworkServiceResponse {
        NetworkServiceResponse {
            network_service: Some(entry),
            deleted,
        }
    }

    fn told(found: &NetworkServiceResponse) -> Option<(&NetworkService, bool)> {
        Some((found.network_service.as_ref()?, found.deleted))
    }

    fn matches(example: &NetworkService, entry: &NetworkService) -> bool {
        service_matches(example, entry)
    }

    fn split(mut example: NetworkService) -> Option<(NetworkService, NetworkService)> {
        let wide = NetworkService {
            name: std::mem::take(&mut example.name),
            ..Default::default()
        };
        (!wide.name.is_empty()).then_some((wide, example))
    }
}

/// The part of a registry that a query is about: what look-ups and watches are indexed by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Interest {
    /// The entry of one name.
    Name(String),
    /// The endpoints of one service.
    Service(String),
    /// Everything.
    Any,
}

impl Interest {
    /// The narrowest interest that covers every entry like `example`.
    pub fn of<A: Registry>(example: &A::Entry) -> Self {
        if !example.name().is_empty() {
            return Self::Name(example.name().to_string());
        }
        match A::services(example).first() {
            Some(service) => Self::Service(service.clone()),
            None => Self::Any,
        }
    }
}
