// SPDX-License-Identifier: Apache-2.0
//! The seam between chains and the wire: real gRPC on one side, a model on the other in simulations.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Api, Ctx, Found, Peer, Result, Store};

/// Opens ways to other components.
#[async_trait]
pub trait Dialer<A: Api>: Send + Sync + 'static {
    /// A way to the component that listens on `url`, new or shared with others.
    ///
    /// Errors: `bad-url`, `peer-unreachable`, `deadline`.
    async fn dial(&self, url: &str, deadline: Instant) -> Result<Arc<dyn Remote<A>>>;
}

/// A component that can be called.
#[async_trait]
pub trait Remote<A: Api>: Send + Sync + 'static {
    /// The component, as the transport has proven it, and the way to pass files to it.
    fn peer(&self) -> &Peer;

    /// Requests; the answer is the peer's.
    async fn request(&self, ctx: &Ctx, message: &A::Message) -> Result<A::Message>;

    /// Closes.
    async fn close(&self, ctx: &Ctx, message: &A::Message) -> Result<()>;

    /// What is kept for as long as this very way is open, by all whose calls take it; absent where nothing can be.
    fn store(&self) -> Option<&Store> {
        None
    }

    /// Finds or monitors. The deadline of `ctx` bounds the opening of the stream, not the stream.
    async fn find(&self, ctx: &Ctx, query: A::Query) -> Result<Found<A>>;
}

/// The way that the calls of a connection take out of this process. `dial` opens it and keeps it in [`Ctx::store`];
/// `connect`, `heal`, `monitor`, `sendfd` and `recvfd` use it.
pub struct Way<A: Api>(pub Arc<dyn Remote<A>>);

impl<A: Api> Clone for Way<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
