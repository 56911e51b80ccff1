// SPDX-License-Identifier: Apache-2.0
//! Takes the sockets of endpoints that a peer passes, and puts URLs of this process in place of their inodes.
//!
//! The server half works on what callers register, the client half on what the called peer finds.
//! **Guarantees**: behind the server half and before the client half every `inode://` of a peer that can pass files
//! is `unix:///proc/<pid>/fd/<n>`. A registered socket stays open until the endpoint registers another one or is
//! unregistered; a failed refresh closes nothing. A found one stays open for as long as the caller's
//! [`Ctx::store`], or until the same caller has asked several times more; one found by a watch, until the watch
//! tells another state of the endpoint and the reader asks for more. The same socket has the same URL for everybody.
//! Callers get back what they have sent.
//! **Placement**: the server half behind `begin`, before everything that uses the URL. The client half behind `dial`,
//! before `connect`; and the same one again before [`querycache`](super::querycache), so that what the cache answers
//! stays open for who asked.
//! **Reads / writes**: the URL of the endpoint.
//! **On failure**: what a failed registration passed is closed.
//! **On close**: the socket is closed after everything behind has closed.
//! **Cost**: one descriptor a socket; waits for files that are late.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use nsm_api::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
};
use tokio::time::Instant;
use tracing::warn;

use super::sockets::{Socket, Sockets};
use crate::core::{
    Ctx, Element, Error, FilePassing, Found, Inode, Next, NseRegistry, Registration, Result, Store, Way,
};

/// For how many queries of one caller what they found stays open.
const KEPT_QUERIES: usize = 4;

/// How long a file of an answer is awaited: it leaves no later than the answer.
const FILE_WAIT: Duration = Duration::from_secs(2);

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct RecvFd(Half);

#[derive(Clone, Debug)]
enum Half {
    Server,
    Client(Sockets),
}

impl RecvFd {
    /// For what callers register.
    pub fn server() -> Self {
        Self(Half::Server)
    }

    /// For what the called peer finds. Clones know the same sockets.
    pub fn client() -> Self {
        Self(Half::Client(Sockets::default()))
    }
}

/// The socket that an endpoint has registered.
struct Registered(Arc<Socket>);

#[async_trait]
impl Element<NseRegistry> for RecvFd {
    fn name(&self) -> &'static str {
        "recvfd"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        let Half::Server = self.0 else {
            return next.request(ctx, message).await;
        };
        let (Ok(inode), Some(files)) = (message.entry.url.parse(), ctx.peer().files.as_deref()) else {
            next.request(ctx, message).await?;
            ctx.store().take::<Registered>();
            return Ok(());
        };
        let socket = match held(ctx).filter(|socket| socket.inode() == inode) {
            Some(socket) => socket,
            None => Arc::new(Socket::new(inode, receive(ctx, files, inode).await?)?),
        };
        if !ctx.is_established() {
            ctx.store().insert(Registered(Arc::clone(&socket)));
        }
        let asked = std::mem::replace(&mut message.entry.url, socket.url());
        let done = next.request(ctx, message).await;
        message.entry.url = asked;
        done?;
        ctx.store().insert(Registered(socket));
        Ok(())
    }

    async fn close(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        if let (Half::Server, Some(socket)) = (&self.0, held(ctx)) {
            message.entry.url = socket.url();
        }
        let closed = next.close(ctx, message).await;
        ctx.store().take::<Registered>();
        closed
    }

    async fn find(
        &self,
        ctx: &Ctx,
        query: NetworkServiceEndpointQuery,
        next: Next<'_, NseRegistry>,
    ) -> Result<Found<NseRegistry>> {
        let Half::Client(sockets) = &self.0 else {
            return next.find(ctx, query).await;
        };
        let watch = query.watch;
        let found = next.find(ctx, query).await?;
        let way = ctx.call().get().or_else(|| ctx.store().get::<Way<NseRegistry>>());
        let state = Finding {
            found,
            passed: Passed {
                files: way.and_then(|way| way.0.peer().files.clone()),
                sockets: sockets.clone(),
                deadline: (!watch).then(|| ctx.deadline()),
            },
            kept: if watch { Kept::watch() } else { Kept::query(ctx) },
        };
        Ok(Box::pin(stream::unfold(state, |mut state| async {
            let item = state.next().await?;
            Some((item, state))
        })))
    }
}

fn held(ctx: &Ctx) -> Option<Arc<Socket>> {
    ctx.store().with(|held: &Registered| Arc::clone(&held.0))
}

