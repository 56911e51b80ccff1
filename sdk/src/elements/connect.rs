// SPDX-License-Identifier: Apache-2.0
//! Sends calls to another component: [`Connect`] ends a client chain, [`ConnectServer`] joins one to a server chain.
//!
//! **Guarantees**: a bridge that fails after the client chain has succeeded closes what that established; a close
//! reaches both sides whatever one of them answers.
//! **Placement**: [`Connect`] last, behind `dial` or whatever leaves a [`Way`]; [`ConnectServer`] where requests have
//! been prepared for the next hop, elements that prepare the answer behind it.
//! **Reads / writes**: the [`Way`] in [`Ctx::call`], else in [`Ctx::store`]; [`LocalOnly`] in [`Ctx::call`].
//! **On failure**: of the rest of a server chain, what the client chain established is closed, except on a refresh,
//! which leaves what was there.
//! **On close**: without a way nothing is sent, for nothing was established.

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use tracing::debug;

use crate::core::traces::Side;
use crate::core::{Api, Chain, Ctx, Element, Error, Found, Message, Next, Result, Way};

/// In [`Ctx::call`] of a close: release what this component holds, and tell nobody.
#[derive(Clone, Copy, Debug)]
pub struct LocalOnly;

/// The end of a client chain: sends calls by the [`Way`]. See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Connect;

fn way<A: Api>(ctx: &Ctx) -> Option<Way<A>> {
    ctx.call().get().or_else(|| ctx.store().get())
}

fn no_way(name: &str) -> Error {
    let text =
        format!("no grpc.ClientConnInterface provided: nothing has chosen where this {name} call goes");
    Error::internal("no-way", text)
}

#[async_trait]
impl<A: Api> Element<A> for Connect {
    fn name(&self) -> &'static str {
        "connect"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, _: Next<'_, A>) -> Result<()> {
        let way = way::<A>(ctx).ok_or_else(|| no_way(A::NAME))?;
        let (ctx, span) = ctx.spanned(Side::Client, A::CALLS[0]);
        let answer = way.0.request(&ctx, message);
        let answer = ctx.bounded("get an answer of the next hop", answer).await;
        if let Some(span) = span {
            span.end(message.id(), &answer);
        }
        *message = answer?;
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, _: Next<'_, A>) -> Result<()> {
        match way::<A>(ctx) {
            Some(way) if !ctx.call().has::<LocalOnly>() => {
                let (ctx, span) = ctx.spanned(Side::Client, A::CALLS[1]);
                let closed = way.0.close(&ctx, message);
                let closed = ctx.bounded("tell the next hop to close", closed).await;
                if let Some(span) = span {
                    span.end(message.id(), &closed);
                }
                closed
            }
            _ => {
                debug!(id = message.id(), "closed without telling anybody");
                Ok(())
            }
        }
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, _: Next<'_, A>) -> Result<Found<A>> {
        let way = way::<A>(ctx).ok_or_else(|| no_way(A::NAME))?;
        let (ctx, span) = ctx.spanned(Side::Client, A::CALLS[2]);
        let opened = way.0.find(&ctx, query);
        let opened = ctx.bounded("open a stream of the next hop", opened).await;
        if let Some(span) = span {
            span.end("", &opened);
        }
        opened
    }
}

/// Runs a client chain before the rest of a server chain. See the [module](self).
pub struct ConnectServer<A: Api> {
    client: Chain<A>,
}

impl<A: Api> ConnectServer<A> {
    /// A bridge to `client`.
    pub fn new(client: Chain<A>) -> Self {
        Self { client }
    }
}

