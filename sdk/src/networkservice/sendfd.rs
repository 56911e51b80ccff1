// SPDX-License-Identifier: Apache-2.0
//! Passes the files that mechanisms name by path to the peer, and names them by inode in the message.
//!
//! The client half works on what is asked of the called peer, the server half on what the caller is answered.
//! **Guarantees**: no `file://` leaves this process towards a peer; a file leaves no later than the message that
//! names it, again with every attempt. What comes back under an inode that was sent has its path again, and a path
//! that a peer answers is refused. A request that fails has its paths again. The server half does not return to the
//! caller a file that the caller has passed.
//! **Placement**: the client half last before `connect` and behind `dial`; the server half behind the server half of
//! [`recvfd`](super::recvfd).
//! **Reads / writes**: `inodeURL` of the mechanism and of the preferences.
//! **On close**: the client half passes and names the file as in a request; a file that is gone is no obstacle.
//! **Cost**: three system calls a file; none for what the caller itself has passed.

use std::sync::Arc;

use async_trait::async_trait;

use super::files::{open, path, refuse_paths, url, urls};
use super::recvfd::Received;
use crate::core::{Ctx, Element, Error, FilePassing, NetworkService, Next, Request, Result, Way};

/// See the [module](self).
pub struct SendFd(Half);

enum Half {
    Server,
    Client,
}

/// What stood where: the path by the inode that replaced it.
type Sent = Vec<(String, String)>;

impl SendFd {
    /// For what callers are answered.
    pub fn server() -> Self {
        Self(Half::Server)
    }

    /// For what is asked of the called peer.
    pub fn client() -> Self {
        Self(Half::Client)
    }
}

#[async_trait]
impl Element<NetworkService> for SendFd {
    fn name(&self) -> &'static str {
        "sendfd"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        match self.0 {
            Half::Server => serve(ctx, request, next).await,
            Half::Client => call(ctx, request, next).await,
        }
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if matches!(self.0, Half::Client)
            && let Some(url) = url(request)
            && let Some(path) = path(url)
            && let Ok((file, inode)) = open(&path)
        {
            *url = inode.to_string();
            if let Some(files) = files(ctx) {
                let _the_close_goes_on_without = files.send(file);
            }
        }
        next.close(ctx, request).await
    }
}

async fn call(ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
    let offered = request.mechanism_preferences.clone();
    let sent = send_all(ctx, request);
    let done = match &sent {
        Ok(_) => next.request(ctx, request).await,
        Err(error) => Err(error.clone()),
    };
    request.mechanism_preferences = offered;
    let way = ctx.store().get::<Way<NetworkService>>();
    if done.is_ok() && way.is_some_and(|way| way.0.peer().identity.is_some()) {
        refuse_paths(url(request).into_iter())?;
    }
    if let (Some(url), Ok(sent)) = (url(request), sent)
        && let Some((_, original)) = sent.into_iter().find(|(inode, _)| inode == url)
    {
        *url = original;
    }
    done
}

/// Sends every file that the request names by path.
fn send_all(ctx: &Ctx, request: &mut Request) -> Result<Sent> {
    let files = files(ctx);
    let mut sent = Sent::new();
    for url in urls(request) {
        if let Some((inode, _)) = sent.iter().find(|(_, original)| original == url) {
            url.clone_from(inode);
            continue;
        }
        let Some(path) = path(url) else { continue };
        let (file, inode) = open(&path)?;
        let inode = inode.to_string();
        if !sent.iter().any(|(there, _)| *there == inode)
            && let Some(files) = &files
        {
            files.send(file).map_err(|error| unsent(url, &error))?;
        }
        let original = std::mem::replace(url, inode.clone());
        sent.push((inode, original));
    }
    Ok(sent)
}

async fn serve(ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
    next.request(ctx, request).await?;
    let Some(files) = ctx.peer().files.as_deref() else {
        return Ok(());
    };
    let Some(url) = url(request) else { return Ok(()) };
    let passed = ctx
        .store()
        .with(|received: &Received| received.inode(url))
        .flatten();
    if let Some(inode) = passed {
        *url = inode.to_string();
    } else if let Some(path) = path(url) {
        let (file, inode) = open(&path)?;
        if !ctx.store().update(|received: &mut Received| received.has(inode)) {
            files.send(file).map_err(|error| unsent(url, &error))?;
        }
        *url = inode.to_string();
    }
    Ok(())
}

fn files(ctx: &Ctx) -> Option<Arc<dyn FilePassing>> {
    ctx.store().get::<Way<NetworkService>>()?.0.peer().files.clone()
}

fn unsent(url: &str, error: &std::io::Error) -> Error {
    Error::unavailable("fd-unsent", format!("failed to send a file {url}: {error}"))
}

#[cfg(test)]
mod tests;
