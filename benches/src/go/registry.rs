// SPDX-License-Identifier: Apache-2.0
//! The registries with many endpoints: finding one of them, and telling many watchers of another.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use nsm_api::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
};
use nsm_sdk::core::{Ctx, Dialer, Found, NseRegistry, Registration, Remote};
use nsm_sdk::identity::Tokens;
use nsm_sdk::transport::Pool;
use tokio::time::Instant;

use super::mesh::Mesh;
use super::taken;
use crate::figure::{Figure, Times};

const ENDPOINTS: usize = 10_000;
const FINDS: usize = 300;
const WATCHERS: usize = 1_000;

/// How often all watchers are told of an endpoint.
const TURNS: usize = 3;

/// How many watchers share one connection.
const A_CONNECTION: usize = 100;

/// How many endpoints are registered at a time.
const AT_ONCE: usize = 8;

/// The service that is watched.
const WATCHED: &str = "watched";

/// The endpoint of it that is there before anybody watches.
const KNOWN: &str = "known";

/// How long a call may take, and an event until everybody has heard of it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn by_turns(meshes: [&Mesh; 2]) -> Result<Vec<Figure>> {
    let sides = [Side::new(meshes[0]).await?, Side::new(meshes[1]).await?];
    let mut figures = Vec::new();
    for side in &sides {
        let began = Instant::now();
        let registered =
            (0..ENDPOINTS).map(|number| async move { side.register(&endpoint(number), "service").await });
        let registered = stream::iter(registered).buffer_unordered(AT_ONCE);
        registered.try_for_each(|()| async { Ok(()) }).await?;
        let per_second = ENDPOINTS as f64 / began.elapsed().as_secs_f64();
        let name = side.mesh.named("registry_registrations_per_s");
        figures.push(Figure::new(name, per_second, "1/s", ENDPOINTS));
    }
    figures.extend(finds(&sides).await?);
    figures.extend(notifies(&sides).await?);
    Ok(figures)
}

