// SPDX-License-Identifier: Apache-2.0
//! Asks the policies whether a call is allowed.
//!
//! **Guarantees**: a server judges the path up to itself: with the usual policies every token on it is alive and
//! issued for the next, and the caller's is its own, signed with the key by which it has proven who it is. A client
//! judges the whole path of an answer, and that the server has signed its part. Who has no identity is not judged:
//! no transport lets such a caller in. Denials end in `no sufficient privileges`.
//! **Placement**: the server behind `begin` (which refuses those who act on another's connection) and `updatetoken`;
//! the client before `dial`. Monitors are judged where the server stands before `monitor`.
//! **Reads / writes**: the path's tokens; [`Way`]; [`Connections`].
//! **On failure**: a denied request goes no further. A denied first answer is closed again, a later one is not.
//! **On close**: who has requested the connection may close it, with expired tokens too. A client always may.
//! **Cost**: decodes the tokens, a few µs each, and verifies one signature, 55 µs once for each token; of a path that is
//! as it was when it was allowed, a comparison of its tokens.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::core::{
    Api, Ctx, Element, Error, Found, Message, NetworkService, Next, PeerIdentity, Request, Result, Token, Way,
};
use crate::networkservice::monitor::link::OfLink;
use crate::policy::{DENIED, Input, Policies};

/// The server's half.
#[derive(Clone, Debug)]
pub struct AuthorizeServer {
    policies: Policies,
    monitor: Policies,
    connections: Connections,
}

impl AuthorizeServer {
    /// Asks `policies` about requests, and lets everybody monitor.
    pub fn new(policies: &Policies) -> Self {
        Self {
            policies: policies.clone(),
            monitor: Policies::default(),
            connections: Connections::default(),
        }
    }

    /// Asks `policies` about monitors as well.
    #[must_use]
    pub fn with_monitor(self, policies: &Policies) -> Self {
        Self {
            monitor: policies.clone(),
            ..self
        }
    }

    /// Who has requested what here.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    fn check(&self, ctx: &Ctx, message: &Request) -> Result<()> {
        let Some(caller) = &ctx.peer().identity else {
            return Ok(());
        };
        let index = usize::try_from(message.path().index).unwrap_or(usize::MAX);
        let left = index.saturating_add(1);
        judge(
            &self.policies,
            ctx,
            message,
            (index, left),
            caller,
            index.checked_sub(1),
        )
    }
}

/// Asks the policies about the first `count` segments of the path, in which ours is `index` and the peer's is `theirs`.
fn judge<M: Message>(
    policies: &Policies,
    ctx: &Ctx,
    message: &M,
    (index, count): (usize, usize),
    peer: &Arc<PeerIdentity>,
    theirs: Option<usize>,
) -> Result<()> {
    if policies.is_empty() {
        return Ok(());
    }
    let segments = message.path().path_segments.iter().take(count);
    let tokens = segments.map(|segment| segment.token.as_str());
    let now = ctx.component().now();
    let places = (index, theirs);
    let still = |allowed: &Allowed| now < allowed.until && allowed.is(tokens.clone(), places, peer);
    if ctx.store().with(still) == Some(true) {
        return Ok(());
    }
    let input = Input::of(tokens.clone(), index, &peer.certificate, now);
    policies.check(&input)?;
    prove(&input, peer, theirs)?;
    if let Some(until) = input.expires() {
        ctx.store().insert(Allowed {
            tokens: tokens.map(Token::of).collect(),
            places,
            peer: Arc::clone(peer),
            until,
        });
    }
    Ok(())
}

/// What policies were asked last about this connection, and allowed; they would until one of the tokens expires.
struct Allowed {
    tokens: Box<[Token]>,
    places: (usize, Option<usize>),
    peer: Arc<PeerIdentity>,
    until: SystemTime,
}

impl Allowed {
    fn is<'a>(
        &self,
        tokens: impl Iterator<Item = &'a str>,
        places: (usize, Option<usize>),
        peer: &Arc<PeerIdentity>,
    ) -> bool {
        self.places == places && self.peer == *peer && tokens.eq(self.tokens.iter().map(Token::as_str))
    }
}

