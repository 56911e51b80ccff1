// SPDX-License-Identifier: Apache-2.0
//! The wire of a simulation: who listens where, and calls that take time, get lost or meet a dead host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::link::{LinkEnd, pair};
use crate::core::{
    Api, Chain, Component, Ctx, Dialer, Error, Found, NetworkService, NsRegistry, NseRegistry, Peer,
    PeerIdentity, Remote, Result,
};
use crate::identity::{Credentials, Identity, Tokens};

/// An API that a [`Host`] may serve.
pub trait Served: Api {
    /// The chain by which the host serves it.
    fn chain(host: &Host) -> Option<&Chain<Self>>
    where
        Self: Sized;
}

/// One component of a simulated mesh.
#[derive(Clone)]
pub struct Host {
    /// Who it is.
    pub component: Component,
    /// The identity that it presents.
    pub identity: Identity,
    /// How it serves connections.
    pub network_service: Option<Chain<NetworkService>>,
    /// How it serves endpoints.
    pub nse_registry: Option<Chain<NseRegistry>>,
    /// How it serves services.
    pub ns_registry: Option<Chain<NsRegistry>>,
}

impl Served for NetworkService {
    fn chain(host: &Host) -> Option<&Chain<Self>> {
        host.network_service.as_ref()
    }
}

impl Served for NseRegistry {
    fn chain(host: &Host) -> Option<&Chain<Self>> {
        host.nse_registry.as_ref()
    }
}

impl Served for NsRegistry {
    fn chain(host: &Host) -> Option<&Chain<Self>> {
        host.ns_registry.as_ref()
    }
}

/// Who listens where. Cheap to clone.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<BTreeMap<String, Listening>>>);

#[derive(Clone)]
struct Listening {
    host: Arc<Host>,
    gone: CancellationToken,
}

impl Network {
    /// Lets `host` listen on `url`, in place of whoever did.
    pub fn listen(&self, url: &str, host: Host) {
        let listening = Listening {
            host: Arc::new(host),
            gone: CancellationToken::new(),
        };
        if let Some(before) = self.0.lock().insert(url.to_string(), listening) {
            before.gone.cancel();
        }
    }

    /// Nobody listens on `url` any more; calls and streams under way break.
    pub fn unlisten(&self, url: &str) {
        if let Some(before) = self.0.lock().remove(url) {
            before.gone.cancel();
        }
    }

    /// The way for `component` to call others, as `identity`; each message takes up to `delay`.
    pub fn dialer(&self, component: &Component, identity: Identity, tokens: Tokens, delay: Duration) -> Way {
        Way {
            network: self.clone(),
            component: component.clone(),
            identity,
            tokens,
            delay,
        }
    }

    fn at(&self, url: &str) -> Result<Listening> {
        let listening = self.0.lock().get(url).cloned();
        listening.ok_or_else(|| Error::unavailable("peer-unreachable", format!("nobody listens on {url}")))
    }
}

/// How one component calls others; a [`Dialer`] of every API.
pub struct Way {
    network: Network,
    component: Component,
    identity: Identity,
    tokens: Tokens,
    delay: Duration,
}

#[async_trait]
impl<A: Served> Dialer<A> for Way {
    async fn dial(&self, url: &str, _: Instant) -> Result<Arc<dyn Remote<A>>> {
        let there = self.network.at(url)?;
        let (us, them) = (self.identity.current(), there.host.identity.current());
        let (near, far) = pair();
        let seen_by_us = Peer {
            identity: Some(known(&them)?),
            token: None,
            local: Some(Arc::clone(&us.svid)),
            files: Some(Arc::new(near)),
        };
        Ok(Arc::new(Connected {
            component: self.component.clone(),
            delay: self.delay,
            tokens: self.tokens.clone(),
            peer: seen_by_us,
            us,
            them,
            far: Arc::new(far),
            there,
        }))
    }
}

