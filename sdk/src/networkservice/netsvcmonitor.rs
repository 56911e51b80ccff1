// SPDX-License-Identifier: Apache-2.0
//! Closes connections whose network service does not choose their endpoint any more.
//!
//! **Guarantees**: after a change of the network service each connection is looked at, and closed when its endpoint is
//! still registered and not chosen any more. Connections of the same service share one watch of the registry, which
//! is opened again, more and more rarely, when it breaks.
//! **Placement**: in the manager, behind `begin` and before `connect`.
//! **Reads / writes**: service, labels, endpoint name and path of the connection; its place in the watch in
//! [`Ctx::store`].
//! **On failure**: of a refresh, the connection is watched as before.
//! **On close**: ends the watch of the connection first.
//! **Cost**: one watch a service; one task and one look-up a connection when a service changes.

mod registry;
mod watched;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::expiry;
use crate::core::{
    Chain, Component, Ctx, Element, NetworkService, Next, NsRegistry, NseRegistry, Request, Result,
};
use registry::{Chosen, Registry};
use watched::{Looking, Watched};

/// See the [module](self).
pub struct NetSvcMonitor {
    registry: Arc<Registry>,
    watched: Mutex<HashMap<String, Weak<Watched>>>,
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
        let new = Watched::begin(&self.registry, service);
        watched.insert(service.to_string(), Arc::downgrade(&new));
        new
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
            let told = watched.told();
            (watched, told)
        });
        next.request(ctx, message).await?;
        drop(ctx.store().take::<Looking>());
        let connection = &message.connection;
        let (watched, told) = before
            .filter(|_| connection.network_service == asked)
            .unwrap_or_else(|| (self.watch(&connection.network_service), 0));
        let earliest = connection.path.as_ref().and_then(expiry::earliest);
        let chosen = Chosen {
            id: connection.id.clone(),
            labels: connection.labels.clone().into_iter().collect(),
            endpoint: connection.network_service_endpoint_name.clone(),
            until: earliest.map(|expires| Instant::now() + ctx.component().until(expires)),
        };
        let looking = watched.look(chosen, ctx.begun()?.withdrawable(), told);
        ctx.store().insert(looking);
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        drop(ctx.store().take::<Looking>());
        next.close(ctx, message).await
    }
}

#[cfg(test)]
mod tests;
