// SPDX-License-Identifier: Apache-2.0
//! Asks a component whether it is ready, for probes (`grpc.health.v1`).

use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Address;
use super::link::Link;
use super::remote::origin;
use super::tls::Connector;
use crate::core::{Component, Error, Result};
use crate::identity::Identity;

/// Whether whoever listens on `url` serves `service` (its full name; empty means all that there is).
///
/// Errors: `bad-url`, `peer-unreachable`, `deadline`, `not-serving`, `unknown-service`, and those of the server.
pub async fn check(
    component: &Component,
    identity: &Identity,
    url: &str,
    service: &str,
    deadline: Instant,
) -> Result<()> {
    let address: Address = url.parse()?;
    let connector = Connector::new(&identity.current())?;
    let asked = async {
        let link = Link::open(component, &connector, &address).await?;
        let mut client = HealthClient::with_origin(link.transport(), origin());
        let question = HealthCheckRequest {
            service: service.into(),
        };
        let answer = client
            .check(question)
            .await
            .map_err(|status| match status.code() {
                Code::NotFound => {
                    Error::not_found("unknown-service", format!("{url} knows nothing of {service:?}"))
                }
                _ => link.failed(status),
            })?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(Error::unavailable(
                "not-serving",
                format!("{url} says {} of {service:?}", other.as_str_name()),
            )),
        }
    };
    let late = |_| {
        Err(Error::deadline(format!(
            "{url} did not tell its health within the deadline"
        )))
    };
    timeout_at(deadline, asked).await.unwrap_or_else(late)
}
