// SPDX-License-Identifier: Apache-2.0
//! The calls that chains make over a link.
//!
//! **Guarantees**: every call carries a token for the server, signed with the SVID that this very connection has
//! presented. A unary call ends at the deadline of its context, which it tells the server, and is cancelled there when
//! the context is. Of `find` the deadline bounds the opening only; dropping the stream cancels it.
//! The answer to a network service request keeps the preferences that were sent, which the wire does not return.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use http::Uri;
use http::uri::PathAndQuery;
use nsm_api::codec::Packed;
use nsm_api::connection::monitor_connection_client::MonitorConnectionClient;
use nsm_api::registry::network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient;
use nsm_api::registry::network_service_registry_client::NetworkServiceRegistryClient;
use prost::Message as _;
use tokio::time::sleep;
use tonic::client::Grpc;
use tonic::{Response, Status, Streaming};
use tracing::debug;

use super::link::Link;
use super::{grpcmetadata, metadata};
use crate::core::{
    Api, Ctx, Error, Found, NetworkService, NsRegistry, NseRegistry, Peer, Registration, Remote, Request,
    Result, Store, append,
};
use crate::identity::Tokens;
use crate::networkservice::monitor::link::{OfLink, ServesLinks};

/// What the reference's clients send for unix sockets; nobody checks it.
pub(crate) fn origin() -> Uri {
    Uri::from_static("https://localhost")
}

/// How long a server may be silent before its stream counts as open.
const SILENCE: Duration = Duration::from_millis(200);

/// The calls of connections.
const REQUEST: &str = "/networkservice.NetworkService/Request";
const CLOSE: &str = "/networkservice.NetworkService/Close";

/// A request that has been through a few hops fits into so many bytes.
const USUAL: usize = 4096;

/// A request as it is sent: a `NetworkServiceRequest`, whose fields 1 and 2 are messages (tags 0x0a and 0x12).
fn whole(request: &Request) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL);
    bytes.push(0x0a);
    append(&request.connection, &mut bytes);
    for mechanism in &request.mechanism_preferences {
        bytes.push(0x12);
        append(mechanism, &mut bytes);
    }
    bytes
}

/// A stream that is being opened.
type Opening<T> = BoxFuture<'static, Result<Response<Streaming<T>>, Status>>;

/// See the [module](self).
pub(crate) struct Caller {
    link: Arc<Link>,
    tokens: Tokens,
    waits_for: String,
    store: Store,
}

impl Caller {
    pub(crate) fn new(link: Link, tokens: Tokens) -> Self {
        let waits_for = format!("get an answer from {}", link.target());
        Self {
            link: Arc::new(link),
            tokens,
            waits_for,
            store: Store::default(),
        }
    }

    /// What it calls over.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    fn signed<T>(&self, ctx: &Ctx, message: T) -> Result<tonic::Request<T>> {
        let Peer { identity, local, .. } = self.link.peer();
        let local = local
            .as_ref()
            .ok_or_else(|| Error::internal("token", "the connection has no identity"))?;
        let token = self
            .tokens
            .issue(local, identity.as_deref(), ctx.component().now())?;
        let mut request = tonic::Request::new(message);
        metadata::set_token(request.metadata_mut(), &token)?;
        if let Some(trace) = ctx.trace() {
            metadata::set_trace(request.metadata_mut(), trace);
        }
        Ok(request)
    }

    fn unary<T>(&self, ctx: &Ctx, message: T) -> Result<tonic::Request<T>> {
        let mut request = self.signed(ctx, message)?;
        request.set_timeout(ctx.remaining());
        Ok(request)
    }

    /// Calls `method` for a connection, with the id that we suggest to the next hop.
    async fn connection<R>(&self, ctx: &Ctx, method: &'static str, message: Vec<u8>) -> Result<R>
    where
        R: prost::Message + Default + 'static,
    {
        let mut request = self.unary(ctx, Bytes::from(message))?;
        if let Some(id) = ctx.call().get() {
            metadata::set_segment_id(request.metadata_mut(), &id);
        }
        let mut grpc = Grpc::with_origin(self.link.transport(), origin());
        let answer = Box::pin(async move {
            grpc.ready()
                .await
                .map_err(|error| Status::unknown(error.to_string()))?;
            grpc.unary(request, PathAndQuery::from_static(method), Packed::default())
                .await
        });
        let answer = self.answer(ctx, answer).await?;
        if metadata::has_link_monitor(answer.metadata()) && !self.store.has::<ServesLinks>() {
            self.store.insert(ServesLinks);
        }
        Ok(answer.into_inner())
    }

    fn registration<T: Clone>(&self, ctx: &Ctx, registration: &Registration<T>) -> Result<tonic::Request<T>> {
        let mut request = self.unary(ctx, registration.entry.clone())?;
        grpcmetadata::write(request.metadata_mut(), &registration.path)?;
        Ok(request)
    }

    async fn answer<R>(
        &self,
        ctx: &Ctx,
        answer: Pin<Box<impl Future<Output = Result<Response<R>, Status>>>>,
    ) -> Result<Response<R>> {
        let answer = async { answer.await.map_err(|status| self.link.failed(status)) };
        ctx.bounded(&self.waits_for, answer).await
    }

    /// The stream that `opening` opens. A server of the reference sends its headers with the first item only, so one
    /// that watches and finds nothing yet is silent: the stream then opens while it is read.
    async fn found<A: Api>(&self, ctx: &Ctx, mut opening: Opening<A::Found>) -> Result<Found<A>> {
        let opened = async {
            tokio::select! {
                biased;
                opened = &mut opening => Ok(Some(opened.map_err(|status| self.link.failed(status))?)),
                () = sleep(SILENCE) => Ok(None),
            }
        };
        let opened = ctx.bounded(&self.waits_for, opened).await?;
        let link = Arc::clone(&self.link);
        let failed = move |status| link.failed(status);
        Ok(match opened {
            Some(opened) => opened.into_inner().map_err(failed).boxed(),
            None => opening
                .map_ok(Response::into_inner)
                .try_flatten_stream()
                .map_err(failed)
                .boxed(),
        })
    }
}

