// SPDX-License-Identifier: Apache-2.0
//! Passes the sockets of endpoints to the peer, and names them by inode in the message.
//!
//! The client half works on what is registered with the called peer, the server half on what callers find.
//! **Guarantees**: a socket leaves no later than the message that names it. An endpoint that registers gets back the
//! URL that it has sent. Only sockets are passed: a path that somebody else has registered opens nothing else to
//! those who find it. Where files cannot be passed nothing changes.
//! **Placement**: the client half behind `dial`, before `connect`; the server half before
//! [`localbypass`](super::localbypass), which knows the sockets of this node.
//! **Reads / writes**: the URL of the endpoint.
//! **On close**: the client half passes the socket as in a registration; one that is gone is no obstacle.
//! **Cost**: two or three system calls an endpoint.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use nsm_api::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
};
use tracing::debug;

use super::sockets::{open, path};
use crate::core::{Ctx, Element, Error, FilePassing, Found, Next, NseRegistry, Registration, Result, Way};

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct SendFd(Half);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    Server,
    Client,
}

impl SendFd {
    /// For what callers find.
    pub fn server() -> Self {
        Self(Half::Server)
    }

    /// For what is registered with the called peer.
    pub fn client() -> Self {
        Self(Half::Client)
    }
}

#[async_trait]
impl Element<NseRegistry> for SendFd {
    fn name(&self) -> &'static str {
        "sendfd"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        let url = message.entry.url.clone();
        let (Half::Client, Some(path), Some(files)) = (self.0, path(&url), files(ctx)) else {
            return next.request(ctx, message).await;
        };
        let (file, inode) = open(path)?;
        files.send(file).map_err(|error| unsent(&url, &error))?;
        message.entry.url = inode.to_string();
        let done = next.request(ctx, message).await;
        message.entry.url = url;
        done
    }

    async fn close(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        if let (Half::Client, Some(path), Some(files)) = (self.0, path(&message.entry.url), files(ctx))
            && let Ok((file, inode)) = open(path)
        {
            let _the_close_goes_on_without = files.send(file);
            message.entry.url = inode.to_string();
        }
        next.close(ctx, message).await
    }

    async fn find(
        &self,
        ctx: &Ctx,
        query: NetworkServiceEndpointQuery,
        next: Next<'_, NseRegistry>,
    ) -> Result<Found<NseRegistry>> {
        let found = next.find(ctx, query).await?;
        let (Half::Server, Some(files)) = (self.0, ctx.peer().files.clone()) else {
            return Ok(found);
        };
        Ok(Box::pin(found.map(move |item| pass(item?, files.as_ref()))))
    }
}

/// Passes the socket of what is found. One that cannot be opened here is left to the caller to find.
fn pass(
    mut found: NetworkServiceEndpointResponse,
    files: &dyn FilePassing,
) -> Result<NetworkServiceEndpointResponse> {
    let Some(entry) = found.network_service_endpoint.as_mut().filter(|_| !found.deleted) else {
        return Ok(found);
    };
    let Some(path) = path(&entry.url) else {
        return Ok(found);
    };
    match open(path) {
        Ok((file, inode)) => {
            files.send(file).map_err(|error| unsent(&entry.url, &error))?;
            entry.url = inode.to_string();
        }
        Err(error) => debug!(%error, endpoint = entry.name, "the endpoint's socket cannot be passed"),
    }
    Ok(found)
}

fn files(ctx: &Ctx) -> Option<Arc<dyn FilePassing>> {
    ctx.store().get::<Way<NseRegistry>>()?.0.peer().files.clone()
}

fn unsent(url: &str, error: &std::io::Error) -> Error {
    Error::unavailable("fd-unsent", format!("failed to send a file {url}: {error}"))
}

#[cfg(test)]
mod tests;
