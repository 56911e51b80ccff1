// SPDX-License-Identifier: Apache-2.0
//! Adds the caller's token and ours to the path of a registration, and both our names to the entry.
//!
//! **Guarantees**: elements behind see a path whose segment before `index` has the caller's token as the call brought
//! it and whose segment `index` has one of ours for the caller; `path_ids` names both. The caller gets its own index
//! back, also from a close that fails. An empty path begins with the caller.
//! **Placement**: first in a server chain, before `authorize`.
//! **Reads / writes**: the path's index and tokens; `path_ids`; [`NoPath`]; writes [`OwnToken`] into [`Ctx::call`].
//! **On failure**: no token of ours, no registration.
//! **On close**: as a registration; a path that cannot be continued is passed as it came, for policies to refuse,
//! and is an error in the end.
//! **Cost**: see [`Tokens`].
//!
//! There is no element `grpcmetadata`: the transport reads the header `path` into the message and writes it from the
//! answer. What remains of it is [`NoPath`].

use std::time::SystemTime;

use async_trait::async_trait;
use nsm_api::connection::{Path, PathSegment};

use super::queries::Registry;
use crate::core::{Ctx, Element, Entry, Error, Next, Registration, Result};
use crate::elements::updatetoken::own_token;
use crate::identity::jwt::Claims;
use crate::identity::{Identity, Tokens};

/// How many hops a path may have.
pub const MAX_SEGMENTS: usize = 64;

/// The call brought no path, not even an empty one, or none that can be read. It goes on without one, and policies that
/// want a signature refuse it. The transport puts it into [`Ctx::call`].
#[derive(Clone, Copy, Debug)]
pub struct NoPath;

/// The expiry of the token that we answer with. Lives in [`Ctx::call`].
#[derive(Clone, Copy, Debug)]
pub struct OwnToken(pub SystemTime);

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct UpdatePath {
    tokens: Tokens,
    identity: Identity,
}

impl UpdatePath {
    /// Answers by tokens from `tokens`. `identity` is who we are where no transport has told it.
    pub fn new(tokens: &Tokens, identity: &Identity) -> Self {
        Self {
            tokens: tokens.clone(),
            identity: identity.clone(),
        }
    }

    fn enter<E: Entry>(&self, ctx: &Ctx, message: &mut Registration<E>) -> Result<()> {
        let (own, svid) = own_token(&self.tokens, &self.identity, ctx)
            .map_err(|error| error.context("an error during generating token"))?;
        ctx.call().insert(OwnToken(own.expires));
        let theirs = ctx
            .peer()
            .token
            .clone()
            .map(|token| token.token)
            .unwrap_or_default();
        let caller = Claims::of(&theirs).map(|claims| claims.sub).unwrap_or_default();
        let at = if ctx.call().has::<NoPath>() {
            message.path = Path::default();
            1
        } else {
            go_on(&mut message.path, theirs, own.token)?
        };
        name(message.entry.path_ids_mut(), at, caller, &svid.spiffe_id);
        Ok(())
    }
}

/// Moves the path from the caller's segment to ours, whose index is returned.
fn go_on(path: &mut Path, theirs: String, ours: String) -> Result<usize> {
    let segment = |token| PathSegment {
        token,
        ..Default::default()
    };
    let count = path.path_segments.len();
    if count == 0 {
        path.path_segments = vec![segment(theirs), segment(ours)];
        path.index = 1;
        return Ok(1);
    }
    let at = usize::try_from(path.index).unwrap_or(usize::MAX);
    let Some(current) = path.path_segments.get_mut(at) else {
        let next = u64::from(path.index) + 1;
        let text = format!("Path.Index+1=={next} should be less or equal len(Path.PathSegments)=={count}");
        return Err(Error::invalid("bad-path-index", text));
    };
    if at + 1 >= MAX_SEGMENTS {
        let text = format!("a path of more than {MAX_SEGMENTS} segments is longer than any");
        return Err(Error::invalid("path-too-long", text));
    }
    current.token = theirs;
    match path.path_segments.get_mut(at + 1) {
        Some(next) => next.token = ours,
        None => path.path_segments.push(segment(ours)),
    }
    path.index += 1;
    Ok(at + 1)
}

/// Names the hop `at` of the path as ours and the one before as the caller's.
fn name(ids: &mut Vec<String>, at: usize, caller: String, ours: &str) {
    ids.truncate(MAX_SEGMENTS);
    ids.resize(ids.len().max(at + 1), String::new());
    for (at, id) in [(at.checked_sub(1), caller), (Some(at), ours.to_string())] {
        if let Some(slot) = at.and_then(|at| ids.get_mut(at)) {
            *slot = id;
        }
    }
}

#[async_trait]
impl<A: Registry> Element<A> for UpdatePath {
    fn name(&self) -> &'static str {
        "updatepath"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let index = caller_index(&message.path);
        self.enter(ctx, message)?;
        next.request(ctx, message).await?;
        message.path.index = index;
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let index = caller_index(&message.path);
        let entered = self.enter(ctx, message);
        let closed = next.close(ctx, message).await;
        message.path.index = index;
        closed.and(entered)
    }
}

fn caller_index(path: &Path) -> u32 {
    if path.path_segments.is_empty() {
        0
    } else {
        path.index
    }
}

#[cfg(test)]
mod tests;
