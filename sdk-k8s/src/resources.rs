// SPDX-License-Identifier: Apache-2.0
//! The custom resources of Network Service Mesh, `networkservicemesh.io/v1`, as the API server of Kubernetes keeps
//! them.
//!
//! Group, kinds, names and the spelling of every field are those of the Go implementation, so that its programs and
//! ours read what the other has written. What it does not have are the schema, the status and the columns that
//! `kubectl get` prints.
//!
//! The definitions are generated from these types (`cargo run -p nsm-sdk-k8s --example crds`).

mod convert;
mod endpoint;
mod service;
mod status;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde::{Deserialize, Deserializer};

pub use endpoint::{Labels, NetworkServiceEndpoint, NetworkServiceEndpointSpec, Time};
pub use service::{Destination, Match, Metadata, NetworkService, NetworkServiceSpec};
pub use status::{Condition, Status};

/// The group of the resources.
pub const GROUP: &str = "networkservicemesh.io";

/// The condition that says whether the registry uses an object.
pub const ACCEPTED: &str = "Accepted";

/// The definitions as YAML, each with the name of its file in `deployments/crds`. Errors: those of the writer of YAML.
pub fn definitions() -> Result<[(&'static str, String); 2], serde_saphyr::ser::Error> {
    Ok([
        ("networkservices.yaml", text(&NetworkService::crd())?),
        (
            "networkserviceendpoints.yaml",
            text(&NetworkServiceEndpoint::crd())?,
        ),
    ])
}

fn text(definition: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    let yaml = serde_saphyr::to_string(definition)?;
    Ok(format!(
        "# SPDX-License-Identifier: Apache-2.0\n# Generated: cargo run -p nsm-sdk-k8s --example crds\n{yaml}"
    ))
}

/// Reads `null`, which YAML has for a key with nothing behind it, as what the field is without it.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
