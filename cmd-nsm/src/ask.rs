// SPDX-License-Identifier: Apache-2.0
//! Asks managers, forwarders and registries what they know, as any other program of the mesh asks them.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use futures::{Stream, StreamExt};
use nsm_api::connection::{Connection, MonitorScopeSelector};
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceQuery,
};
use nsm_sdk::core::{Component, Ctx, Dialer, Found, NetworkService, NsRegistry, NseRegistry, Remote};
use nsm_sdk::identity::{Identity, Source, Tokens};
use nsm_sdk::transport::{Config, Pool};
use tokio::time::Instant;

use crate::offline::Known;

/// How long the tokens are valid by which we ask.
const TOKENS: Duration = Duration::from_secs(600);

/// Whom a command asks.
///
/// Who we are comes from SPIFFE_ENDPOINT_SOCKET or NSM_IDENTITY_DIR, as for every program.
#[derive(Args, Clone, Debug)]
pub struct AskSettings {
    /// Who is asked: the manager of this node by default, or any other program of the mesh, by unix:///path or
    /// tcp://host:port
    #[arg(
        long,
        env = "NSM_CONNECT_TO",
        default_value = "unix:///var/lib/networkservicemesh/nsm.io.sock"
    )]
    pub connect_to: String,
    /// How long to wait for answers
    #[arg(long, default_value = "5s")]
    pub timeout: nsm_sdk::app::Duration,
}

/// Somebody who asks.
pub struct Asking {
    component: Component,
    identity: Identity,
    pool: Pool,
    url: String,
    until: Instant,
}

impl AskSettings {
    /// Learns who we are. Errors: `no-identity-source`, `no-identity`.
    pub async fn start(&self) -> Result<Asking> {
        let component = Component::new("nsm");
        let until = Instant::now() + self.timeout.0;
        let identity = Source::choose(|name| std::env::var(name).ok())?
            .follow(&component, until)
            .await?;
        Ok(self.start_as(component, identity))
    }

    /// The same for somebody who is known.
    pub fn start_as(&self, component: Component, identity: Identity) -> Asking {
        let config = Config {
            dial_timeout: self.timeout.0,
            ..Config::default()
        };
        let pool = Pool::with(&component, identity.clone(), Tokens::new(TOKENS), config);
        Asking {
            component,
            identity,
            pool,
            url: self.connect_to.clone(),
            until: Instant::now() + self.timeout.0,
        }
    }
}

impl Asking {
    /// Who we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The component that asks.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Until when answers are awaited.
    pub fn until(&self) -> Instant {
        self.until
    }

    fn ctx(&self) -> Ctx {
        let left = self.until.saturating_duration_since(Instant::now());
        Ctx::own(&self.component, left)
    }

    async fn read<T>(
        &self,
        mut found: impl Stream<Item = nsm_sdk::core::Result<T>> + Unpin,
    ) -> Result<Vec<T>> {
        let reading = async {
            let mut all = Vec::new();
            while let Some(item) = found.next().await {
                all.push(item?);
            }
            Ok(all)
        };
        Ok(self.ctx().bounded("read what is found", reading).await?)
    }

    /// All services.
    pub async fn services(&self) -> Result<Vec<Service>> {
        let way: std::sync::Arc<dyn Remote<NsRegistry>> = self.pool.dial(&self.url, self.until).await?;
        let query = NetworkServiceQuery {
            network_service: Some(Service::default()),
            watch: false,
        };
        let found = self.read(way.find(&self.ctx(), query).await?).await;
        let found = found.with_context(|| format!("asking {} for services", self.url))?;
        let alive = found.into_iter().filter(|found| !found.deleted);
        Ok(alive.filter_map(|found| found.network_service).collect())
    }

    /// The endpoints that are like `example`, forwarders among them.
    pub async fn endpoints(&self, example: NetworkServiceEndpoint) -> Result<Vec<NetworkServiceEndpoint>> {
        let way: std::sync::Arc<dyn Remote<NseRegistry>> = self.pool.dial(&self.url, self.until).await?;
        let query = NetworkServiceEndpointQuery {
            network_service_endpoint: Some(example),
            watch: false,
        };
        let found = self.read(way.find(&self.ctx(), query).await?).await;
        let found = found.with_context(|| format!("asking {} for endpoints", self.url))?;
        let alive = found.into_iter().filter(|found| !found.deleted);
        Ok(alive.filter_map(|found| found.network_service_endpoint).collect())
    }

    /// What decides who serves clients of `service`: `services`, which are all, the endpoints that offer it, and
    /// forwarders. All endpoints when nobody offers it, since the name may be meant otherwise.
    pub async fn known_of(&self, services: Vec<Service>, service: &str, forwarder: &str) -> Result<Known> {
        let offering = |name: &str| {
            self.endpoints(NetworkServiceEndpoint {
                network_service_names: vec![name.to_string()],
                ..Default::default()
            })
        };
        let (mut endpoints, mut forwarders) = futures::try_join!(offering(service), offering(forwarder))?;
        if endpoints.is_empty() {
            endpoints = self.endpoints(NetworkServiceEndpoint::default()).await?;
        } else {
            let is_known =
                |one: &NetworkServiceEndpoint| one.network_service_names.iter().any(|name| name == service);
            forwarders.retain(|one| !is_known(one));
            endpoints.append(&mut forwarders);
        }
        Ok(Known { services, endpoints })
    }

    /// What becomes of connections, from how they are now.
    pub async fn monitor(&self, selector: MonitorScopeSelector) -> Result<Found<NetworkService>> {
        let way: std::sync::Arc<dyn Remote<NetworkService>> = self.pool.dial(&self.url, self.until).await?;
        let found = way.find(&self.ctx(), selector).await;
        found.with_context(|| format!("asking {} for connections", self.url))
    }

    /// The connections as they are now, by their ids.
    pub async fn connections(&self, selector: MonitorScopeSelector) -> Result<Vec<Connection>> {
        let mut events = self.monitor(selector).await?;
        let first = self.ctx();
        let event = first
            .bounded("read the connections", async { events.next().await.transpose() })
            .await?;
        let connections = event.map(|event| event.connections).unwrap_or_default();
        let mut connections: Vec<_> = connections.into_values().collect();
        connections.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(connections)
    }
}
