// SPDX-License-Identifier: Apache-2.0
//! Calls that take time, and break when one of their ends dies.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use rand::Rng;
use tokio_util::sync::CancellationToken;

use super::link::{LinkEnd, pair};
use super::network::{Call, Host, Kind, Network, Served, Step, Way};
use crate::core::{
    Chain, Component, Ctx, Error, Found, LinkId, Message, Peer, PeerIdentity, Remote, Result, Store,
};
use crate::elements::updatepath::SegmentId;
use crate::identity::{Credentials, Tokens};
use crate::networkservice::monitor::link::{OfLink, ServesLinks};

/// A connection of one component with another.
pub(super) struct Connected {
    ends: Ends,
    tokens: Tokens,
    /// Who is there, as we see them.
    peer: Peer,
    us: Credentials,
    them: Credentials,
    far: Arc<LinkEnd>,
    store: Store,
}

/// Who is connected.
#[derive(Clone)]
struct Ends {
    network: Network,
    component: Component,
    power: CancellationToken,
    there: Arc<Host>,
}

impl Ends {
    /// One message's way.
    async fn travel(&self) {
        let most = u64::try_from(self.network.delay().as_micros()).unwrap_or(u64::MAX);
        if most > 0 {
            let drawn = self.component.random(|random| random.random_range(0..=most));
            tokio::time::sleep(Duration::from_micros(drawn)).await;
        }
    }

    /// Waits until one of both dies.
    async fn broken(&self) -> Error {
        let died = tokio::select! {
            biased;
            () = self.there.power.cancelled() => &self.there.component,
            () = self.power.cancelled() => &self.component,
        };
        dead(died)
    }

    /// An error as it is after its way.
    fn carried(&self, error: &Error) -> Error {
        Error::from(error.to_status(self.there.component.name()))
    }
}

impl Connected {
    pub(super) fn new(way: &Way, there: Arc<Host>) -> Result<Self> {
        let (us, them) = (way.identity.current(), there.identity.current());
        let (near, far) = pair();
        let peer = Peer {
            identity: Some(known(&them)?),
            token: None,
            local: Some(Arc::clone(&us.svid)),
            files: Some(Arc::new(near)),
            link: LinkId::new_one(),
        };
        let ends = Ends {
            network: way.network.clone(),
            component: way.component.clone(),
            power: way.power.clone(),
            there,
        };
        let store = Store::default();
        store.insert(ServesLinks);
        Ok(Self {
            store,
            ends,
            tokens: way.tokens.clone(),
            peer,
            us,
            them,
            far: Arc::new(far),
        })
    }

    fn chain<A: Served>(&self) -> Result<&Chain<A>> {
        let missing = || {
            let text = format!("{} is not served", A::NAME);
            Error::new(tonic::Code::Unimplemented, "not-served", text)
        };
        A::chain(&self.ends.there).ok_or_else(missing)
    }

    /// The call as the host sees it.
    fn seen_there(&self, ctx: &Ctx) -> Result<Ctx> {
        let audience = self.peer.identity.as_deref();
        let now = self.ends.component.now();
        let peer = Peer {
            identity: Some(known(&self.us)?),
            token: Some(self.tokens.issue(&self.us.svid, audience, now)?),
            local: Some(Arc::clone(&self.them.svid)),
            files: Some(Arc::clone(&self.far) as _),
            link: self.peer.link,
        };
        let there = Ctx::new(&self.ends.there.component, peer, Some(ctx.deadline()));
        let there = there.traced(ctx.trace());
        if let Some(id) = ctx.call().get::<SegmentId>() {
            there.call().insert(id);
        }
        if ctx.call().has::<OfLink>() {
            there.call().insert(OfLink);
        }
        Ok(there)
    }

    /// Begins a call; the dead call nobody.
    fn begin<A: Served>(&self, kind: Kind, id: &str) -> Result<Underway<'_>> {
        if self.ends.power.is_cancelled() {
            return Err(dead(&self.ends.component));
        }
        let call = Call {
            from: self.ends.component.name().to_string(),
            to: self.ends.there.component.name().to_string(),
            api: A::NAME,
            kind,
            id: id.to_string(),
        };
        self.ends.network.tell(&call, &Step::Sent);
        Ok(Underway {
            call,
            ends: &self.ends,
        })
    }

    /// Runs `work` there until it answers, one of both ends is gone, or the caller gives up.
    async fn run<T>(
        &self,
        ctx: &Ctx,
        underway: Underway<'_>,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let answered = async {
            self.ends.travel().await;
            underway.is_at(&Step::Arrived).await;
            let done = work.await;
            let told = done.as_ref().map(drop);
            let told = told.map_err(|error| error.reason().to_string());
            underway.is_at(&Step::Answered(told)).await;
            self.ends.travel().await;
            done.map_err(|error| self.ends.carried(&error))
        };
        tokio::select! {
            biased;
            error = self.ends.broken() => Err(error),
            done = ctx.bounded("get an answer", answered) => done,
        }
    }
}

fn dead(component: &Component) -> Error {
    Error::unavailable("peer-unreachable", format!("{} has died", component.name()))
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

/// A call that has begun and is over when this is dropped.
struct Underway<'a> {
    call: Call,
    ends: &'a Ends,
}

impl Underway<'_> {
    /// Tells of a step. Those who hear of it may let one of both ends die right before it.
    async fn is_at(&self, step: &Step) {
        self.ends.network.tell(&self.call, step);
        if self.ends.power.is_cancelled() || self.ends.there.power.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if !self.ends.power.is_cancelled() {
            self.ends.network.tell(&self.call, &Step::Over);
        }
    }
}

#[async_trait]
impl<A: Served> Remote<A> for Connected {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn request(&self, ctx: &Ctx, message: &A::Message) -> Result<A::Message> {
        let (chain, there) = (self.chain::<A>()?, self.seen_there(ctx)?);
        let underway = self.begin::<A>(Kind::Request, message.id())?;
        let mut message = message.clone();
        let work = async {
            chain.request(&there, &mut message).await?;
            Ok(message)
        };
        self.run(ctx, underway, work).await
    }

    async fn close(&self, ctx: &Ctx, message: &A::Message) -> Result<()> {
        let (chain, there) = (self.chain::<A>()?, self.seen_there(ctx)?);
        let underway = self.begin::<A>(Kind::Close, message.id())?;
        let mut message = message.clone();
        let work = async { chain.close(&there, &mut message).await };
        self.run(ctx, underway, work).await
    }

    fn store(&self) -> Option<&Store> {
        Some(&self.store)
    }

    async fn find(&self, ctx: &Ctx, query: A::Query) -> Result<Found<A>> {
        let (chain, there) = (self.chain::<A>()?, self.seen_there(ctx)?);
        let underway = self.begin::<A>(Kind::Find, "")?;
        let found = self.run(ctx, underway, chain.find(&there, query)).await?;
        let open = Some((found, self.ends.clone()));
        Ok(Box::pin(stream::unfold(open, |open| async {
            let (mut found, ends) = open?;
            let item = tokio::select! {
                biased;
                error = ends.broken() => Err(error),
                item = found.next() => item?.map_err(|error| ends.carried(&error)),
            };
            ends.travel().await;
            let more = item.is_ok().then_some((found, ends));
            Some((item, more))
        })))
    }
}
