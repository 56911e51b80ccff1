// SPDX-License-Identifier: Apache-2.0
//! A forwarder that agrees on everything as the real one does and makes no links.
//!
//! What is left is the control plane, to be compared with that of others who make no links either.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use clap::Parser;
use nsm_api::registry::{NetworkServiceEndpoint, NetworkServiceLabels};
use nsm_memory as _;
use nsm_sdk::app::{self, AFTER_HELP, Duration, Failure, LogSettings, Start, labels};
use nsm_sdk::chains::{forwarder, registry_client};
use nsm_sdk::core::{Component, Result as Answer};
use nsm_sdk::dataplane::{Counters, DataPlane, Wire};
use nsm_sdk::networkservice::discoverforwarder::FORWARDER_SERVICE;
use nsm_sdk::networkservice::xconnect::Planes;
use nsm_sdk::policy;
use nsm_sdk::transport::Server;
use tokio::sync::watch;
use tokio::time::Instant;

/// Answers as a forwarder does, and makes no links
#[derive(Clone, Debug, Parser)]
#[command(name = "forwarder-bare", version, after_help = AFTER_HELP)]
struct Settings {
    /// Our name, as an endpoint and in paths
    #[arg(long, env = "NSM_NAME", default_value = "forwarder")]
    name: String,
    /// The manager of our node
    #[arg(long, env = "NSM_CONNECT_TO")]
    connect_to: String,
    /// Where we listen
    #[arg(long, env = "NSM_LISTEN_ON")]
    listen_on: String,
    /// How long a token is valid that we sign
    #[arg(long, env = "NSM_MAX_TOKEN_LIFETIME", default_value = "10m")]
    max_token_lifetime: Duration,
    /// How long dialling may take
    #[arg(long, env = "NSM_DIAL_TIMEOUT", default_value = "750ms")]
    dial_timeout: Duration,

    #[command(flatten)]
    log: LogSettings,
}

impl app::Settings for Settings {
    fn name(&self) -> &str {
        &self.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}

/// Every wire is as it should be, for there is none.
struct NoLinks;

#[async_trait]
impl DataPlane for NoLinks {
    async fn connect(&self, _: &Wire, _: Option<&Wire>, _: Instant) -> Answer<()> {
        Ok(())
    }

    async fn disconnect(&self, _: &Wire) -> Answer<()> {
        Ok(())
    }

    async fn counters(&self, _: &Wire) -> Answer<(Counters, Counters)> {
        Ok(Default::default())
    }
}

fn main() -> ExitCode {
    app::main(run)
}

async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let start = Start::new(&component, settings.max_token_lifetime);
    let identity = start.identity().await?;
    let pool = start.pool(&identity, settings.dial_timeout);
    let client = registry_client::Settings {
        connect_to: settings.connect_to,
        policies: start.policies(&[policy::REGISTRY_CLIENT.to_string()])?,
    };
    let registries = registry_client::lookup(&client, &pool);
    let chain = forwarder::Settings {
        gate: start.gate(&identity, &[policy::SERVER.to_string()])?,
        mechanism_priority: Vec::new(),
        planes: Planes::new(Arc::new(NoLinks)),
        tunnels: None,
    };
    let chain = forwarder::forwarder(&component, &chain, &registries, pool.clone());
    let is_registered = watch::Sender::new(false);
    let urls = Server::new(&component, identity)
        .network_service(chain)
        .health(app::REGISTERED, is_registered.subscribe())
        .listen(&[settings.listen_on])
        .await?;
    let labels = NetworkServiceLabels {
        labels: labels(&["p2p:true".to_string()])?,
    };
    let us = NetworkServiceEndpoint {
        name: component.name().to_string(),
        url: urls.first().cloned().unwrap_or_default(),
        network_service_names: vec![FORWARDER_SERVICE.to_string()],
        network_service_labels: [(FORWARDER_SERVICE.to_string(), labels)].into(),
        ..Default::default()
    };
    let registry = registry_client::client(&component, &client, &pool);
    let registered = app::register(&component, &registry.nse, us).await?;
    is_registered.send_replace(registered.is_some());
    start.ready(&urls).await;
    if let Some(registered) = registered {
        app::unregister(&component, &registry.nse, registered).await;
    }
    component.end().await;
    Ok(())
}
