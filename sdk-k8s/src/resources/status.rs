// SPDX-License-Identifier: Apache-2.0
//! What the registry says about an object.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the registry says about an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// What holds for the object.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "super::nullable")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many endpoints offer the service; absent from endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<i64>,
}

/// Something that holds for an object or does not. Accepted says whether the registry tells of it to those who look
/// for it; an endpoint that a program has registered, and with which all is well, has no conditions, since writing
/// them would double the work of registering it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[schemars(length(min = 1, max = 316))]
    pub r#type: String,
    /// True, False or Unknown.
    #[schemars(regex(pattern = r"^(True|False|Unknown)$"))]
    pub status: String,
    /// Why, in one word for programs.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Why, for people.
    #[serde(default)]
    #[schemars(length(max = 32768))]
    pub message: String,
    /// Since when.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The generation of the object that this is about.
    #[serde(default)]
    pub observed_generation: i64,
}
