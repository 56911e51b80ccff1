// SPDX-License-Identifier: Apache-2.0
//! Asks the policies whether an entry may be registered or unregistered, and keeps names for those who registered them.
//!
//! **Guarantees**: a name belongs to the identity that registered it first, until it is unregistered or its
//! registration ends. That identity is proven: a caller speaks for itself, or is a hop of the mesh (of our own
//! namespace, or of those that the configuration trusts) and tells for whom it speaks. A denied call goes no further.
//! Callers without an identity are not judged: no transport lets them in.
//! **Placement**: the server's half behind `updatepath` and before `begin`. Clients use
//! [`AuthorizeClient`](crate::elements::authorize::AuthorizeClient), which judges what a server answers.
//! **Reads / writes**: the path's tokens, `path_ids`, the time until which the answer promises to keep the entry;
//! [`Judged`] in [`Ctx::call`], for a registry that itself knows who owns its entries.
//! **On failure**: a name that was free is free again.
//! **On close**: judged like a registration; one that is refused goes no further.
//! **Cost**: decodes the tokens and verifies one signature, 55 µs once for each token; one look-up where the registry
//! itself knows who owns its entries.
//!
//! With no policies nothing is judged and nothing is kept.

mod owners;

use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;

use super::queries::Registry;
use crate::core::{Ctx, Element, Entry, Error, Message, Next, PeerIdentity, Result};
use crate::elements::authorize::prove;
use crate::identity::{Identity, namespace, trust_domain};
use crate::policy::{DENIED, Input, Policies};
use owners::Owners;

/// Who owned the name when the call was judged, if anybody did. It may be somebody else's when the call gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged(pub Option<String>);

/// See the [module](self).
pub struct AuthorizeServer<A> {
    policies: Policies,
    identity: Identity,
    /// Beginnings of the SPIFFE ids of hops beside those of our namespace.
    trusted: Vec<String>,
    /// Whether the registry behind us knows who owns its entries.
    is_stored: bool,
    owners: Arc<Owners>,
    api: PhantomData<fn(A)>,
}

impl<A: Registry> AuthorizeServer<A> {
    /// Asks `policies`. Remembers who owns which name, for as long as the program runs. `identity` is who we are.
    pub fn remembering(policies: &Policies, identity: &Identity) -> Self {
        Self {
            policies: policies.clone(),
            identity: identity.clone(),
            trusted: Vec::new(),
            is_stored: false,
            owners: Arc::default(),
            api: PhantomData,
        }
    }

    /// Asks `policies`. Who owns a name is what the elements behind find stored with its entry: that survives a
    /// restart, and other replicas know it.
    pub fn stored(policies: &Policies, identity: &Identity) -> Self {
        Self {
            is_stored: true,
            ..Self::remembering(policies, identity)
        }
    }

    /// Lets callers whose SPIFFE id begins with one of `prefixes` speak for others as well.
    #[must_use]
    pub fn trusting(self, prefixes: Vec<String>) -> Self {
        Self {
            trusted: prefixes,
            ..self
        }
    }

    /// Who owns `name`; `origin` if it is one of several.
    async fn owner(&self, ctx: &Ctx, name: &str, origin: &str, next: Next<'_, A>) -> Result<Option<String>> {
        let now = ctx.component().now();
        if let Some(owner) = self.owners.of(name, now) {
            return Ok(Some(owner));
        }
        if !self.is_stored {
            return Ok(None);
        }
        let look_up = async {
            let mut found = next.find(ctx, A::by_name(name, false)).await?;
            let mut owner = None;
            while let Some(answer) = found.next().await {
                let answer = answer?;
                let Some((entry, false)) = A::told(&answer) else {
                    continue;
                };
                let is_there = entry.name() == name && A::expires(entry).is_none_or(|end| now < end);
                if let Some(id) = entry.path_ids().first().filter(|id| is_there && !id.is_empty())
                    && (owner.is_none() || id == origin)
                {
                    owner = Some(id.clone());
                }
            }
            Ok(owner)
        };
        ctx.bounded("look up who owns the name", look_up).await
    }

