// SPDX-License-Identifier: Apache-2.0
//! Offers to a peer on this node only local mechanisms, and to any other only remote ones.
//!
//! **Guarantees**: a connection that has left the node, or come back to it, chooses its mechanism anew: the one that it
//! had cannot lead there.
//! **Placement**: behind whatever chooses where the call goes and whatever offers mechanisms, before `connect`.
//! **Reads / writes**: [`NextUrl`]; without one, whether the peer of the [`Way`] takes files; without either nothing
//! changes. The preferences, which come back as they were; the mechanism, which goes if it is of the other class.
//! **Cost**: a copy of the preferences a request.

use async_trait::async_trait;
use nsm_api::mechanism::{LOCAL, REMOTE};

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result, Way};
use crate::elements::clienturl::NextUrl;

/// See the [module](self).
pub struct FilterMechanisms;

/// Whether the call stays on this node, if it is known.
pub(super) fn is_local(ctx: &Ctx) -> Option<bool> {
    if let Some(NextUrl(url)) = ctx.call().get() {
        return Some(url.starts_with("unix:") || url.starts_with("inode:"));
    }
    let way = ctx.store().get::<Way<NetworkService>>()?;
    Some(way.0.peer().files.is_some())
}

#[async_trait]
impl Element<NetworkService> for FilterMechanisms {
    fn name(&self) -> &'static str {
        "filtermechanisms"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let Some(local) = is_local(ctx) else {
            return next.request(ctx, request).await;
        };
        let offered = request.mechanism_preferences.clone();
        let cls = if local { LOCAL } else { REMOTE };
        request
            .mechanism_preferences
            .retain(|mechanism| mechanism.cls == cls);
        let other = if local { REMOTE } else { LOCAL };
        request
            .connection
            .mechanism
            .take_if(|mechanism| mechanism.cls == other);
        let done = next.request(ctx, request).await;
        request.mechanism_preferences = offered;
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nsm_api::connection::Mechanism;

    use super::super::files::testing::{Pipe, Silent, transport_peer};
    use super::*;
    use crate::core::Peer;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| FilterMechanisms, request()).await;
    }

    /// The classes that are offered of local and remote ones.
    async fn offered(url: Option<&str>, peer: Option<Peer>) -> Vec<String> {
        let (probe, connection) = (Probe::new(), Connection::new());
        let ctx = connection.first();
        url.map(|url| ctx.call().insert(NextUrl(url.into())));
        peer.map(|peer| {
            connection
                .store
                .insert(Way::<NetworkService>(Arc::new(Silent(peer))))
        });
        let mut request = request();
        let mechanism = |cls: &str| Mechanism {
            cls: cls.into(),
            ..Default::default()
        };
        request.mechanism_preferences = ["LOCAL", "REMOTE", "OTHER"].map(mechanism).into();
        let original = request.clone();
        before(FilterMechanisms, &probe)
            .request(&ctx, &mut request)
            .await
            .unwrap();
        assert_eq!(request, original, "they come back as they were");
        let seen = probe.requests().remove(0).mechanism_preferences;
        seen.into_iter().map(|mechanism| mechanism.cls).collect()
    }

    #[tokio::test]
    async fn c97_local_mechanisms_stay_on_the_node_and_remote_ones_leave_it() {
        assert_eq!(offered(Some("unix:///run/nse.sock"), None).await, ["LOCAL"]);
        assert_eq!(offered(Some("inode://4/5"), None).await, ["LOCAL"]);
        assert_eq!(offered(Some("tcp://10.0.0.1:5001"), None).await, ["REMOTE"]);
        assert_eq!(offered(Some("10.0.0.1:5001"), None).await, ["REMOTE"]);
    }

    #[tokio::test]
    async fn without_a_url_the_peer_decides_and_without_a_peer_nothing_is_filtered() {
        assert_eq!(offered(None, Some(Pipe::new().peer())).await, ["LOCAL"]);
        assert_eq!(offered(None, Some(transport_peer())).await, ["REMOTE"]);
        assert_eq!(offered(None, None).await.len(), 3);
    }

    #[tokio::test]
    async fn a_connection_that_leaves_the_node_or_comes_back_chooses_its_mechanism_anew() {
        for (url, kept) in [
            ("unix:///run/nse.sock", "LOCAL"),
            ("tcp://10.0.0.1:5001", "REMOTE"),
        ] {
            for cls in ["LOCAL", "REMOTE", "OTHER"] {
                let (probe, connection) = (Probe::new(), Connection::new());
                let ctx = connection.again();
                ctx.call().insert(NextUrl(url.into()));
                let mut request = request();
                request.connection.mechanism = Some(Mechanism {
                    cls: cls.into(),
                    ..Default::default()
                });
                let chain = before(FilterMechanisms, &probe);
                chain.request(&ctx, &mut request).await.unwrap();
                let is_kept = probe.requests()[0].connection.mechanism.is_some();
                assert_eq!(is_kept, cls == kept || cls == "OTHER", "{cls} to {url}");
            }
        }
    }
}