#[async_trait]
impl<A: Api> Element<A> for ConnectServer<A> {
    fn name(&self) -> &'static str {
        "connect"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        self.client.request(ctx, message).await?;
        let Err(error) = next.request(ctx, message).await else {
            return Ok(());
        };
        if !ctx.is_established()
            && let Err(undo) = self.client.close(&ctx.postponed(), message).await
        {
            return Err(error.context(format!("connection closed with error: {undo}")));
        }
        Err(error)
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let client = self.client.close(ctx, &mut message.clone()).await;
        let server = next.close(ctx, message).await;
        match (client, server) {
            (Err(error), Err(server)) => Err(error.context(format!("errors during client close: {server}"))),
            (Err(error), Ok(())) => Err(error.context("errors during client close")),
            (Ok(()), server) => server,
        }
    }

    /// What the client chain finds, and then what the rest of this chain does.
    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        let found = self.client.find(ctx, query.clone()).await?;
        let (rest, ctx) = (next.detach(), ctx.clone());
        let more = futures::stream::once(async move { rest.find(&ctx, query).await }).try_flatten();
        Ok(found.chain(more).boxed())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nsm_api::registry::{NetworkServiceEndpoint, NetworkServiceEndpointResponse};

    use super::*;
    use crate::core::testing::{Connection, Probe, end, request, standard_cases};
    use crate::core::{NetworkService, NseRegistry, Registration};

    type Network = Chain<NetworkService>;

    /// A bridge to one probe before another, and both.
    fn bridge() -> (Network, Arc<Probe<NetworkService>>, Arc<Probe<NetworkService>>) {
        let (client, server) = (Probe::new(), Probe::new());
        let bridge = ConnectServer::new(crate::chain![Heeds, Arc::clone(&client)]);
        (crate::chain![bridge, Arc::clone(&server)], client, server)
    }

    /// Closes nothing when the caller has gone.
    struct Heeds;

    #[async_trait]
    impl Element<NetworkService> for Heeds {
        fn name(&self) -> &'static str {
            "heeds"
        }
        async fn close(
            &self,
            ctx: &Ctx,
            message: &mut crate::core::Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            if ctx.cancelled().is_cancelled() {
                return Err(Error::internal("cancelled", "the caller has gone"));
            }
            next.close(ctx, message).await
        }
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| ConnectServer::new(crate::chain![]), request()).await;
        standard_cases::<NseRegistry, _>(|| ConnectServer::new(crate::chain![]), Registration::default())
            .await;
    }

    #[tokio::test]
    async fn a_client_sends_by_the_way_of_its_connection() {
        let (peer, connection) = (Probe::<NetworkService>::new(), Connection::new());
        let chain: Network = crate::chain![Connect];
        let error = chain
            .request(&connection.first(), &mut request())
            .await
            .expect_err("no way");
        assert!(error.text().contains("no grpc.ClientConnInterface provided"));
        chain
            .close(&connection.first(), &mut request())
            .await
            .expect("nothing to close");
        connection.store.insert(end(crate::chain![Arc::clone(&peer)]));
        chain
            .request(&connection.first(), &mut request())
            .await
            .expect("sent");
        chain
            .close(&connection.again(), &mut request())
            .await
            .expect("sent");
        assert_eq!((peer.requests().len(), peer.closes().len()), (1, 1));
    }

    #[tokio::test]
    async fn a_local_close_tells_nobody() {
        let (peer, connection) = (Probe::<NetworkService>::new(), Connection::new());
        connection.store.insert(end(crate::chain![Arc::clone(&peer)]));
        let chain: Network = crate::chain![Connect];
        let ctx = connection.again();
        ctx.call().insert(LocalOnly);
        chain.close(&ctx, &mut request()).await.expect("closed");
        assert!(peer.seen().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_left_at_the_deadline() {
        let (peer, connection) = (Probe::<NetworkService>::new(), Connection::new());
        let _held = peer.hold();
        connection.store.insert(end(crate::chain![Arc::clone(&peer)]));
        let chain: Network = crate::chain![Connect];
        let error = chain
            .request(&connection.first(), &mut request())
            .await
            .expect_err("silence");
        assert_eq!(error.reason(), "deadline");
    }

    #[tokio::test]
    async fn c99_a_bridge_that_fails_behind_its_client_closes_the_client() {
        let (chain, client, server) = bridge();
        server.answer(|_| Err(Error::exhausted("told-so", "told to fail")));
        let ctx = Connection::new().first();
        ctx.cancelled().cancel();
        let error = chain
            .request(&ctx, &mut request())
            .await
            .expect_err("told to fail");
        assert_eq!((error.reason(), error.text()), ("told-so", "told to fail"));
        assert_eq!((client.requests().len(), client.closes().len()), (1, 1));
        assert!(server.closes().is_empty());
    }

    #[tokio::test]
    async fn a_failed_refresh_leaves_the_client() {
        let (chain, client, server) = bridge();
        server.answer(|_| Err(Error::exhausted("told-so", "told to fail")));
        let ctx = Connection::new().again();
        chain
            .request(&ctx, &mut request())
            .await
            .expect_err("told to fail");
        assert!(client.closes().is_empty());
    }

    #[tokio::test]
    async fn a_client_that_fails_ends_the_request() {
        let (chain, client, server) = bridge();
        client.answer(|_| Err(Error::exhausted("told-so", "told to fail")));
        let ctx = Connection::new().first();
        chain
            .request(&ctx, &mut request())
            .await
            .expect_err("told to fail");
        assert!(server.seen().is_empty() && client.closes().is_empty());
    }

    #[tokio::test]
    async fn a_close_reaches_both_sides() {
        let (chain, client, server) = bridge();
        client.fail_closes(Some(Error::unavailable("told-so", "the client is told to fail")));
        let ctx = Connection::new().again();
        let error = chain.close(&ctx, &mut request()).await.expect_err("told to fail");
        assert_eq!(
            error.text(),
            "errors during client close: the client is told to fail"
        );
        server.fail_closes(Some(Error::internal("other", "so is the server")));
        let error = chain.close(&ctx, &mut request()).await.expect_err("told to fail");
        assert!(error.text().contains("so is the server"), "{error}");
        assert_eq!((error.reason(), server.closes().len()), ("told-so", 2));
    }

    #[tokio::test]
    async fn a_bridge_finds_on_both_sides_in_order() {
        let endpoint = |name: &str| NetworkServiceEndpointResponse {
            network_service_endpoint: Some(NetworkServiceEndpoint {
                name: name.into(),
                ..Default::default()
            }),
            deleted: false,
        };
        let (client, server) = (Probe::<NseRegistry>::new(), Probe::new());
        client.as_ref().find(vec![endpoint("far")]);
        server.as_ref().find(vec![endpoint("near")]);
        let bridge = ConnectServer::new(crate::chain![Arc::clone(&client)]);
        let chain: Chain<NseRegistry> = crate::chain![bridge, Arc::clone(&server)];
        let found = chain
            .find(&Connection::new().first(), Default::default())
            .await
            .expect("found");
        let found: Vec<_> = found.try_collect().await.expect("no errors");
        assert_eq!(found, [endpoint("far"), endpoint("near")]);
    }
}
