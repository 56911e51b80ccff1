// SPDX-License-Identifier: Apache-2.0
//! Stands in every endpoint, and looks whether the events of a connection come one at a time (I4).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connection::Connection;
use nsm_sdk::core::{Chain, Component, Ctx, Element, NetworkService, Next, Request, Result};
use parking_lot::Mutex;

use crate::history::History;

/// See the [module](self).
pub(crate) struct Probe {
    history: History,
    inside: Mutex<BTreeMap<(String, String), Component>>,
}

impl Probe {
    pub(crate) fn chain(history: &History) -> Chain<NetworkService> {
        Chain::new(vec![Arc::new(Self {
            history: history.clone(),
            inside: Mutex::default(),
        })])
    }

    /// An event of this connection begins; it ends when the answer is dropped.
    fn enter(&self, ctx: &Ctx, what: &str, id: &str) -> Inside<'_> {
        let component = ctx.component();
        let key = (component.name().to_string(), id.to_string());
        self.history.note(format!("{} {what} {id}", component.name()));
        let other = self.inside.lock().insert(key.clone(), component.clone());
        if other.is_some_and(|other| !other.shutdown().is_cancelled()) {
            self.history
                .fail(format!("I4: two events of {id} at once in {}", component.name()));
        }
        Inside { probe: self, key }
    }
}

struct Inside<'a> {
    probe: &'a Probe,
    key: (String, String),
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.probe.inside.lock().remove(&self.key);
    }
}

#[async_trait]
impl Element<NetworkService> for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let _inside = self.enter(ctx, "request", &request.connection.id);
        next.request(ctx, request).await
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let _inside = self.enter(ctx, "close", &request.connection.id);
        next.close(ctx, request).await
    }
}

/// Stands in every client, and tells what has become of its connections.
///
/// Cheap to clone; clones tell the same.
#[derive(Clone, Default)]
pub(crate) struct Mended(Arc<Mutex<Option<Tell>>>);

/// Is told the id of a connection and what it is now; nothing when it is closed.
type Tell = Box<dyn Fn(&str, Option<&Connection>) + Send>;

impl Mended {
    /// Who is told.
    pub(crate) fn set(&self, tell: impl Fn(&str, Option<&Connection>) + Send + 'static) {
        *self.0.lock() = Some(Box::new(tell));
    }

    fn tell(&self, ctx: &Ctx, id: &str, connection: Option<&Connection>) {
        if let Some(tell) = &*self.0.lock()
            && !ctx.component().shutdown().is_cancelled()
        {
            tell(id, connection);
        }
    }
}

#[async_trait]
impl Element<NetworkService> for Mended {
    fn name(&self) -> &'static str {
        "mended"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.request(ctx, request).await?;
        self.tell(ctx, &request.connection.id, Some(&request.connection));
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.tell(ctx, &request.connection.id, None);
        next.close(ctx, request).await
    }
}
