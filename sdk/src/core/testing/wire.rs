// SPDX-License-Identifier: Apache-2.0
//! A wire without a network: chains that can be dialed by URL.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::core::{
    Api, Chain, Component, Ctx, Dialer, Error, Found, LinkId, Message, Peer, Remote, Result, Store, Way,
};
use crate::networkservice::monitor::link::{OfLink, ServesLinks};

/// Dials chains by URL; knows what was dialed.
pub(crate) struct Wire<A: Api> {
    peers: Mutex<BTreeMap<String, Chain<A>>>,
    dialed: Mutex<Vec<String>>,
}

impl<A: Api> Wire<A> {
    /// A wire on which these chains listen.
    pub(crate) fn new<const N: usize>(peers: [(&str, Chain<A>); N]) -> Arc<Self> {
        let peers = peers.map(|(url, chain)| (url.to_string(), chain));
        Arc::new(Self {
            peers: Mutex::new(peers.into()),
            dialed: Mutex::default(),
        })
    }

    /// Makes the URL unreachable.
    pub(crate) fn cut(&self, url: &str) {
        self.peers.lock().remove(url);
    }

    /// The URLs that were dialed, in order.
    pub(crate) fn dialed(&self) -> Vec<String> {
        self.dialed.lock().clone()
    }
}

#[async_trait]
impl<A: Api> Dialer<A> for Wire<A> {
    async fn dial(&self, url: &str, _: Instant) -> Result<Arc<dyn Remote<A>>> {
        self.dialed.lock().push(url.to_string());
        let unreachable = || Error::unavailable("peer-unreachable", "nobody listens there");
        let chain = self.peers.lock().get(url).cloned().ok_or_else(unreachable)?;
        Ok(end(chain).0)
    }
}

/// A way to this chain of some component.
pub(crate) fn end<A: Api>(chain: Chain<A>) -> Way<A> {
    end_at(&Component::new("peer"), chain)
}

/// A way to this chain of `component`.
pub(crate) fn end_at<A: Api>(component: &Component, chain: Chain<A>) -> Way<A> {
    end_that_keeps(Store::default(), component, chain)
}

/// The same, with one monitor for everything that is requested there.
pub(crate) fn end_of_links<A: Api>(component: &Component, chain: Chain<A>) -> Way<A> {
    let store = Store::default();
    store.insert(ServesLinks);
    end_that_keeps(store, component, chain)
}

fn end_that_keeps<A: Api>(store: Store, component: &Component, chain: Chain<A>) -> Way<A> {
    Way(Arc::new(End {
        chain,
        store,
        peer: Peer {
            link: LinkId::new_one(),
            ..Default::default()
        },
        component: component.clone(),
    }))
}

struct End<A: Api> {
    chain: Chain<A>,
    store: Store,
    peer: Peer,
    component: Component,
}

impl<A: Api> End<A> {
    fn ctx(&self, ctx: &Ctx) -> Ctx {
        let there = Ctx::new(&self.component, self.peer.clone(), Some(ctx.deadline()));
        if ctx.call().has::<OfLink>() {
            there.call().insert(OfLink);
        }
        there
    }
}

#[async_trait]
impl<A: Api> Remote<A> for End<A> {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn store(&self) -> Option<&Store> {
        Some(&self.store)
    }

    async fn request(&self, ctx: &Ctx, message: &A::Message) -> Result<A::Message> {
        debug_assert!(!message.id().is_empty(), "a hop sends its id");
        let mut message = message.clone();
        self.chain.request(&self.ctx(ctx), &mut message).await?;
        Ok(message)
    }

    async fn close(&self, ctx: &Ctx, message: &A::Message) -> Result<()> {
        self.chain.close(&self.ctx(ctx), &mut message.clone()).await
    }

    async fn find(&self, ctx: &Ctx, query: A::Query) -> Result<Found<A>> {
        self.chain.find(&self.ctx(ctx), query).await
    }
}
