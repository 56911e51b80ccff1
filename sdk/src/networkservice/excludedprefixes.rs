// SPDX-License-Identifier: Apache-2.0
//! Keeps addresses out of connections that would clash with what is there.
//!
//! The server half adds the prefixes of a file: those of the cluster. The client half keeps the connections of one
//! program apart: what one has, the others exclude, unless both are in one [awareness group](AwarenessGroups).
//! **Guarantees**: no connection of the client half gets an address in a prefix that another one has, also when they
//! are asked for at the same time, unless both are in one group. An answer with an excluded address is refused. A connection
//! that is there is not made to change its addresses by one that came later.
//! **Placement**: the server half in a manager; the client half last before the call, in an application.
//! **Reads / writes**: `excluded_prefixes`, which the client half puts back; reads addresses and routes.
//! **On failure**: what a first request was answered is closed by the runner.
//! **On close**: what the connection had is free for others.
//! **Cost**: a lock, and a few look-ups for each address; a file system watch.

mod groups;
mod merged;
mod used;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use nsm_api::connectioncontext::IpContext;
use serde::Deserialize;
use tonic::Code;

use super::watched::Watched;
use crate::core::{Component, Ctx, Element, Error, NetworkService, Next, Request, Result};
use crate::yaml;
pub use groups::AwarenessGroups;
use used::{Has, Shared, Used};

/// How often a request is repeated because a connection that was asked for at the same time has got its addresses.
const MAX_ROUNDS: usize = 5;

/// See the [module](self).
pub struct ExcludedPrefixes(Half);

enum Half {
    Server(Watched<Vec<IpNet>>),
    Client {
        groups: AwarenessGroups,
        shared: Arc<Shared>,
    },
}

impl ExcludedPrefixes {
    /// Excludes the prefixes of the file at `path`, YAML with a list `prefixes`; none while it is not there.
    pub fn server(component: &Component, path: impl AsRef<Path>) -> Self {
        Self(Half::Server(Watched::new(component, path.as_ref(), parse)))
    }

    /// Keeps the connections of this program apart.
    pub fn client(groups: &AwarenessGroups) -> Self {
        Self(Half::Client {
            groups: groups.clone(),
            shared: Arc::default(),
        })
    }
}

/// The prefixes of the file: those of IPv4 first, merged.
fn parse(text: &str) -> Result<Vec<IpNet>, String> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Content {
        #[serde(default, alias = "Prefixes")]
        prefixes: Option<Vec<String>>,
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let content: Option<Content> = yaml::read(text)?;
    let texts = content.unwrap_or_default().prefixes.unwrap_or_default();
    let nets = texts
        .iter()
        .map(|text| text.parse().map_err(|_| format!("{text:?} is no prefix")));
    let mut merged = IpNet::aggregate(&nets.collect::<Result<Vec<IpNet>, String>>()?);
    merged.sort();
    Ok(merged)
}

/// Appends what is absent.
fn exclude(context: &mut IpContext, prefixes: &[IpNet]) {
    let there = context.excluded_nets();
    let absent = prefixes.iter().filter(|prefix| !there.contains(prefix));
    context.excluded_prefixes.extend(absent.map(ToString::to_string));
}

#[async_trait]
impl Element<NetworkService> for ExcludedPrefixes {
    fn name(&self) -> &'static str {
        "excludedprefixes"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        match &self.0 {
            Half::Server(prefixes) => {
                let prefixes = prefixes.get();
                if !prefixes.is_empty() {
                    exclude(request.connection.ip_context_mut(), &prefixes);
                }
                next.request(ctx, request).await
            }
            Half::Client { groups, shared } => {
                let used = ctx.store().get::<Used>().unwrap_or_else(|| {
                    let used = Used::new(shared, groups.of(request));
                    ctx.store().insert(used.clone());
                    used
                });
                let asked = asked(request);
                let done = keep_apart(ctx, request, next, &used, &asked).await;
                if let Some(context) = request.connection.context.as_mut() {
                    context
                        .ip_context
                        .iter_mut()
                        .for_each(|ip| ip.excluded_prefixes.clone_from(&asked));
                }
                done
            }
        }
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let closed = next.close(ctx, request).await;
        if matches!(self.0, Half::Client { .. }) {
            ctx.store().take::<Used>();
        }
        closed
    }
}

/// Asks until the answer shares no address with another connection.
async fn keep_apart(
    ctx: &Ctx,
    request: &mut Request,
    next: Next<'_, NetworkService>,
    used: &Used,
    asked: &[String],
) -> Result<()> {
    let mut kept = addresses(request);
    for _ in 0..MAX_ROUNDS {
        // What covers an address that the connection has came later, and has to yield.
        let others = used.others(&kept);
        let forbidden = send(request, asked, &others, &kept);
        let sent = request.connection.ip_context().map(IpContext::excluded_nets);
        next.request(ctx, request).await?;

        let answered = addresses(request);
        let is_forbidden = |own: &&IpNet| forbidden.iter().any(|net| net.contains(&own.addr()));
        if let Some(own) = answered.iter().find(is_forbidden) {
            let text = format!("IP {} is excluded, but it was found in response IPs", own.addr());
            return Err(Error::new(Code::FailedPrecondition, "excluded-address", text));
        }
        let has = has(request, &sent.unwrap_or_default());
        if used.claim(has, &kept) {
            return Ok(());
        }
        kept.clear();
    }
    let text = format!("other connections of this program took the answered addresses {MAX_ROUNDS} times");
    Err(Error::new(Code::Aborted, "address-race", text))
}

/// Writes what is excluded into the request, and returns what of it no answer may contain: what the caller asked
/// for, and what the others have.
fn send(request: &mut Request, asked: &[String], others: &Has, kept: &[IpNet]) -> Vec<IpNet> {
    if asked.is_empty() && others.is_nothing() {
        return Vec::new();
    }
    let context = request.connection.ip_context_mut();
    context.excluded_prefixes = asked.to_vec();
    exclude(context, &others.addresses);
    exclude(context, &others.hosts);
    let is_kept = |text: &String| kept.iter().any(|own| text.parse().ok() == Some(*own));
    context.excluded_prefixes.retain(|text| !is_kept(text));
    let forbidden = context.excluded_nets();
    exclude(context, &others.learned);
    forbidden
}

/// What the caller excludes.
fn asked(request: &Request) -> Vec<String> {
    let context = request.connection.ip_context();
    context
        .map(|context| context.excluded_prefixes.clone())
        .unwrap_or_default()
}

/// The addresses of both ends.
fn addresses(request: &Request) -> Vec<IpNet> {
    let context = request.connection.ip_context();
    let both = context.map(|context| [context.src_nets(), context.dst_nets()].concat());
    both.unwrap_or_default()
}

/// What the others must not have while this connection has it. What was `sent` to the endpoint it has not learned
/// from it.
fn has(request: &Request, sent: &[IpNet]) -> Has {
    let Some(context) = request.connection.ip_context() else {
        return Has::default();
    };
    let routes = context.src_routes.iter().chain(&context.dst_routes);
    let nets = routes.filter_map(|route| route.prefix_net());
    let mut learned = context.excluded_nets();
    learned.retain(|net| !sent.contains(net));
    Has {
        addresses: addresses(request),
        hosts: nets
            .filter(|net| net.prefix_len() == net.max_prefix_len())
            .collect(),
        learned,
    }
}

#[cfg(test)]
mod tests;