#[async_trait]
impl Remote<NetworkService> for Caller {
    fn peer(&self) -> &Peer {
        self.link.peer()
    }

    async fn request(&self, ctx: &Ctx, message: &Request) -> Result<Request> {
        Ok(Request {
            connection: self.connection(ctx, REQUEST, whole(message)).await?,
            mechanism_preferences: message.mechanism_preferences.clone(),
        })
    }

    async fn close(&self, ctx: &Ctx, message: &Request) -> Result<()> {
        self.connection(ctx, CLOSE, message.connection.encode_to_vec())
            .await
    }

    fn store(&self) -> Option<&Store> {
        Some(&self.store)
    }

    async fn find(&self, ctx: &Ctx, query: <NetworkService as Api>::Query) -> Result<Found<NetworkService>> {
        let mut client = MonitorConnectionClient::with_origin(self.link.transport(), origin());
        let mut query = self.signed(ctx, query)?;
        if ctx.call().has::<OfLink>() {
            metadata::set_link_monitor(query.metadata_mut());
        }
        let opening = Box::pin(async move { client.monitor_connections(query).await });
        self.found::<NetworkService>(ctx, opening).await
    }
}

#[async_trait]
impl Remote<NseRegistry> for Caller {
    fn peer(&self) -> &Peer {
        self.link.peer()
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &<NseRegistry as Api>::Message,
    ) -> Result<<NseRegistry as Api>::Message> {
        let mut client = NetworkServiceEndpointRegistryClient::with_origin(self.link.transport(), origin());
        let sent = message.path.clone();
        let answer = self
            .answer(ctx, Box::pin(client.register(self.registration(ctx, message)?)))
            .await?;
        Ok(registered(answer, sent))
    }

    async fn close(&self, ctx: &Ctx, message: &<NseRegistry as Api>::Message) -> Result<()> {
        let mut client = NetworkServiceEndpointRegistryClient::with_origin(self.link.transport(), origin());
        self.answer(ctx, Box::pin(client.unregister(self.registration(ctx, message)?)))
            .await?;
        Ok(())
    }

    async fn find(&self, ctx: &Ctx, query: <NseRegistry as Api>::Query) -> Result<Found<NseRegistry>> {
        let mut client = NetworkServiceEndpointRegistryClient::with_origin(self.link.transport(), origin());
        let query = self.signed(ctx, query)?;
        let opening = Box::pin(async move { client.find(query).await });
        self.found::<NseRegistry>(ctx, opening).await
    }
}

#[async_trait]
impl Remote<NsRegistry> for Caller {
    fn peer(&self) -> &Peer {
        self.link.peer()
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &<NsRegistry as Api>::Message,
    ) -> Result<<NsRegistry as Api>::Message> {
        let mut client = NetworkServiceRegistryClient::with_origin(self.link.transport(), origin());
        let sent = message.path.clone();
        let answer = self
            .answer(ctx, Box::pin(client.register(self.registration(ctx, message)?)))
            .await?;
        Ok(registered(answer, sent))
    }

    async fn close(&self, ctx: &Ctx, message: &<NsRegistry as Api>::Message) -> Result<()> {
        let mut client = NetworkServiceRegistryClient::with_origin(self.link.transport(), origin());
        self.answer(ctx, Box::pin(client.unregister(self.registration(ctx, message)?)))
            .await?;
        Ok(())
    }

    async fn find(&self, ctx: &Ctx, query: <NsRegistry as Api>::Query) -> Result<Found<NsRegistry>> {
        let mut client = NetworkServiceRegistryClient::with_origin(self.link.transport(), origin());
        let query = self.signed(ctx, query)?;
        let opening = Box::pin(async move { client.find(query).await });
        self.found::<NsRegistry>(ctx, opening).await
    }
}

/// The answer with the path that came in its header; with the one that was sent when there is none, as old registries
/// answer.
fn registered<T>(answer: Response<T>, sent: nsm_api::connection::Path) -> Registration<T> {
    let returned = grpcmetadata::read(answer.metadata()).unwrap_or_else(|error| {
        debug!(%error, "the path of an answer is ignored");
        Default::default()
    });
    let path = if returned.path_segments.is_empty() {
        sent
    } else {
        returned
    };
    Registration {
        entry: answer.into_inner(),
        path,
    }
}

#[cfg(test)]
mod tests {
    use nsm_api::connection::Mechanism;
    use nsm_api::networkservice::NetworkServiceRequest;

    use super::*;

    #[test]
    fn what_is_sent_is_a_network_service_request() {
        let mut request = crate::core::testing::request();
        for kinds in [&[][..], &["KERNEL", "", "MEMIF"]] {
            let mechanism = |kind: &&str| Mechanism {
                r#type: kind.to_string(),
                ..Default::default()
            };
            request.mechanism_preferences = kinds.iter().map(mechanism).collect();
            let expected = NetworkServiceRequest {
                connection: Some(request.connection.clone()),
                mechanism_preferences: request.mechanism_preferences.clone(),
            };
            assert_eq!(
                NetworkServiceRequest::decode(&*whole(&request)).as_ref(),
                Ok(&expected)
            );
        }
    }
}