    /// Asks everything about a call of `caller` for a name that `owner` owns.
    fn check(
        &self,
        ctx: &Ctx,
        message: &A::Message,
        caller: &PeerIdentity,
        owner: Option<&str>,
    ) -> Result<()> {
        let (index, origin) = (own_index(message), origin(message));
        let tokens = message
            .path()
            .path_segments
            .iter()
            .map(|segment| segment.token.as_str());
        let tokens = tokens.take(index.saturating_add(1));
        let mut input = Input::of(tokens, index, &caller.certificate, ctx.component().now());
        (input.origin, input.owner) = (&origin, owner);
        self.policies
            .check(&input)
            .map_err(|error| error.context(message.id()))?;
        prove(&input, caller, index.checked_sub(1))?;
        if index > 1 && !self.may_speak(ctx, &caller.spiffe_id, &origin) {
            let text = format!("{} may not speak for {origin:?}: {DENIED}", caller.spiffe_id);
            return Err(Error::denied("untrusted-hop", text));
        }
        if message.entry.path_ids().first() != Some(&origin) {
            let text = format!("the path begins with {origin:?} and path_ids with somebody else: {DENIED}");
            return Err(Error::denied("foreign-origin", text));
        }
        Ok(())
    }

    /// Whether `speaker` is a hop of the mesh that may tell for whom it speaks. One of another trust domain may speak
    /// for its own domain only.
    fn may_speak(&self, ctx: &Ctx, speaker: &str, origin: &str) -> bool {
        let ours = ctx
            .peer()
            .local
            .clone()
            .unwrap_or_else(|| self.identity.current().svid);
        let is_known =
            |domain| Some(domain) == trust_domain(&ours.spiffe_id) || Some(domain) == trust_domain(origin);
        let is_of_us = match (namespace(&ours.spiffe_id), namespace(speaker)) {
            (Some((_, ours)), Some((domain, theirs))) => ours == theirs && is_known(domain),
            (Some(_), None) => false,
            (None, _) => trust_domain(speaker).is_some_and(is_known),
        };
        speaker == origin || is_of_us || self.trusted.iter().any(|prefix| speaker.starts_with(prefix))
    }
}

fn own_index<M: Message>(message: &M) -> usize {
    usize::try_from(message.path().index).unwrap_or(usize::MAX)
}

/// Who registers: whom the first token of the path names.
fn origin<M: Message>(message: &M) -> String {
    let first = message.path().path_segments.first();
    let claims = first.and_then(|segment| crate::identity::jwt::Claims::of(&segment.token).ok());
    claims.map(|claims| claims.sub).unwrap_or_default()
}

#[async_trait]
impl<A: Registry> Element<A> for AuthorizeServer<A> {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let caller = ctx.peer().identity.as_ref().filter(|_| !self.policies.is_empty());
        let Some(caller) = caller else {
            return next.request(ctx, message).await;
        };
        let (name, origin) = (message.id().to_string(), origin(message));
        let owner = self.owner(ctx, &name, &origin, next).await?;
        self.check(ctx, message, caller, owner.as_deref())?;
        let now = ctx.component().now();
        let claim = self.owners.claim(&name, &origin, now, now + ctx.remaining())?;
        if let Some(owner) = claim.other() {
            self.check(ctx, message, caller, Some(owner))?;
        }
        ctx.call().insert(Judged(owner));
        next.request(ctx, message).await?;
        if !self.is_stored {
            claim.keep(message.id(), A::expires(&message.entry));
        }
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let name = message.id().to_string();
        if let Some(caller) = ctx.peer().identity.as_ref().filter(|_| !self.policies.is_empty()) {
            let owner = self.owner(ctx, &name, &origin(message), next).await?;
            self.check(ctx, message, caller, owner.as_deref())?;
            ctx.call().insert(Judged(owner));
        }
        next.close(ctx, message).await?;
        self.owners.release(&name);
        Ok(())
    }
}

impl<A> std::fmt::Debug for AuthorizeServer<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorizeServer")
            .field("policies", &self.policies)
            .field("trusted", &self.trusted)
            .field("is_stored", &self.is_stored)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
