// SPDX-License-Identifier: Apache-2.0
//! Tells in the status of each service how many endpoints offer it, so that `kubectl get netsvc` shows who has none.
//!
//! Endpoints that come and go together are told together; what is told already is not told again, by whatever replica. So
//! a service whose endpoints stay costs nothing, and neither do clients.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use nsm_sdk::core::{Component, NsRegistry, NseRegistry, Result};
use nsm_sdk::registry::queries::Registry;
use rand::Rng;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::Etcd;
use super::api_server::Refusal;

/// How long is waited for more to tell; a replica that waits longer sees that another one has told.
const GATHER: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(2);

/// How long is waited before watches that have ended are opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// How many services wait to be told of.
const MAX_WAITING: usize = 65_536;

/// Tells until the component ends.
pub async fn tell(component: Component, services: Etcd<NsRegistry>, endpoints: Etcd<NseRegistry>) {
    let ended = component.shutdown().clone();
    let telling = async {
        loop {
            if let Ok(news) = news(&component, &services, &endpoints) {
                let counting = Counting {
                    component: &component,
                    services: &services,
                    offers: BTreeMap::new(),
                    waiting: BTreeSet::new(),
                };
                counting.run(news).await;
            }
            sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = ended.cancelled() => {}
        () = telling => {}
    }
}

/// Something that has changed.
enum News {
    /// A service is there, or looks otherwise.
    Service(String),
    /// An endpoint offers these services now.
    Endpoint(String, Vec<String>),
}

/// Everything that is there, and then what changes.
fn news(
    component: &Component,
    services: &Etcd<NsRegistry>,
    endpoints: &Etcd<NseRegistry>,
) -> Result<BoxStream<'static, Result<News>>> {
    let query = NsRegistry::query(Default::default(), true);
    let services = services.cache.answer(component, query)?.map(|found| {
        let found = found?.network_service.unwrap_or_default();
        Ok(News::Service(found.name))
    });
    let query = NseRegistry::query(Default::default(), true);
    let endpoints = endpoints.cache.answer(component, query)?.map(|found| {
        let found = found?;
        let endpoint = found.network_service_endpoint.unwrap_or_default();
        let offers = match found.deleted {
            true => Vec::new(),
            false => endpoint.network_service_names,
        };
        Ok(News::Endpoint(endpoint.name, offers))
    });
    Ok(stream::select(services, endpoints).boxed())
}

struct Counting<'a> {
    component: &'a Component,
    services: &'a Etcd<NsRegistry>,
    /// What each endpoint offers.
    offers: BTreeMap<String, Vec<String>>,
    /// The services that are to be looked at.
    waiting: BTreeSet<String>,
}

impl Counting<'_> {
    /// Ends when nothing is told any more, or something was missed.
    async fn run(mut self, mut news: BoxStream<'static, Result<News>>) {
        loop {
            let Some(Ok(first)) = news.next().await else {
                return;
            };
            self.take(first);
            let gather = self.component.random(|random| random.random_range(GATHER));
            let until = Instant::now() + gather;
            loop {
                let more = tokio::select! {
                    more = news.next() => more,
                    () = sleep_until(until) => break,
                };
                let Some(Ok(more)) = more else {
                    return;
                };
                self.take(more);
            }
            self.flush().await;
        }
    }

    fn take(&mut self, news: News) {
        let changed = match news {
            News::Service(name) => vec![name],
            News::Endpoint(name, offers) => {
                let before = match offers.is_empty() {
                    true => self.offers.remove(&name),
                    false => self.offers.insert(name, offers.clone()),
                };
                offers.into_iter().chain(before.unwrap_or_default()).collect()
            }
        };
        let room = MAX_WAITING.saturating_sub(self.waiting.len());
        self.waiting.extend(changed.into_iter().take(room));
    }

    /// Tells of every service that waits.
    async fn flush(&mut self) {
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for service in self.offers.values().flatten() {
            *counts.entry(service).or_default() += 1;
        }
        for name in std::mem::take(&mut self.waiting) {
            let count = counts.get(name.as_str()).copied().unwrap_or_default();
            self.put(&name, count).await;
        }
    }

    async fn put(&self, name: &str, count: i64) {
        let mut is_up = self.services.store.api.is_up();
        loop {
            let known = self.services.cache.found(name);
            let Some(known) = known.filter(|known| !known.is_going && known.counted != Some(count)) else {
                return;
            };
            match self.services.store.count(&known.key, count).await {
                Ok(object) => return self.services.cache.is_now(object),
                // It goes, or it is told when we hear of it.
                Err(Refusal::Missing | Refusal::Conflict) => return debug!(name, "it has changed meanwhile"),
                Err(Refusal::Refused(error)) => {
                    return warn!(name, %error, "cannot tell how many endpoints it has");
                }
                Err(Refusal::Unreachable(_)) => {
                    sleep(AGAIN).await;
                    // Whoever would say so goes with the component, which is what ends this wait then.
                    drop(is_up.wait_for(|is_up| *is_up).await);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::testing::{MINUTE, Model, endpoint, service};

    const NS: &str = "networkservices";

    /// A replica that counts.
    async fn replica(model: &Model) -> (Component, Etcd<NsRegistry>, Etcd<NseRegistry>) {
        let component = Component::new("registry");
        let api = super::super::ApiServer::new(&component, model.client(), 100_000);
        let endpoints = Etcd::start(&component, &api, "home", MINUTE);
        let services = Etcd::start(&component, &api, "home", MINUTE);
        endpoints.synced().await;
        services.synced().await;
        let telling = tell(component.clone(), services.clone(), endpoints.clone());
        component.spawn_detached("counts", telling);
        (component, services, endpoints)
    }

    async fn puts<A: super::super::Kind>(component: &Component, etcd: &Etcd<A>, entry: A::Entry) {
        let mut message = nsm_sdk::core::Registration {
            entry,
            path: Default::default(),
        };
        let ctx = nsm_sdk::core::Ctx::own(component, Duration::from_secs(15));
        let chain: nsm_sdk::core::Chain<A> = nsm_sdk::chain![
            nsm_sdk::elements::begin::Begin::server(component),
            Etcd::clone(etcd),
        ];
        chain.request(&ctx, &mut message).await.expect("it is registered");
    }

    async fn counted(model: &Model, count: i64) {
        let told = async {
            while model.stored(NS, "s").expect("it is there")["status"]["endpoints"] != json!(count) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(30), told).await;
        told.unwrap_or_else(|_| panic!("not {count}: {}", model.stored(NS, "s").expect("it is there")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_tells_how_many_endpoints_it_has_and_nothing_twice() {
        let model = Model::new();
        let (component, services, endpoints) = replica(&model).await;
        puts(&component, &services, service("s", "a")).await;
        counted(&model, 0).await;
        for name in ["e1", "e2", "e3"] {
            puts(&component, &endpoints, endpoint(name, "a")).await;
        }
        counted(&model, 3).await;
        drop(model.writes());
        sleep(Duration::from_secs(30)).await;
        assert_eq!(model.writes(), Vec::<String>::new());
        model.delete("networkserviceendpoints", "home", "e2");
        counted(&model, 2).await;
        component.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_told_is_told_when_the_api_server_is_back() {
        let model = Model::new();
        let (component, services, endpoints) = replica(&model).await;
        puts(&component, &services, service("s", "a")).await;
        puts(&component, &endpoints, endpoint("e", "a")).await;
        model.goes();
        sleep(Duration::from_secs(20)).await;
        model.comes_back();
        counted(&model, 1).await;
        component.end().await;
    }
}
