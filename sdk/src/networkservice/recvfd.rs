// SPDX-License-Identifier: Apache-2.0
//! Takes the files that a peer passes beside a message, and puts paths of this process in place of their inodes.
//!
//! The server half works on what the caller names, the client half on what the called peer answers.
//! **Guarantees**: behind the server half and before the client half every `inode://` of a peer that can pass files
//! is `file:///proc/<pid>/fd/<n>`, which stays open until the connection names another file or ends; what the called
//! peer has passed stays until it has passed two others, since the message and the wire may still name it when the
//! connection goes on to another peer. The caller gets back what it sent. A path of ours that a caller names is refused. Without file passing nothing changes.
//! **Placement**: the server half before everything that opens files; the client half before the client half of
//! [`sendfd`](super::sendfd), behind `dial`.
//! **Reads / writes**: `inodeURL` of the mechanism and of the preferences.
//! **On failure**: what a failed refresh received is closed; what was there stays.
//! **On close**: the server half closes its files after everything behind has closed, the client half with the
//! connection.
//! **Cost**: one descriptor a connection and side; waits for files that are late, until the deadline.

use async_trait::async_trait;

use super::files::{Files, receive, refuse_paths, url, urls};
use crate::core::{Ctx, Element, FilePassing, Inode, NetworkService, Next, Request, Result, Way};

/// See the [module](self).
pub struct RecvFd(Half);

enum Half {
    Server,
    Client,
}

/// What callers have passed.
#[derive(Default)]
pub(super) struct Received(Files);

/// What the called peer has passed: the file that it names, and the one that it or another has named before.
#[derive(Default)]
struct Returned {
    files: Files,
    named: [Option<Inode>; 2],
}

impl Returned {
    /// Notes what is named now, closes what was named earlier than before, and says what it is called here.
    fn name(&mut self, inode: Inode) -> Option<String> {
        if self.named[0] != Some(inode) {
            self.named = [Some(inode), self.named[0]];
        }
        let named = self.named;
        self.files.retain(|held| named.contains(&Some(held)));
        self.files.url(inode)
    }
}

impl Received {
    /// Whether the caller itself has passed this file.
    pub(super) fn has(&self, inode: Inode) -> bool {
        self.0.url(inode).is_some()
    }

    /// What the caller has passed, if this process names it so.
    pub(super) fn inode(&self, url: &str) -> Option<Inode> {
        self.0.inode(url)
    }
}

impl RecvFd {
    /// For what callers pass.
    pub fn server() -> Self {
        Self(Half::Server)
    }

    /// For what the called peer passes.
    pub fn client() -> Self {
        Self(Half::Client)
    }
}

#[async_trait]
impl Element<NetworkService> for RecvFd {
    fn name(&self) -> &'static str {
        "recvfd"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        match self.0 {
            Half::Server => serve(ctx, request, next).await,
            Half::Client => call(ctx, request, next).await,
        }
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if matches!(self.0, Half::Client) {
            return next.close(ctx, request).await;
        }
        if let Some(url) = url(request)
            && let Ok(inode) = url.parse::<Inode>()
            && let Some(here) = ctx.store().with(|held: &Received| held.0.url(inode)).flatten()
        {
            *url = here;
        }
        let closed = next.close(ctx, request).await;
        ctx.store().take::<Received>();
        closed
    }
}

async fn serve(ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
    if ctx.peer().identity.is_some() {
        refuse_paths(urls(request))?;
    }
    let Some(files) = ctx.peer().files.as_deref() else {
        return next.request(ctx, request).await;
    };
    let offered = request.mechanism_preferences.clone();
    let mut new = Vec::new();
    let mut done = take_all(ctx, files, request, &mut new).await;
    if done.is_ok() {
        done = next.request(ctx, request).await;
    }
    request.mechanism_preferences = offered;
    ctx.store().update(|held: &mut Received| match &done {
        Err(_) if ctx.is_established() => held.0.retain(|inode| !new.contains(&inode)),
        Err(_) => {}
        Ok(()) => {
            let url = url(request);
            let selected = url
                .as_deref()
                .and_then(|url| held.0.inode(url).or_else(|| url.parse().ok()));
            if let (Some(url), Some(inode)) = (url, selected) {
                *url = inode.to_string();
            }
            held.0.retain(|inode| Some(inode) == selected);
        }
    });
    done
}

/// Takes every file that the request names; those that were not here before are `new`.
async fn take_all(
    ctx: &Ctx,
    files: &dyn FilePassing,
    request: &mut Request,
    new: &mut Vec<Inode>,
) -> Result<()> {
    for url in urls(request) {
        let Ok(inode) = url.parse::<Inode>() else { continue };
        let here = ctx.store().with(|held: &Received| held.0.url(inode)).flatten();
        *url = match here {
            Some(here) => here,
            None => {
                let file = receive(ctx, files, inode).await?;
                new.push(inode);
                ctx.store()
                    .update(|held: &mut Received| held.0.add(inode, file))?;
                ctx.store()
                    .with(|held: &Received| held.0.url(inode))
                    .flatten()
                    .unwrap_or_default()
            }
        };
    }
    Ok(())
}

async fn call(ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
    next.request(ctx, request).await?;
    let way = ctx.store().get::<Way<NetworkService>>();
    let Some(files) = way.and_then(|way| way.0.peer().files.clone()) else {
        return Ok(());
    };
    let Some(url) = url(request) else {
        ctx.store().take::<Returned>();
        return Ok(());
    };
    if let Ok(inode) = url.parse::<Inode>() {
        if !ctx
            .store()
            .update(|held: &mut Returned| held.files.url(inode).is_some())
        {
            let file = receive(ctx, files.as_ref(), inode).await?;
            ctx.store()
                .update(|held: &mut Returned| held.files.add(inode, file))?;
        }
        let here = ctx.store().update(|held: &mut Returned| held.name(inode));
        *url = here.unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
