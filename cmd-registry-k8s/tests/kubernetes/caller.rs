// SPDX-License-Identifier: Apache-2.0
//! Somebody who calls a registry, each call by itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use nsm_api::registry::{NetworkService, NetworkServiceEndpoint};
use nsm_sdk::core::{
    Component, Ctx, Dialer, Entry as _, Error, Found, NsRegistry, NseRegistry, Registration, Remote,
};
use nsm_sdk::identity::{Identity, Issuer, Tokens};
use nsm_sdk::registry::queries::Registry;
use nsm_sdk::transport::{Pool, health};
use tokio::time::{Instant, timeout};

use crate::world::{PATIENCE, eventually};

pub(crate) struct Caller {
    component: Component,
    identity: Identity,
    pool: Pool,
    url: String,
}

impl Caller {
    pub(crate) fn new(issuer: &Issuer, url: &str, name: &str) -> Result<Self> {
        let component = Component::new(name);
        let identity = issuer.follow(&format!("/ns/default/pod/{name}"))?;
        let tokens = Tokens::new(Duration::from_secs(600));
        Ok(Self {
            pool: Pool::new(&component, identity.clone(), tokens),
            component,
            identity,
            url: url.to_string(),
        })
    }

    fn ctx(&self) -> Ctx {
        Ctx::own(&self.component, Duration::from_secs(10))
    }

    async fn way<A: Registry>(&self, ctx: &Ctx) -> Result<Arc<dyn Remote<A>>, Error>
    where
        Pool: Dialer<A>,
    {
        Dialer::<A>::dial(&self.pool, &self.url, ctx.deadline()).await
    }

    /// Registers an entry.
    pub(crate) async fn registers<A: Registry>(&self, entry: A::Entry) -> Result<A::Entry, Error>
    where
        Pool: Dialer<A>,
    {
        let (ctx, message) = (self.ctx(), registration::<A>(entry));
        Ok(self.way::<A>(&ctx).await?.request(&ctx, &message).await?.entry)
    }

    /// Unregisters an entry.
    pub(crate) async fn unregisters<A: Registry>(&self, name: &str) -> Result<(), Error>
    where
        Pool: Dialer<A>,
    {
        let mut entry = A::Entry::default();
        entry.set_name(name.to_string());
        let (ctx, message) = (self.ctx(), registration::<A>(entry));
        self.way::<A>(&ctx).await?.close(&ctx, &message).await
    }

    /// Opens a stream of what is like `example`.
    pub(crate) async fn opens<A: Registry>(&self, example: A::Entry, watch: bool) -> Result<Found<A>, Error>
    where
        Pool: Dialer<A>,
    {
        let ctx = self.ctx();
        self.way::<A>(&ctx)
            .await?
            .find(&ctx, A::query(example, watch))
            .await
    }

    /// Everything like `example`.
    pub(crate) async fn finds<A: Registry>(&self, example: A::Entry) -> Result<Vec<A::Entry>>
    where
        Pool: Dialer<A>,
    {
        let found: Vec<_> = self.opens::<A>(example, false).await?.collect().await;
        let entry = |found: Result<A::Found, Error>| Ok(A::told(&found?).context("an entry")?.0.clone());
        found.into_iter().map(entry).collect()
    }

    /// The names of the endpoints of a service.
    pub(crate) async fn names(&self, service: &str) -> Result<Vec<String>> {
        let found = self.finds::<NseRegistry>(offering(service)).await?;
        Ok(found.into_iter().map(|entry| entry.name).collect())
    }

    /// Waits until exactly these endpoints of a service are found.
    pub(crate) async fn sees(&self, service: &str, names: &[&str]) -> Result<()> {
        let what = format!("the endpoints of {service} are {names:?}");
        eventually(&what, async || {
            (self.names(service).await.ok()? == names).then_some(())
        })
        .await
    }

    /// The service of this name.
    pub(crate) async fn service(&self, name: &str) -> Result<Option<NetworkService>> {
        let example = NetworkService {
            name: name.to_string(),
            ..Default::default()
        };
        Ok(self.finds::<NsRegistry>(example).await?.pop())
    }

    /// Whether the registry says that it serves `name`.
    pub(crate) async fn is_healthy(&self, name: &str) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        health::check(&self.component, &self.identity, &self.url, name, until)
            .await
            .is_ok()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.component.stop().cancel();
        self.component.shutdown().cancel();
    }
}

fn registration<A: Registry>(entry: A::Entry) -> Registration<A::Entry> {
    Registration {
        entry,
        path: Default::default(),
    }
}

/// An endpoint of one service.
pub(crate) fn endpoint(name: &str, service: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: name.into(),
        url: "tcp://10.0.0.1:5001".into(),
        ..offering(service)
    }
}

/// What endpoints of a service are like.
pub(crate) fn offering(service: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        network_service_names: vec![service.into()],
        ..Default::default()
    }
}

/// The next answer of a stream: the entry, and whether it is deleted.
pub(crate) async fn next<A: Registry>(found: &mut Found<A>) -> Result<(A::Entry, bool)> {
    let answer = timeout(PATIENCE, found.next()).await.context("nothing is told")?;
    let answer = answer.context("the stream ends")??;
    let (entry, deleted) = A::told(&answer).context("an entry")?;
    Ok((entry.clone(), deleted))
}
