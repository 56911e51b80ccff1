// SPDX-License-Identifier: Apache-2.0
//! Parties with identities, for tests of what is built on them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nsm_api::connection::PathSegment;

use super::{Credentials, Identity, Issuer, Svid, Tokens};
use crate::core::{Api, CallToken, Component, Ctx, Found, Peer, PeerIdentity, Remote, Result, Way};

/// How long the tokens of tests live.
pub(crate) const LIFE: Duration = Duration::from_secs(600);

/// The paths of a workload, and of hops of the mesh.
pub(crate) const NSE: &str = "/ns/default/pod/nse";
pub(crate) const OTHER: &str = "/ns/default/pod/other";
pub(crate) const NSMGR: &str = "/ns/nsm-system/pod/nsmgr";
pub(crate) const REGISTRY: &str = "/ns/nsm-system/pod/registry";

/// Somebody with an identity.
pub(crate) struct Party {
    pub(crate) credentials: Credentials,
    pub(crate) tokens: Tokens,
}

/// Parties of one trust domain, `k8s.nsm`, under these paths.
pub(crate) fn parties<const N: usize>(paths: [&str; N]) -> [Party; N] {
    let issuer = Issuer::new(&Component::new("ca"), "k8s.nsm").expect("a new authority");
    paths.map(|path| Party {
        credentials: issuer.issue(path).expect("a valid path"),
        tokens: Tokens::new(LIFE),
    })
}

pub(crate) fn now() -> SystemTime {
    Component::new("now").now()
}

impl Party {
    pub(crate) fn id(&self) -> &str {
        &self.svid().spiffe_id
    }

    pub(crate) fn svid(&self) -> &Arc<Svid> {
        &self.credentials.svid
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::fixed(self.credentials.clone())
    }

    /// As its peers see it.
    pub(crate) fn seen(&self) -> Arc<PeerIdentity> {
        let leaf = self.svid().certificates.first().expect("a leaf");
        Arc::new(PeerIdentity::of(leaf).expect("an SVID"))
    }

    /// Its token for `audience`.
    pub(crate) fn token(&self, audience: &Party) -> CallToken {
        self.token_at(audience, now())
    }

    /// Its token for `audience`, issued so long ago that it has expired.
    pub(crate) fn expired(&self, audience: &Party) -> CallToken {
        self.token_at(audience, now() - 2 * LIFE)
    }

    fn token_at(&self, audience: &Party, at: SystemTime) -> CallToken {
        self.tokens
            .issue(self.svid(), Some(&audience.seen()), at)
            .expect("signs")
    }

    /// How `server` sees a call by it.
    pub(crate) fn calls(&self, server: &Party) -> Peer {
        Peer {
            identity: Some(self.seen()),
            token: Some(self.token(server)),
            local: Some(Arc::clone(server.svid())),
            ..Default::default()
        }
    }

    /// Lets `ctx` take a way to it.
    pub(crate) fn serves<A: Api>(&self, ctx: &Ctx) {
        let peer = Peer {
            identity: Some(self.seen()),
            ..Default::default()
        };
        ctx.store().insert(Way::<A>(Arc::new(Server(peer))));
    }
}

/// A path segment with this name and token, whose id is the name.
pub(crate) fn segment(name: &str, token: CallToken) -> PathSegment {
    PathSegment {
        name: name.into(),
        id: name.into(),
        token: token.token,
        expires: Some(token.expires.into()),
        ..Default::default()
    }
}

/// The far end of a way, of which only the identity matters.
struct Server(Peer);

#[async_trait]
impl<A: Api> Remote<A> for Server {
    fn peer(&self) -> &Peer {
        &self.0
    }

    async fn request(&self, _: &Ctx, message: &A::Message) -> Result<A::Message> {
        Ok(message.clone())
    }

    async fn close(&self, _: &Ctx, _: &A::Message) -> Result<()> {
        Ok(())
    }

    async fn find(&self, _: &Ctx, _: A::Query) -> Result<Found<A>> {
        Ok(Box::pin(futures::stream::empty()))
    }
}
