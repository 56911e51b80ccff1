// SPDX-License-Identifier: Apache-2.0
//! What `netsvcmonitor` asks the registry.

use std::time::Duration;

use futures::StreamExt;
use nsm_api::matching;
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceQuery,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::core::{Backoff, Chain, Component, Ctx, DEFAULT_BUDGET, NsRegistry, NseRegistry, Result};

/// The first and the longest wait before a broken watch is opened again.
const REOPEN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How many endpoints are looked up at once.
const LOOKUPS: usize = 16;

/// What is looked at of a connection.
pub(super) struct Chosen {
    pub(super) id: String,
    pub(super) labels: Box<[(String, String)]>,
    pub(super) endpoint: String,
    /// When the first promise on its path ends: nobody looks at it then.
    pub(super) until: Option<Instant>,
}

/// Where services and endpoints are found.
pub(super) struct Registry {
    component: Component,
    services: Chain<NsRegistry>,
    endpoints: Chain<NseRegistry>,
    lookups: Semaphore,
}

impl Registry {
    pub(super) fn new(
        component: &Component,
        services: Chain<NsRegistry>,
        endpoints: Chain<NseRegistry>,
    ) -> Self {
        Self {
            component: component.clone(),
            services,
            endpoints,
            lookups: Semaphore::new(LOOKUPS),
        }
    }

    pub(super) fn component(&self) -> &Component {
        &self.component
    }

    /// Tells every state of the service, for ever.
    pub(super) async fn follow(&self, name: &str, tell: impl Fn(Service)) {
        let mut backoff = Backoff::new(REOPEN.0, REOPEN.1);
        loop {
            let query = NetworkServiceQuery {
                network_service: Some(Service {
                    name: name.to_string(),
                    ..Default::default()
                }),
                watch: true,
            };
            let (ctx, opened) = (Ctx::own(&self.component, DEFAULT_BUDGET), Instant::now());
            match self.services.find(&ctx, query).await {
                Err(error) => debug!(name, %error, "watching a network service"),
                Ok(mut found) => {
                    while let Some(Ok(found)) = found.next().await {
                        let is_deleted = found.deleted;
                        let service = found.network_service.filter(|service| service.name == name);
                        if let Some(service) = service.filter(|_| !is_deleted) {
                            tell(service);
                        }
                    }
                }
            }
            if opened.elapsed() > REOPEN.1 {
                backoff.reset();
            }
            sleep(backoff.next(&self.component)).await;
        }
    }

    /// The endpoint of this name, as it is registered now.
    async fn endpoint(&self, name: &str) -> Result<Option<NetworkServiceEndpoint>> {
        let _turn = self.lookups.acquire().await;
        let query = NetworkServiceEndpointQuery {
            network_service_endpoint: Some(NetworkServiceEndpoint {
                name: name.to_string(),
                ..Default::default()
            }),
            watch: false,
        };
        let ctx = Ctx::own(&self.component, DEFAULT_BUDGET);
        let lookup = async {
            let mut found = self.endpoints.find(&ctx, query).await?;
            while let Some(found) = found.next().await.transpose()? {
                let endpoint = found.network_service_endpoint;
                if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.name == name) {
                    return Ok((!found.deleted).then_some(endpoint));
                }
            }
            Ok(None)
        };
        ctx.bounded("look an endpoint up", lookup).await
    }

    /// Whether `service` does not choose the endpoint of the connection any more. An endpoint that is not
    /// registered says nothing: it may be on its way back.
    pub(super) async fn is_lost(&self, service: &Service, connection: &Chosen) -> bool {
        let mut backoff = Backoff::new(REOPEN.0, REOPEN.1);
        loop {
            match self.endpoint(&connection.endpoint).await {
                Ok(None) => return false,
                Ok(Some(endpoint)) => {
                    let labels = connection.labels.iter().cloned().collect();
                    return matching::endpoints(&labels, service, &[endpoint]).is_empty();
                }
                Err(error) => {
                    debug!(id = connection.id, %error, "looking an endpoint up");
                    sleep(backoff.next(&self.component)).await;
                }
            }
        }
    }
}