async fn finds(sides: &[Side<'_>; 2]) -> Result<Vec<Figure>> {
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..FINDS {
        for (side, times) in sides.iter().zip(&mut times) {
            times.push(side.find(&endpoint(number * 7919 % ENDPOINTS)).await?);
        }
    }
    Ok(told(sides, "registry_find", times, 20.0))
}

async fn notifies(sides: &[Side<'_>; 2]) -> Result<Vec<Figure>> {
    let (mut watches, mut begun) = (Vec::new(), [Vec::new(), Vec::new()]);
    for (side, begun) in sides.iter().zip(&mut begun) {
        side.register(KNOWN, WATCHED).await?;
        let began = Instant::now();
        watches.push(side.watches().await?);
        begun.push(began.elapsed());
    }
    let mut times = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        for ((side, watches), times) in sides.iter().zip(&mut watches).zip(&mut times) {
            times.push(side.tell(&format!("new-{turn}"), watches).await?);
        }
    }
    let mut figures = told(sides, "registry_notify", times, 50.0);
    let [theirs, ours] = begun.map(|begun| Times::new(begun).p50_ms());
    figures.push(Figure::new(
        "go.registry_watch_over_ours",
        theirs / ours,
        "ratio",
        1,
    ));
    for (side, ms) in sides.iter().zip([theirs, ours]) {
        figures.push(Figure::new(side.mesh.named("registry_watch_ms"), ms, "ms", 1));
    }
    Ok(figures)
}

/// The name of one of the many.
fn endpoint(number: usize) -> String {
    format!("endpoint-{number:05}")
}

fn told(sides: &[Side<'_>; 2], what: &str, times: [Vec<Duration>; 2], goal: f64) -> Vec<Figure> {
    let times = times.map(Times::new);
    let ratio = times[0].p50_ms() / times[1].p50_ms();
    let ratio = Figure::new(format!("go.{what}_over_ours"), ratio, "ratio", times[0].runs());
    let mut figures = vec![ratio.at_least(goal)];
    for (side, times) in sides.iter().zip(&times) {
        figures.extend(taken::told(side.mesh, what, times, ""));
    }
    figures
}

/// A registry, and the way to it.
struct Side<'a> {
    mesh: &'a Mesh,
    way: Way,
}

type Way = Arc<dyn Remote<NseRegistry>>;

type Watch = Found<NseRegistry>;

impl<'a> Side<'a> {
    async fn new(mesh: &'a Mesh) -> Result<Self> {
        Ok(Self {
            mesh,
            way: dial(mesh).await?,
        })
    }

    fn ctx(&self) -> Ctx {
        Ctx::own(self.mesh.node.component(), PATIENCE)
    }

    async fn register(&self, name: &str, service: &str) -> Result<()> {
        let entry = NetworkServiceEndpoint {
            name: name.to_string(),
            network_service_names: vec![service.to_string()],
            url: "tcp://10.0.0.1:5001".to_string(),
            ..Default::default()
        };
        let registration = Registration {
            entry,
            ..Default::default()
        };
        self.way.request(&self.ctx(), &registration).await?;
        Ok(())
    }

    /// Finds the endpoint of this name; answers how long that took.
    async fn find(&self, name: &str) -> Result<Duration> {
        let query = NetworkServiceEndpointQuery {
            network_service_endpoint: Some(NetworkServiceEndpoint {
                name: name.to_string(),
                ..Default::default()
            }),
            watch: false,
        };
        let began = Instant::now();
        let found: Vec<_> = self.way.find(&self.ctx(), query).await?.try_collect().await?;
        let took = began.elapsed();
        let is_it = found.iter().any(|found| is_of(found, name));
        anyhow::ensure!(is_it, "{name} was not among the {} that were found", found.len());
        Ok(took)
    }

    /// Watches that have told what is there, which a registry does as soon as a watch has begun.
    async fn watches(&self) -> Result<Vec<Watch>> {
        let query = NetworkServiceEndpointQuery {
            network_service_endpoint: Some(NetworkServiceEndpoint {
                network_service_names: vec![WATCHED.to_string()],
                ..Default::default()
            }),
            watch: true,
        };
        let mut watches = Vec::with_capacity(WATCHERS);
        while watches.len() < WATCHERS {
            let way = dial(self.mesh).await?;
            let ctx = self.ctx();
            let opened = (0..A_CONNECTION).map(|_| way.find(&ctx, query.clone()));
            watches.extend(try_join_all(opened).await?);
        }
        hear(&mut watches, KNOWN).await?;
        Ok(watches)
    }

    /// Registers an endpoint; answers how long it took until all have heard of it.
    async fn tell(&self, name: &str, watches: &mut [Watch]) -> Result<Duration> {
        let began = Instant::now();
        let (registered, heard) = tokio::join!(self.register(name, WATCHED), hear(watches, name));
        let took = began.elapsed();
        registered?;
        heard?;
        Ok(took)
    }
}

/// A connection of its own to the registry of a mesh.
async fn dial(mesh: &Mesh) -> Result<Way> {
    let (node, tokens) = (&mesh.node, Tokens::new(Duration::from_secs(600)));
    let pool = Pool::new(node.component(), node.identity().clone(), tokens);
    let until = Instant::now() + Duration::from_secs(5);
    Ok(pool.dial(&node.url("registry"), until).await?)
}

/// Waits until every watch has told of the endpoint of this name.
async fn hear(watches: &mut [Watch], name: &str) -> Result<()> {
    let heard = watches.iter_mut().map(|watch| async move {
        loop {
            let told = watch.next().await.context("a watch has ended")??;
            if is_of(&told, name) {
                return Ok::<(), anyhow::Error>(());
            }
        }
    });
    let all = tokio::time::timeout(PATIENCE, try_join_all(heard)).await;
    all.with_context(|| format!("after {PATIENCE:?} not all watchers know of {name}"))??;
    Ok(())
}

fn is_of(told: &NetworkServiceEndpointResponse, name: &str) -> bool {
    let endpoint = told.network_service_endpoint.as_ref();
    endpoint.is_some_and(|endpoint| endpoint.name == name)
}
