// SPDX-License-Identifier: Apache-2.0
//! Continues a connection behind an endpoint that passes packets through: asks for the same service with labels of
//! its own, and lets another endpoint be chosen.
//!
//! **Guarantees**: behind it the labels are the configured ones and the endpoint's name is the one that was chosen
//! last; before it both are the caller's.
//! **Placement**: in a pass-through endpoint, first of the elements that call the next one.
//! **Reads / writes**: labels and the endpoint's name.
//! **On failure**: the name of the last success stays.
//! **Cost**: a copy of the labels a call.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// See the [module](self).
pub struct PassThrough(BTreeMap<String, String>);

/// The endpoint behind us.
#[derive(Clone)]
struct Chosen(String);

/// What the caller's connection says.
struct Callers {
    labels: BTreeMap<String, String>,
    endpoint: String,
}

impl PassThrough {
    /// Asks with these labels.
    pub fn new(labels: BTreeMap<String, String>) -> Self {
        Self(labels)
    }

    /// Puts what is ours in place of what is the caller's.
    fn replace(&self, ctx: &Ctx, request: &mut Request) -> Callers {
        let connection = &mut request.connection;
        let chosen = ctx.store().get().map(|Chosen(name)| name).unwrap_or_default();
        let labels = std::mem::take(&mut connection.labels).into_iter().collect();
        connection.labels.extend(self.0.clone());
        Callers {
            labels,
            endpoint: std::mem::replace(&mut connection.network_service_endpoint_name, chosen),
        }
    }
}

impl Callers {
    /// Puts what is the caller's back, and returns the name of the endpoint behind us.
    fn restore(self, request: &mut Request) -> String {
        request.connection.labels = self.labels.into_iter().collect();
        std::mem::replace(
            &mut request.connection.network_service_endpoint_name,
            self.endpoint,
        )
    }
}

#[async_trait]
impl Element<NetworkService> for PassThrough {
    fn name(&self) -> &'static str {
        "passthrough"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let callers = self.replace(ctx, request);
        let done = next.request(ctx, request).await;
        let chosen = callers.restore(request);
        done?;
        ctx.store().insert(Chosen(chosen));
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let callers = self.replace(ctx, request);
        let done = next.close(ctx, request).await;
        callers.restore(request);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    fn element() -> PassThrough {
        PassThrough::new([("app".into(), "firewall".into())].into())
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(element, request()).await;
    }

    #[tokio::test]
    async fn each_side_keeps_its_labels_and_its_endpoint() {
        let probe = Probe::answering(|request: &mut Request| {
            request.connection.network_service_endpoint_name = "next-nse".into();
            Ok(())
        });
        let connection = Connection::new();
        let chain = before(element(), &probe);
        let mut request = request();
        request.connection.labels = [("app".into(), "client".into()), ("more".into(), "yes".into())].into();
        request.connection.network_service_endpoint_name = "firewall-1".into();
        let original = request.clone();
        chain.request(&connection.first(), &mut request).await.unwrap();
        assert_eq!(request, original);
        chain.request(&connection.again(), &mut request).await.unwrap();
        chain.close(&connection.again(), &mut request).await.unwrap();
        assert_eq!(request, original);
        let seen = [probe.requests(), probe.closes()].concat();
        let names: Vec<_> = seen
            .iter()
            .map(|seen| &seen.connection.network_service_endpoint_name[..])
            .collect();
        assert_eq!(names, ["", "next-nse", "next-nse"]);
        assert!(
            seen.iter()
                .all(|seen| seen.connection.labels.len() == 1 && seen.connection.labels["app"] == "firewall")
        );
    }
}
