// SPDX-License-Identifier: Apache-2.0
//! The registry program with many endpoints and many watchers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use nsm::mesh::{Node, Programs, Settings};
use nsm_api::registry::{NetworkServiceEndpoint, NetworkServiceEndpointQuery};
use nsm_sdk::core::{Component, Ctx, Dialer, NseRegistry, Registration, Remote};
use nsm_sdk::identity::Tokens;
use nsm_sdk::transport::Pool;
use tokio::time::Instant;

use crate::figure::{Figure, Times};

const ENDPOINTS: usize = 10_000;
const FINDS: usize = 2_000;
const WATCHERS: usize = 5_000;

/// How many watchers share one connection.
const A_CONNECTION: usize = 100;

pub(crate) async fn all(programs: &Programs) -> Result<Vec<Figure>> {
    let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
    let settings = Settings {
        programs: programs.clone(),
        folder: folder.path().to_path_buf(),
        log_level: "WARN".to_string(),
        identities: Vec::new(),
        svid_lifetime: None,
        variables: Vec::new(),
        host: None,
    };
    let node = Node::start(settings, |_, _| ()).await?;
    let caller = Caller::new(&node);
    let way = caller.dial(&node).await?;
    for number in 0..ENDPOINTS {
        caller.register(way.as_ref(), number).await?;
    }
    let find = find(&caller, way.as_ref()).await?;
    let notify = notify(&caller, &node, way.as_ref()).await?;
    caller.component.end().await;
    node.end().await?;
    Ok(vec![find, notify])
}

struct Caller {
    component: Component,
}

type Way = Arc<dyn Remote<NseRegistry>>;

impl Caller {
    fn new(_: &Node) -> Self {
        Self {
            component: Component::new("caller"),
        }
    }

    fn ctx(&self) -> Ctx {
        Ctx::own(&self.component, Duration::from_secs(30))
    }

    /// A connection of its own.
    async fn dial(&self, node: &Node) -> Result<Way> {
        let pool = Pool::new(
            &self.component,
            node.identity().clone(),
            Tokens::new(Duration::from_secs(600)),
        );
        Ok(pool
            .dial(&node.url("registry"), Instant::now() + Duration::from_secs(5))
            .await?)
    }

    async fn register(&self, way: &dyn Remote<NseRegistry>, number: usize) -> Result<()> {
        let service = format!("service-{}", number % 100);
        let entry = NetworkServiceEndpoint {
            name: format!("endpoint-{number}"),
            network_service_names: vec![service],
            url: format!("tcp://10.0.0.1:{}", number % 60_000),
            ..Default::default()
        };
        way.request(
            &self.ctx(),
            &Registration {
                entry,
                ..Default::default()
            },
        )
        .await?;
        Ok(())
    }
}

fn by_name(name: &str) -> NetworkServiceEndpointQuery {
    NetworkServiceEndpointQuery {
        network_service_endpoint: Some(NetworkServiceEndpoint {
            name: name.to_string(),
            ..Default::default()
        }),
        watch: false,
    }
}

async fn find(caller: &Caller, way: &dyn Remote<NseRegistry>) -> Result<Figure> {
    let mut times = Vec::with_capacity(FINDS);
    for number in 0..FINDS {
        let name = format!("endpoint-{}", number * 7919 % ENDPOINTS);
        let began = Instant::now();
        let found: Vec<_> = way.find(&caller.ctx(), by_name(&name)).await?.collect().await;
        times.push(began.elapsed());
        anyhow::ensure!(found.len() == 1, "{name} was found {} times", found.len());
    }
    let times = Times::new(times);
    Ok(Figure::new(
        "registry.find_p99_ms",
        times.quantile_ms(0.99),
        "ms",
        times.runs(),
    )
    .at_most(1.0))
}

async fn notify(caller: &Caller, node: &Node, way: &dyn Remote<NseRegistry>) -> Result<Figure> {
    let query = NetworkServiceEndpointQuery {
        watch: true,
        ..by_name("awaited")
    };
    let mut streams = Vec::with_capacity(WATCHERS);
    let mut ways = Vec::new();
    for watcher in 0..WATCHERS {
        if watcher % A_CONNECTION == 0 {
            ways.push(caller.dial(node).await?);
        }
        let way = ways.last().context("a connection was made")?;
        streams.push(way.find(&caller.ctx(), query.clone()).await?);
    }
    let mut runs = Vec::new();
    for _ in 0..5 {
        let entry = NetworkServiceEndpoint {
            name: "awaited".into(),
            url: "tcp://10.0.0.1:1".into(),
            ..Default::default()
        };
        let began = Instant::now();
        way.request(
            &caller.ctx(),
            &Registration {
                entry: entry.clone(),
                ..Default::default()
            },
        )
        .await?;
        for stream in &mut streams {
            stream.next().await.context("a watch ended")??;
        }
        runs.push(began.elapsed());
        way.close(
            &caller.ctx(),
            &Registration {
                entry,
                ..Default::default()
            },
        )
        .await?;
        for stream in &mut streams {
            stream.next().await.context("a watch ended")??;
        }
    }
    let times = Times::new(runs);
    Ok(Figure::new("registry.notify_5000_s", times.p50_ms() / 1e3, "s", times.runs()).at_most(1.0))
}