fn known(credentials: &Credentials) -> Result<Arc<PeerIdentity>> {
    let leaf = credentials.svid.certificates.first();
    let leaf = leaf.ok_or_else(|| Error::internal("svid", "an SVID has no certificate"))?;
    Ok(Arc::new(PeerIdentity {
        spiffe_id: credentials.svid.spiffe_id.clone(),
        certificate: leaf.to_vec(),
        not_after: credentials.svid.not_after,
    }))
}

struct Connected {
    component: Component,
    delay: Duration,
    tokens: Tokens,
    peer: Peer,
    us: Credentials,
    them: Credentials,
    far: Arc<LinkEnd>,
    there: Listening,
}

impl Connected {
    /// One message's way.
    async fn travel(&self) {
        let micros = u64::try_from(self.delay.as_micros()).unwrap_or(u64::MAX);
        if micros > 0 {
            let drawn = self.component.random(|random| random.random_range(0..=micros));
            tokio::time::sleep(Duration::from_micros(drawn)).await;
        }
    }

    fn chain<A: Served>(&self) -> Result<&Chain<A>> {
        let missing = || {
            Error::new(
                tonic::Code::Unimplemented,
                "not-served",
                format!("{} is not served", A::NAME),
            )
        };
        A::chain(&self.there.host).ok_or_else(missing)
    }

    /// The call as the host sees it.
    fn seen_there(&self, ctx: &Ctx) -> Result<Ctx> {
        let audience = self.peer.identity.as_deref();
        let token = self.tokens.issue(&self.us.svid, audience, self.component.now())?;
        let peer = Peer {
            identity: Some(known(&self.us)?),
            token: Some(token),
            local: Some(Arc::clone(&self.them.svid)),
            files: Some(Arc::clone(&self.far) as _),
        };
        Ok(Ctx::new(&self.there.host.component, peer, Some(ctx.deadline())))
    }

    /// Runs `call` there until it answers, its host is gone, or the caller gives up.
    async fn call<T>(&self, ctx: &Ctx, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let name = self.there.host.component.name();
        let answered = async {
            self.travel().await;
            let done = tokio::select! {
                biased;
                () = self.there.gone.cancelled() => Err(Error::unavailable("peer-unreachable", format!("{name} has died"))),
                done = call => done.map_err(|error| Error::from(error.to_status(name))),
            };
            self.travel().await;
            done
        };
        ctx.bounded("get an answer", answered).await
    }
}

#[async_trait]
impl<A: Served> Remote<A> for Connected {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn request(&self, ctx: &Ctx, mut message: A::Message) -> Result<A::Message> {
        let (chain, there) = (self.chain::<A>()?, self.seen_there(ctx)?);
        let call = async {
            chain.request(&there, &mut message).await?;
            Ok(message)
        };
        self.call(ctx, call).await
    }

    async fn close(&self, ctx: &Ctx, mut message: A::Message) -> Result<()> {
        let (chain, there) = (self.chain::<A>()?, self.seen_there(ctx)?);
        self.call(ctx, async { chain.close(&there, &mut message).await })
            .await
    }

    async fn find(&self, ctx: &Ctx, query: A::Query) -> Result<Found<A>> {
        let (chain, there) = (self.chain::<A>()?, self.seen_there(ctx)?);
        let found = self.call(ctx, chain.find(&there, query)).await?;
        let gone = self.there.gone.clone();
        let name = self.there.host.component.name().to_string();
        let died = futures::stream::once(async move {
            gone.cancelled_owned().await;
            Err(Error::unavailable("peer-unreachable", format!("{name} has died")))
        });
        Ok(Box::pin(until_error(futures::stream::select(
            found.map(Some).chain(futures::stream::once(async { None })),
            died.map(Some),
        ))))
    }
}

/// The items up to the end of the stream, which reads `None`, or up to the first error.
fn until_error<T>(
    items: impl futures::Stream<Item = Option<Result<T>>>,
) -> impl futures::Stream<Item = Result<T>> {
    items
        .take_while(|item| futures::future::ready(item.is_some()))
        .filter_map(futures::future::ready)
        .scan(false, |failed, item| {
            let done = std::mem::replace(failed, item.is_err());
            futures::future::ready((!done).then_some(item))
        })
}
