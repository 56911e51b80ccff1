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

mod registry;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use nsm_api::registry::NetworkService as Service;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info};

use super::expiry;
use crate::core::{
    Chain, Component, Ctx, Element, Event, Events, Later, NetworkService, Next, NsRegistry, NseRegistry,
    Request, Result, Task,
};
use registry::{Chosen, Registry};

/// See the [module](self).
pub struct NetSvcMonitor {
    registry: Arc<Registry>,
    watched: Mutex<HashMap<String, Weak<Watched>>>,
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
        Self {
            registry: Arc::new(Registry::new(component, services, endpoints)),
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
            _task: self.registry.component().spawn("netsvcmonitor", task),
        });
        watched.insert(service.to_string(), Arc::downgrade(&new));
        new
    }
}

/// Looks at the connection whenever its service changes, and closes it when it is lost.
async fn look(
    registry: &Registry,
    mut service: watch::Receiver<Option<Arc<Service>>>,
    connection: Chosen,
    events: Events,
) {
    while service.changed().await.is_ok() {
        let Some(now) = service.borrow_and_update().clone() else {
            continue;
        };
        let is_lost = tokio::select! {
            biased;
            is_lost = Box::pin(registry.is_lost(&now, &connection)) => is_lost,
            changed = service.changed() => {
                if changed.is_err() {
                    return;
                }
                service.mark_changed();
                continue;
            }
        };
        if is_lost {
            let (id, endpoint) = (&connection.id, &connection.endpoint);
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
        let connection = &message.connection;
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
        let chosen = Chosen {
            id: connection.id.clone(),
            labels: connection.labels.clone(),
            endpoint: connection.network_service_endpoint_name.clone(),
        };
        let registry = Arc::clone(&self.registry);
        let task = ctx.later("netsvcmonitor", |events| async move {
            let look = look(&registry, service, chosen, events);
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
