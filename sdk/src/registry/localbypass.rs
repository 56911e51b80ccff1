// SPDX-License-Identifier: Apache-2.0
//! Registers the endpoints of this node under the public URL of its manager, and finds them here under their own.
//!
//! **Guarantees**: no local URL leaves the node. Whoever asks here for an endpoint that is registered through here
//! gets its latest own URL, from the moment it is told to the registry. What the registry has under our public URL
//! without having been registered in this life of the program is not found: nobody could reach it.
//! **Placement**: behind `begin`, before what stores or passes on; `sendfd` and `recvfd` before it.
//! **Reads / writes**: the URL of the endpoint.
//! **On failure**: a failed refresh leaves the URL as it was.
//! **On close**: passes, also for a name that an earlier life of the program has registered; such a name need not
//! exist any more.
//! **Cost**: a look-up in a map an endpoint.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use nsm_api::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
};
use parking_lot::Mutex;
use url::Url;

use crate::core::{Ctx, Element, Error, Found, Next, NseRegistry, Registration, Result};

/// See the [module](self). Clones know the same endpoints.
#[derive(Clone, Debug)]
pub struct LocalBypass {
    public_url: Arc<str>,
    own: Own,
}

/// The own URLs of endpoints by name.
type Own = Arc<Mutex<HashMap<String, String>>>;

/// Forgets the URL of one endpoint when it is dropped.
struct Known {
    name: String,
    own: Own,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.own.lock().remove(&self.name);
    }
}

impl LocalBypass {
    /// Registers endpoints under `public_url`.
    pub fn new(public_url: impl Into<Arc<str>>) -> Self {
        Self {
            public_url: public_url.into(),
            own: Own::default(),
        }
    }

    /// Puts the own URL into what the registry tells; nothing when nobody could reach it.
    fn restore(&self, mut found: NetworkServiceEndpointResponse) -> Option<NetworkServiceEndpointResponse> {
        if let Some(entry) = found.network_service_endpoint.as_mut() {
            let own = self.own.lock().get(&entry.name).cloned();
            match own {
                Some(own) => entry.url = own,
                None if entry.url == *self.public_url && !found.deleted => return None,
                None => {}
            }
        }
        Some(found)
    }
}

fn check(entry: &NetworkServiceEndpoint) -> Result<()> {
    let refused = |why: String| {
        let text = format!(
            "cannot register NSE with passed URL: {:?} of {:?} {why}",
            entry.url, entry.name
        );
        Err(Error::invalid("bad-url", text))
    };
    if entry.url.is_empty() {
        return refused("is empty; tell where the endpoint listens".to_string());
    }
    match Url::parse(&entry.url) {
        Ok(_) => Ok(()),
        Err(error) => refused(format!("is no url: {error}")),
    }
}

#[async_trait]
impl Element<NseRegistry> for LocalBypass {
    fn name(&self) -> &'static str {
        "localbypass"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        check(&message.entry)?;
        let name = message.entry.name.clone();
        let url = std::mem::replace(&mut message.entry.url, self.public_url.to_string());
        let before = self.own.lock().insert(name.clone(), url.clone());
        if !ctx.store().has::<Known>() {
            let own = Arc::clone(&self.own);
            ctx.store().insert(Known {
                name: name.clone(),
                own,
            });
        }
        let done = next.request(ctx, message).await;
        if let (Err(_), Some(before)) = (&done, before) {
            self.own.lock().insert(name, before);
        }
        message.entry.url = url;
        done
    }

    async fn close(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        message.entry.url = self.public_url.to_string();
        let closed = next.close(ctx, message).await;
        let is_known = ctx.store().take::<Known>().is_some();
        match closed {
            Err(error) if !is_known && error.code() == tonic::Code::NotFound => Ok(()),
            closed => closed,
        }
    }

    async fn find(
        &self,
        ctx: &Ctx,
        query: NetworkServiceEndpointQuery,
        next: Next<'_, NseRegistry>,
    ) -> Result<Found<NseRegistry>> {
        let found = next.find(ctx, query).await?;
        let bypass = self.clone();
        Ok(Box::pin(found.filter_map(move |item| {
            let item = item.map(|found| bypass.restore(found)).transpose();
            std::future::ready(item)
        })))
    }
}

#[cfg(test)]
mod tests;
