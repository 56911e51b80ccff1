// SPDX-License-Identifier: Apache-2.0
//! The gRPC services of the wire contract, answered by chains.
//!
//! **Guarantees**: a chain sees who calls (as TLS has proven it), the token of the call, and until when the caller
//! waits. When the caller gives up, the context of the call is cancelled; the chain is not cut off, as `begin` runs it
//! in the task of the connection. An error keeps its code and reason. A stream ends with its trailers when the program
//! ends: a stream that is cut off reads as cancelled to clients of the reference, who then never heal.
//! **Cost**: a few µs a call.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use nsm_api::connection::monitor_connection_server::MonitorConnection;
use nsm_api::connection::{Connection, ConnectionEvent, MonitorScopeSelector};
use nsm_api::networkservice::NetworkServiceRequest;
use nsm_api::networkservice::network_service_server::NetworkService as NetworkServiceApi;
use nsm_api::registry::network_service_endpoint_registry_server::NetworkServiceEndpointRegistry;
use nsm_api::registry::network_service_registry_server::NetworkServiceRegistry;
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse, NetworkServiceQuery, NetworkServiceResponse,
};
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use super::{grpcmetadata, metadata};
use crate::core::traces::Side;
use crate::core::{
    Api, Chain, Component, Ctx, Error, Message, NetworkService, NsRegistry, NseRegistry, Peer, Registration,
    Request, Result,
};
use crate::networkservice::monitor::link::OfLink;
use crate::registry::updatepath::NoPath;

/// A chain as the implementation of a service.
#[derive(Clone)]
pub(crate) struct Served<A: Api> {
    component: Component,
    chain: Chain<A>,
}

/// What a stream of answers is to the gRPC implementation.
type Items<T> = BoxStream<'static, Result<T, Status>>;

impl<A: Api> Served<A> {
    pub(crate) fn new(component: &Component, chain: Chain<A>) -> Self {
        Self {
            component: component.clone(),
            chain,
        }
    }

    /// The circumstances of a call. The connection that it came by has left its peer in the extensions.
    fn arrive<T>(&self, call: tonic::Request<T>) -> (Ctx, MetadataMap, T) {
        let (metadata, extensions, message) = call.into_parts();
        let peer = Peer {
            token: metadata::token(&metadata),
            ..extensions.get::<Peer>().cloned().unwrap_or_default()
        };
        let ctx = Ctx::new(&self.component, peer, metadata::deadline(&metadata));
        let ctx = ctx.traced(metadata::trace(&metadata));
        (ctx, metadata, message)
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message) -> Result<(), Status> {
        let gone = ctx.cancelled().clone().drop_guard();
        let (ctx, span) = ctx.spanned(Side::Server, A::CALLS[0]);
        let done = self.chain.request(&ctx, message).await;
        if let Some(span) = span {
            span.end(message.id(), &done);
        }
        drop(gone.disarm());
        done.map_err(|error| self.status(&error))
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message) -> Result<(), Status> {
        let gone = ctx.cancelled().clone().drop_guard();
        let (ctx, span) = ctx.spanned(Side::Server, A::CALLS[1]);
        let done = self.chain.close(&ctx, message).await;
        if let Some(span) = span {
            span.end(message.id(), &done);
        }
        drop(gone.disarm());
        done.map_err(|error| self.status(&error))
    }

    async fn find(&self, call: tonic::Request<A::Query>) -> Result<Response<Items<A::Found>>, Status> {
        let (ctx, metadata, query) = self.arrive(call);
        if metadata::has_link_monitor(&metadata) {
            ctx.call().insert(OfLink);
        }
        let gone = ctx.cancelled().clone().drop_guard();
        let (ctx, span) = ctx.spanned(Side::Server, A::CALLS[2]);
        let found = self.chain.find(&ctx, query).await;
        if let Some(span) = span {
            span.end("", &found);
        }
        let found = found.map_err(|error| self.status(&error))?;
        let hop = self.component.clone();
        let items = found.map(move |item| {
            let _with_the_stream = &gone;
            item.map_err(|error| error.to_status(hop.name()))
        });
        let end = self.component.shutdown().clone().cancelled_owned();
        Ok(Response::new(items.take_until(end).boxed()))
    }

    fn status(&self, error: &Error) -> Status {
        error.to_status(self.component.name())
    }