/// The peer's token names the peer, and not somebody else for whom its key says nothing.
pub(crate) fn prove(input: &Input<'_>, peer: &PeerIdentity, theirs: Option<usize>) -> Result<()> {
    match theirs.and_then(|segment| input.claims(segment)) {
        Some(claims) if claims.sub == peer.spiffe_id => Ok(()),
        claims => {
            let named = claims.map_or("nobody", |claims| &claims.sub);
            let text = format!("the token of {} names {named:?}: {DENIED}", peer.spiffe_id);
            Err(Error::denied("foreign-token", text))
        }
    }
}

#[async_trait]
impl Element<NetworkService> for AuthorizeServer {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.check(ctx, message)?;
        next.request(ctx, message).await?;
        if let Some(recorded) = self.connections.record(ctx, message) {
            ctx.store().insert(recorded);
        }
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let owner = ctx.store().with(|recorded: &Recorded| recorded.caller.clone());
        if owner.is_none() || owner.as_deref() != ctx.peer().spiffe_id() {
            self.check(ctx, message)?;
        }
        next.close(ctx, message).await?;
        ctx.store().take::<Recorded>();
        Ok(())
    }

    async fn find(
        &self,
        ctx: &Ctx,
        query: <NetworkService as Api>::Query,
        next: Next<'_, NetworkService>,
    ) -> Result<Found<NetworkService>> {
        if let Some(caller) = &ctx.peer().identity
            && !self.monitor.is_empty()
            && !OfLink::is_asked(ctx)
        {
            let selected: Vec<_> = query
                .path_segments
                .iter()
                .map(|segment| segment.id.as_str())
                .collect();
            let mut input = Input::of([], 0, &caller.certificate, ctx.component().now());
            input.selected = &selected;
            input.connections = self.connections.of(&caller.spiffe_id);
            self.monitor.check(&input)?;
        }
        next.find(ctx, query).await
    }
}

/// The client's half.
#[derive(Clone, Debug)]
pub struct AuthorizeClient(Policies);

impl AuthorizeClient {
    /// Asks `policies` about answers.
    pub fn new(policies: &Policies) -> Self {
        Self(policies.clone())
    }
}

#[async_trait]
impl<A: Api> Element<A> for AuthorizeClient {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        next.request(ctx, message).await?;
        let server = ctx
            .store()
            .with(|way: &Way<A>| way.0.peer().identity.clone())
            .flatten();
        let Some(server) = server else {
            return Ok(());
        };
        let index = usize::try_from(message.path().index).unwrap_or(usize::MAX);
        judge(
            &self.0,
            ctx,
            message,
            (index, usize::MAX),
            &server,
            index.checked_add(1),
        )
    }
}

/// Who has requested which connections: the ids of the segments before ours, by the SPIFFE id of the caller. Cheap to
/// clone; clones share it. An id is there exactly as long as its connection.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<HashMap<String, HashMap<String, usize>>>>);

/// One connection's part in [`Connections`].
struct Recorded {
    caller: String,
    id: String,
    connections: Connections,
}

impl Connections {
    /// The ids by which `caller` knows its connections.
    pub fn of(&self, caller: &str) -> HashSet<String> {
        let connections = self.0.lock();
        connections
            .get(caller)
            .into_iter()
            .flat_map(HashMap::keys)
            .cloned()
            .collect()
    }

    fn record(&self, ctx: &Ctx, message: &Request) -> Option<Recorded> {
        let caller = ctx.peer().spiffe_id()?.to_string();
        let before = usize::try_from(message.path().index).ok()?.checked_sub(1)?;
        let id = message.path().path_segments.get(before)?.id.clone();
        *self
            .0
            .lock()
            .entry(caller.clone())
            .or_default()
            .entry(id.clone())
            .or_default() += 1;
        let connections = self.clone();
        Some(Recorded {
            caller,
            id,
            connections,
        })
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let mut connections = self.connections.0.lock();
        let Some(ids) = connections.get_mut(&self.caller) else {
            return;
        };
        if let Some(count) = ids.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                ids.remove(&self.id);
            }
        }
        if ids.is_empty() {
            connections.remove(&self.caller);
        }
    }
}

#[cfg(test)]
mod tests;
