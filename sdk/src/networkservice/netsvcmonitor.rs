// SPDX-License-Identifier: Apache-2.0
//! Closes connections whose network service does not choose their endpoint any more.
//!
//! **Guarantees**: after a change of the network service each connection is looked at, and closed when its endpoint is
//! still registered and not chosen any more. Connections of the same service share one watch of the registry, which
//! is opened again, more and more rarely, when it breaks.
//! **Placement**: in the manager, behind `begin` and before `connect`.
//! **Reads / writes**: service, labels, endpoint name and path of the connection; one task in [`Ctx::store`].
//! **On failure**: of a refresh, the connection is watched as before.
//! **On close**: ends the task first.
//! **Cost**: one task a connection, one watch a service; one look-up a connection when a service changes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use nsm_api::connection::Connection;
use nsm_api::matching;
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceQuery,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::expiry;
use crate::core::{
    Backoff, Chain, Component, Ctx, DEFAULT_BUDGET, Element, Event, Events, Later, NetworkService, Next,
    NsRegistry, NseRegistry, Request, Result, Task,
};

/// The first and the longest wait before a broken watch is opened again.
const REOPEN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How many endpoints are looked up at once.
const LOOKUPS: usize = 16;

/// See the [module](self).
pub struct NetSvcMonitor {
    registry: Arc<Registry>,
    watched: Mutex<HashMap<String, Weak<Watched>>>,
}

/// Where services and endpoints are found.
struct Registry {
    component: Component,
    services: Chain<NsRegistry>,
    endpoints: Chain<NseRegistry>,
    lookups: Semaphore,
}

/// A service that is watched as long as somebody holds this.
struct Watched {
    service: watch::Receiver<Option<Arc<Service>>>,
    _task: Task,
}

/// The task that looks at one connection.
struct Looking {
    _task: Later,
}

impl NetSvcMonitor {
    /// Watches `services`, and looks endpoints up in `endpoints`.
    pub fn new(component: &Component, services: Chain<NsRegistry>, endpoints: Chain<NseRegistry>) -> Self {
        let registry = Registry {
            component: component.clone(),
            services,
            endpoints,
            lookups: Semaphore::new(LOOKUPS),
        };
        Self {
            registry: Arc::new(registry),
            watched: Mutex::default(),
        }
    }

    /// The watch of the service, if there is one.
    fn find(&self, service: &str) -> Option<Arc<Watched>> {
        self.watched.lock().get(service).and_then(Weak::upgrade)
    }

    /// The watch of the service, begun when there is none.
    fn watch(&self, service: &str) -> Arc<Watched> {
        let mut watched = self.watched.lock();
        if let Some(found) = watched.get(service).and_then(Weak::upgrade) {
            return found;
        }
        watched.retain(|_, watched| watched.strong_count() > 0);
        let (sender, receiver) = watch::channel(None);
        let (registry, name) = (Arc::clone(&self.registry), service.to_string());
        let task = async move { registry.follow(&name, &sender).await };
        let new = Arc::new(Watched {
            service: receiver,
            _task: self.registry.component.spawn("netsvcmonitor", task),
        });
        watched.insert(service.to_string(), Arc::downgrade(&new));
        new
    }
}

impl Registry {
    /// Tells every state of the service, for ever.
    async fn follow(&self, name: &str, states: &watch::Sender<Option<Arc<Service>>>) {
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
                            tell(states, service);
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
    async fn is_lost(&self, service: &Service, connection: &Connection) -> bool {
        let mut backoff = Backoff::new(REOPEN.0, REOPEN.1);
        loop {
            match self.endpoint(&connection.network_service_endpoint_name).await {
                Ok(None) => return false,
                Ok(Some(endpoint)) => {
                    return matching::endpoints(&connection.labels, service, &[endpoint]).is_empty();
                }
                Err(error) => {
                    debug!(id = connection.id, %error, "looking an endpoint up");
                    sleep(backoff.next(&self.component)).await;
                }
            }
        }
    }

    /// Looks at the connection whenever its service changes, and closes it when it is lost.
    async fn look(
        &self,
        mut service: watch::Receiver<Option<Arc<Service>>>,
        connection: Connection,
        events: Events,
    ) {
        while service.changed().await.is_ok() {
            let Some(now) = service.borrow_and_update().clone() else {
                continue;
            };
            let is_lost = tokio::select! {
                biased;
                is_lost = self.is_lost(&now, &connection) => is_lost,
                changed = service.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    service.mark_changed();
                    continue;
                }
            };
            if is_lost {
                let (id, endpoint) = (&connection.id, &connection.network_service_endpoint_name);
                info!(
                    id,
                    endpoint,
                    service = now.name,
                    "the service does not choose the endpoint any more"
                );
                if let Err(error) = events.run(Event::Close).await {
                    debug!(id, %error, "closing a connection");
                }
                return;
            }
        }
    }
}

/// Tells a state of a service that is new; registries repeat themselves.
fn tell(states: &watch::Sender<Option<Arc<Service>>>, service: Service) {
    states.send_if_modified(|state| {
        let is_new = state.as_deref() != Some(&service);
        if is_new {
            *state = Some(Arc::new(service));
        }
        is_new
    });
}

#[async_trait]
impl Element<NetworkService> for NetSvcMonitor {
    fn name(&self) -> &'static str {
        "netsvcmonitor"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let asked = message.connection.network_service.clone();
        // A watch that is there already has told what this request is decided by: only what follows matters.
        let before = self.find(&asked).map(|watched| {
            let mut service = watched.service.clone();
            service.mark_unchanged();
            (watched, service)
        });
        next.request(ctx, message).await?;
        drop(ctx.store().take::<Looking>());
        let connection = message.connection.clone();
        let (watched, service) = before
            .filter(|_| connection.network_service == asked)
            .unwrap_or_else(|| {
                let watched = self.watch(&connection.network_service);
                let service = watched.service.clone();
                (watched, service)
            });
        let path = connection.path.as_ref();
        let until = path
            .and_then(expiry::earliest)
            .map(|expires| ctx.component().until(expires));
        let registry = Arc::clone(&self.registry);
        let task = ctx.later("netsvcmonitor", |events| async move {
            let look = registry.look(service, connection, events);
            match until {
                None => look.await,
                Some(until) => drop(tokio::time::timeout(until, look).await),
            }
            drop(watched);
        })?;
        ctx.store().insert(Looking { _task: task });
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        drop(ctx.store().take::<Looking>());
        next.close(ctx, message).await
    }
}

#[cfg(test)]
mod tests;