    /// A registration and its path, from the message and the header. [`NoPath`] tells that there was none.
    fn registration<T>(
        &self,
        ctx: &Ctx,
        metadata: &MetadataMap,
        entry: T,
    ) -> Result<Registration<T>, Status> {
        let path = grpcmetadata::find(metadata).map_err(|error| self.status(&error))?;
        if path.is_none() {
            ctx.call().insert(NoPath);
        }
        let path = path.unwrap_or_default();
        Ok(Registration { entry, path })
    }

    /// The answer, with its path in the header.
    fn answer<T>(&self, answer: T, path: &nsm_api::connection::Path) -> Result<Response<T>, Status> {
        let mut response = Response::new(answer);
        grpcmetadata::write(response.metadata_mut(), path).map_err(|error| self.status(&error))?;
        Ok(response)
    }
}

/// Keeps the id that the caller suggests for the elements to find.
fn suggested(ctx: &Ctx, metadata: &MetadataMap) {
    if let Some(id) = metadata::segment_id(metadata) {
        ctx.call().insert(id);
    }
}

#[async_trait]
impl NetworkServiceApi for Served<NetworkService> {
    async fn request(
        &self,
        call: tonic::Request<NetworkServiceRequest>,
    ) -> Result<Response<Connection>, Status> {
        let (ctx, metadata, message) = self.arrive(call);
        suggested(&ctx, &metadata);
        let mut message = Request {
            connection: message.connection.unwrap_or_default(),
            mechanism_preferences: message.mechanism_preferences,
        };
        self.request(&ctx, &mut message).await?;
        let mut answer = Response::new(message.connection);
        metadata::set_link_monitor(answer.metadata_mut());
        Ok(answer)
    }

    async fn close(&self, call: tonic::Request<Connection>) -> Result<Response<()>, Status> {
        let (ctx, metadata, connection) = self.arrive(call);
        suggested(&ctx, &metadata);
        let mut message = Request {
            connection,
            mechanism_preferences: Vec::new(),
        };
        self.close(&ctx, &mut message).await?;
        Ok(Response::new(()))
    }
}

#[async_trait]
impl MonitorConnection for Served<NetworkService> {
    type MonitorConnectionsStream = Items<ConnectionEvent>;

    async fn monitor_connections(
        &self,
        call: tonic::Request<MonitorScopeSelector>,
    ) -> Result<Response<Items<ConnectionEvent>>, Status> {
        self.find(call).await
    }
}

#[async_trait]
impl NetworkServiceEndpointRegistry for Served<NseRegistry> {
    type FindStream = Items<NetworkServiceEndpointResponse>;

    async fn register(
        &self,
        call: tonic::Request<NetworkServiceEndpoint>,
    ) -> Result<Response<NetworkServiceEndpoint>, Status> {
        let (ctx, metadata, entry) = self.arrive(call);
        let mut message = self.registration(&ctx, &metadata, entry)?;
        self.request(&ctx, &mut message).await?;
        self.answer(message.entry, &message.path)
    }

    async fn unregister(&self, call: tonic::Request<NetworkServiceEndpoint>) -> Result<Response<()>, Status> {
        let (ctx, metadata, entry) = self.arrive(call);
        let mut message = self.registration(&ctx, &metadata, entry)?;
        self.close(&ctx, &mut message).await?;
        self.answer((), &message.path)
    }

    async fn find(
        &self,
        call: tonic::Request<NetworkServiceEndpointQuery>,
    ) -> Result<Response<Items<NetworkServiceEndpointResponse>>, Status> {
        self.find(call).await
    }
}

#[async_trait]
impl NetworkServiceRegistry for Served<NsRegistry> {
    type FindStream = Items<NetworkServiceResponse>;

    async fn register(&self, call: tonic::Request<Service>) -> Result<Response<Service>, Status> {
        let (ctx, metadata, entry) = self.arrive(call);
        let mut message = self.registration(&ctx, &metadata, entry)?;
        self.request(&ctx, &mut message).await?;
        self.answer(message.entry, &message.path)
    }

    async fn unregister(&self, call: tonic::Request<Service>) -> Result<Response<()>, Status> {
        let (ctx, metadata, entry) = self.arrive(call);
        let mut message = self.registration(&ctx, &metadata, entry)?;
        self.close(&ctx, &mut message).await?;
        self.answer((), &message.path)
    }

    async fn find(
        &self,
        call: tonic::Request<NetworkServiceQuery>,
    ) -> Result<Response<Items<NetworkServiceResponse>>, Status> {
        self.find(call).await
    }
}
