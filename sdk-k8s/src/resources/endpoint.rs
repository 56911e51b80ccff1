// SPDX-License-Identifier: Apache-2.0
//! Endpoints of network services.
#![expect(clippy::duplicated_attributes, reason = "several columns are of one type")]

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::Status;

/// What an endpoint offers, where it is dialled, and until when it is registered.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networkservicemesh.io",
    version = "v1",
    kind = "NetworkServiceEndpoint",
    plural = "networkserviceendpoints",
    singular = "networkserviceendpoint",
    shortname = "nse",
    shortname = "nses",
    category = "nsm",
    namespaced,
    status = "Status",
    doc = "A program that provides network services.",
    printcolumn(
        name = "Services",
        type_ = "string",
        json_path = ".spec.network_service_names"
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(default)]
pub struct NetworkServiceEndpointSpec {
    /// The name of the endpoint; that of the object when absent.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(length(max = 512))]
    pub name: String,
    /// The services that it offers.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "super::nullable")]
    #[schemars(length(max = 1024), extend("nullable" = true))]
    pub network_service_names: Vec<String>,
    /// Its labels, by the service that they are for.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(extend("nullable" = true))]
    pub network_service_labels: BTreeMap<String, Labels>,
    /// Where forwarders dial it: tcp://host:port, the manager of its node.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(length(max = 2048))]
    pub url: String,
    /// Until when it is registered. An endpoint whose time has passed is deleted; one without a time stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    /// When it was registered first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_registration_time: Option<Time>,
    /// The SPIFFE ids of those who have registered it, its owner first.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "super::nullable")]
    #[schemars(length(max = 64), extend("nullable" = true))]
    pub path_ids: Vec<String>,
}

/// Labels for one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Labels {
    /// Keys and values.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(extend("nullable" = true))]
    pub labels: BTreeMap<String, String>,
}

/// A time since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Time {
    /// Whole seconds.
    #[serde(deserialize_with = "super::nullable")]
    #[schemars(range(min = -62_135_596_800_i64, max = 253_402_300_799_i64))]
    pub seconds: i64,
    /// Nanoseconds within the second.
    #[serde(deserialize_with = "super::nullable")]
    #[schemars(range(min = 0, max = 999_999_999))]
    pub nanos: i32,
}