/// Waits for a socket that the caller passes. Errors: `fd-timeout` at the deadline, `fd-lost`, `cancelled`.
async fn receive(ctx: &Ctx, files: &dyn FilePassing, inode: Inode) -> Result<std::os::fd::OwnedFd> {
    let received = ctx
        .bounded("receive a file", files.receive(inode, ctx.deadline()))
        .await;
    received.map_err(|error| match error.reason() {
        "deadline" | "fd-timeout" => {
            let text = format!("timeout in recvfd waiting for {inode}: context deadline exceeded");
            Error::new(tonic::Code::DeadlineExceeded, "fd-timeout", text)
        }
        _ => error.context(format!("recvfd waiting for {inode}")),
    })
}

/// An answer on its way to who asked.
struct Finding {
    found: Found<NseRegistry>,
    passed: Passed,
    kept: Kept,
}

/// Where the sockets of an answer come from.
struct Passed {
    files: Option<Arc<dyn FilePassing>>,
    sockets: Sockets,
    deadline: Option<Instant>,
}

/// What keeps found sockets open.
enum Kept {
    /// The store of who asked.
    Query(Store),
    /// The stream, by name of the endpoint; and what it lets go of when the reader asks for more.
    Watch(BTreeMap<String, Arc<Socket>>, Option<Arc<Socket>>),
}

/// What the last queries of one caller have found.
#[derive(Default)]
struct Queries(VecDeque<Vec<Arc<Socket>>>);

impl Kept {
    fn watch() -> Self {
        Self::Watch(BTreeMap::new(), None)
    }

    fn query(ctx: &Ctx) -> Self {
        let store = ctx.store().clone();
        let old = store.update(|queries: &mut Queries| {
            queries.0.push_back(Vec::new());
            if queries.0.len() > KEPT_QUERIES {
                queries.0.pop_front()
            } else {
                None
            }
        });
        drop(old);
        Self::Query(store)
    }

    /// Keeps `socket` for this endpoint, or what it had no longer than until the next answer.
    fn keep(&mut self, name: &str, socket: Option<Arc<Socket>>) {
        match self {
            Self::Query(store) => store.update(|queries: &mut Queries| {
                if let Some(last) = queries.0.back_mut() {
                    last.extend(socket);
                }
            }),
            Self::Watch(sockets, leaving) => {
                *leaving = match socket {
                    Some(socket) => sockets.insert(name.to_string(), socket),
                    None => sockets.remove(name),
                };
            }
        }
    }

    fn go_on(&mut self) {
        if let Self::Watch(_, leaving) = self {
            leaving.take();
        }
    }
}

impl Finding {
    async fn next(&mut self) -> Option<Result<NetworkServiceEndpointResponse>> {
        self.kept.go_on();
        loop {
            let mut found = match self.found.next().await? {
                Ok(found) => found,
                Err(error) => return Some(Err(error)),
            };
            let Some(entry) = found.network_service_endpoint.as_mut() else {
                return Some(Ok(found));
            };
            if found.deleted {
                self.kept.keep(&entry.name, None);
                return Some(Ok(found));
            }
            match self.passed.socket(&entry.url).await {
                Ok(socket) => {
                    if let Some(socket) = &socket {
                        entry.url = socket.url();
                    }
                    self.kept.keep(&entry.name, socket);
                    return Some(Ok(found));
                }
                Err(error) => warn!(%error, endpoint = entry.name, "the endpoint's socket is not there"),
            }
        }
    }
}

impl Passed {
    /// The socket that `url` stands for, if it stands for one that was passed.
    async fn socket(&self, url: &str) -> Result<Option<Arc<Socket>>> {
        if Sockets::is_own(url) {
            let gone = || Error::not_found("file-gone", format!("{url} is closed already"));
            return self.sockets.at(url).ok_or_else(gone).map(Some);
        }
        let (Ok(inode), Some(files)) = (url.parse(), &self.files) else {
            return Ok(None);
        };
        if let Some(socket) = self.sockets.get(inode) {
            return Ok(Some(socket));
        }
        let wait = Instant::now() + FILE_WAIT;
        let deadline = self.deadline.map_or(wait, |deadline| deadline.min(wait));
        let socket = Socket::new(inode, files.receive(inode, deadline).await?)?;
        Ok(Some(self.sockets.add(socket)))
    }
}

#[cfg(test)]
mod tests;
