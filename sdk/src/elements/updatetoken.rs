// SPDX-License-Identifier: Apache-2.0
//! Writes into the path the token by which the caller has called, and the one by which we answer.
//!
//! **Guarantees**: the segment before ours gets the caller's token and expiry as the call brought them; a call
//! without them leaves it as it is, and policies judge that. Ours gets a token for the caller, signed with the key
//! of the certificate that the caller sees on this transport connection.
//! **Placement**: behind `begin`, before `authorize`.
//! **Reads / writes**: `token` and `expires` of our segment and the one before.
//! **On failure**: no token of ours, no connection: the request fails before anything is made.
//! **On close**: as a request, but goes on without a token rather than not at all.
//! **Cost**: see [`Tokens`].

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use nsm_api::connection::PathSegment;
use tracing::debug;

use crate::core::{Api, CallToken, Ctx, Element, Error, Message, Next, Result};
use crate::identity::{Identity, Svid, Tokens};

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct UpdateToken {
    tokens: Tokens,
    identity: Identity,
}

impl UpdateToken {
    /// Answers by tokens from `tokens`. `identity` is who we are where no transport has told it.
    pub fn new(tokens: &Tokens, identity: &Identity) -> Self {
        Self {
            tokens: tokens.clone(),
            identity: identity.clone(),
        }
    }

    fn update<M: Message>(&self, ctx: &Ctx, message: &mut M) -> Result<()> {
        let path = message.path_mut();
        let index = usize::try_from(path.index).unwrap_or(usize::MAX);
        let count = path.path_segments.len();
        if index >= count {
            let text = format!(
                "NetworkServiceRequest.Connection.Path.Index({index}) >= \
                 len(NetworkServiceRequest.Connection.Path.PathSegments)({count})"
            );
            return Err(Error::invalid("bad-path-index", text));
        }
        let (own, _) = own_token(&self.tokens, &self.identity, ctx)?;
        let mut segments = path.path_segments.iter_mut().take(index + 1).rev();
        if let Some(segment) = segments.next() {
            write(segment, own);
        }
        match (segments.next(), ctx.peer().token.clone()) {
            (Some(segment), Some(token)) => write(segment, token),
            (Some(_), None) => debug!("the caller sent no token, or not exactly one"),
            (None, _) => {}
        }
        Ok(())
    }
}

/// The token by which we answer the caller, and the identity that signs it: the one of the transport connection, or,
/// once that has expired, the current one.
///
/// Errors: `svid-key`, `svid-expired`.
pub(crate) fn own_token(tokens: &Tokens, identity: &Identity, ctx: &Ctx) -> Result<(CallToken, Arc<Svid>)> {
    let now = ctx.component().now();
    let shown = ctx.peer().local.clone().filter(|svid| svid.not_after > now);
    let svid = shown.unwrap_or_else(|| identity.current().svid);
    let token = tokens
        .issue(&svid, ctx.peer().identity.as_deref(), now)
        .map_err(|error| error.context("failed to generate a token"))?;
    Ok((token, svid))
}

fn write(segment: &mut PathSegment, token: CallToken) {
    segment.token = token.token;
    segment.expires = Some(SystemTime::into(token.expires));
}

#[async_trait]
impl<A: Api> Element<A> for UpdateToken {
    fn name(&self) -> &'static str {
        "updatetoken"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        self.update(ctx, message)?;
        next.request(ctx, message).await
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        if let Err(error) = self.update(ctx, message) {
            debug!(id = message.id(), %error, "closing without a token");
        }
        next.close(ctx, message).await
    }
}

#[cfg(test)]
mod tests;
