// SPDX-License-Identifier: Apache-2.0
//! Network services.
#![expect(clippy::duplicated_attributes, reason = "several columns are of one type")]

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::Status;

/// What a network service carries, and which endpoints serve which clients.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networkservicemesh.io",
    version = "v1",
    kind = "NetworkService",
    plural = "networkservices",
    singular = "networkservice",
    shortname = "netsvc",
    shortname = "netsvcs",
    category = "nsm",
    namespaced,
    status = "Status",
    doc = "A service that clients ask for by name and get a wire to.",
    printcolumn(name = "Payload", type_ = "string", json_path = ".spec.payload"),
    printcolumn(name = "Endpoints", type_ = "integer", json_path = ".status.endpoints"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(default)]
pub struct NetworkServiceSpec {
    /// The name that clients ask for; that of the object when absent.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(length(max = 512))]
    pub name: String,
    /// What wires carry: IP (the default of those that programs register) or ETHERNET.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(regex(pattern = r"^(IP|ETHERNET)?$"))]
    pub payload: String,
    /// Which endpoints serve which clients; the first match that applies to a client decides. Without any, every
    /// endpoint serves every client.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "super::nullable")]
    #[schemars(length(max = 256), extend("nullable" = true))]
    pub matches: Vec<Match>,
    /// The SPIFFE ids of those who have registered the service, its owner first. Absent from services that people
    /// write; those are neither overwritten nor deleted by programs.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "super::nullable")]
    #[schemars(length(max = 64), extend("nullable" = true))]
    pub path_ids: Vec<String>,
}

/// One way to choose endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Match {
    /// The labels that a client must have for this match to apply. A value may be a template over the client's
    /// labels, such as {{.nodeName}}.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(extend("nullable" = true))]
    pub source_selector: BTreeMap<String, String>,
    /// The endpoints that serve: those that one of these selects.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "super::nullable")]
    #[schemars(length(max = 256), extend("nullable" = true))]
    pub routes: Vec<Destination>,
    /// Whether the next match is tried when no endpoint is selected.
    #[serde(
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "super::nullable"
    )]
    pub fallthrough: bool,
    /// What the forwarder must be like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

/// Endpoints, by their labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Destination {
    /// The labels that an endpoint must have for the service. A value may be a template over the client's labels.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(extend("nullable" = true))]
    pub destination_selector: BTreeMap<String, String>,
    /// Has no effect.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "super::nullable")]
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_u64))]
    pub weight: u32,
}

/// What a forwarder must be like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Metadata {
    /// The labels that the forwarder must have.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::nullable"
    )]
    #[schemars(extend("nullable" = true))]
    pub labels: BTreeMap<String, String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(weight: &u32) -> bool {
    *weight == 0
}
