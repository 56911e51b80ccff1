// SPDX-License-Identifier: Apache-2.0
//! Adds labels that say where a client or an endpoint runs.
//!
//! **Guarantees**: a label that is there already stays.
//! **Placement**: in a client before the labels matter; in the manager before it selects.
//! **Reads / writes**: the labels of a connection; of an endpoint, those of every service that has an entry already.
//! **Cost**: a few copies of short strings a call.

use async_trait::async_trait;
use nsm_api::matching::Labels;
use nsm_api::registry::NetworkServiceEndpoint;

use crate::core::{Ctx, Element, NetworkService, Next, NseRegistry, Registration, Request, Result};

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct ClientInfo(Labels);

impl ClientInfo {
    /// Adds `labels` where they are absent: the names of the node, the pod and the cluster, as far as they are known.
    pub fn new(labels: Labels) -> Self {
        Self(labels)
    }

    fn add(&self, labels: &mut Labels) {
        for (key, value) in &self.0 {
            if !labels.contains_key(key) {
                labels.insert(key.clone(), value.clone());
            }
        }
    }
}

#[async_trait]
impl Element<NetworkService> for ClientInfo {
    fn name(&self) -> &'static str {
        "clientinfo"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.add(&mut message.connection.labels);
        next.request(ctx, message).await
    }
}

#[async_trait]
impl Element<NseRegistry> for ClientInfo {
    fn name(&self) -> &'static str {
        "clientinfo"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        for service in message.entry.network_service_labels.values_mut() {
            self.add(&mut service.labels);
        }
        next.request(ctx, message).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::Chain;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    fn info() -> ClientInfo {
        ClientInfo::new(labels([("nodeName", "node-1"), ("clusterName", "cluster-1")]))
    }

    fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
        pairs.map(|(key, value)| (key.into(), value.into())).into()
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(info, request()).await;
        standard_cases::<NseRegistry, _>(info, Registration::default()).await;
    }

    #[tokio::test]
    async fn known_labels_are_added_and_present_ones_stay() {
        let probe = Probe::new();
        let mut message = request();
        message.connection.labels = labels([("clusterName", "mine"), ("app", "a")]);
        before(info(), &probe)
            .request(&Connection::new().first(), &mut message)
            .await
            .expect("passes");
        let expected = labels([("app", "a"), ("clusterName", "mine"), ("nodeName", "node-1")]);
        assert_eq!(probe.requests()[0].connection.labels, expected);
    }

    #[tokio::test]
    async fn an_endpoint_gets_them_for_every_service_that_has_an_entry() {
        let probe = Probe::<NseRegistry>::new();
        let chain: Chain<NseRegistry> = crate::chain![info(), Arc::clone(&probe)];
        let mut message = Registration::<NetworkServiceEndpoint>::default();
        message.entry.network_service_names = vec!["a".into(), "b".into()];
        message
            .entry
            .network_service_labels
            .insert("a".into(), Default::default());
        chain
            .request(&Connection::new().first(), &mut message)
            .await
            .expect("passes");
        let entry = &probe.requests()[0].entry;
        assert_eq!(entry.network_service_labels.len(), 1);
        let expected = labels([("clusterName", "cluster-1"), ("nodeName", "node-1")]);
        assert_eq!(entry.network_service_labels["a"].labels, expected);
    }
}
