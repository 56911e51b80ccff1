// SPDX-License-Identifier: Apache-2.0
//! Removes addresses that this endpoint has not given to this connection and could not give.
//!
//! **Guarantees**: behind it the context holds only addresses of the endpoint's prefixes that are free or are this
//! connection's own; a removed address takes its route along. Excluded prefixes stay.
//! **Placement**: before the address management of the same prefixes.
//! **Reads / writes**: `src_ip_addrs` with `dst_routes`, `dst_ip_addrs` with `src_routes`.
//! **On failure**: what a first request noted is forgotten; a failed refresh changes nothing.
//! **On close**: the connection's addresses count as free.
//! **Cost**: one lock a request.

use async_trait::async_trait;
use ipnet::IpNet;
use nsm_api::connectioncontext::Route;
use nsm_api::context::parse_net;

use super::context::ip_of;
use super::lease::Pools;
use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// See the [module](self).
pub struct Strict(Pools);

impl Strict {
    /// For an endpoint that gives addresses of these prefixes.
    ///
    /// Errors: `no-prefix`, `overlapping-prefixes`.
    pub fn new(prefixes: &[IpNet]) -> Result<Self> {
        Pools::new(prefixes).map(Self)
    }

    fn purge(&self, ctx: &Ctx, addresses: &mut Vec<String>, mirror: &mut Vec<Route>) {
        let own = self.0.held(ctx.store()).unwrap_or_default();
        addresses.retain(|address| {
            let ours = ip_of(address).is_some_and(|ip| {
                own.contains(&ip) || self.0.look(|pools| pools.iter().any(|pool| pool.is_free(ip)))
            });
            if !ours {
                mirror.retain(|route| !same(&route.prefix, address));
            }
            ours
        });
    }
}

/// Whether two texts name the same prefix.
fn same(one: &str, other: &str) -> bool {
    one == other || parse_net(one).is_some_and(|one| Some(one) == parse_net(other))
}

#[async_trait]
impl Element<NetworkService> for Strict {
    fn name(&self) -> &'static str {
        "strictipam"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let context = request.connection.ip_context_mut();
        self.purge(ctx, &mut context.src_ip_addrs, &mut context.dst_routes);
        self.purge(ctx, &mut context.dst_ip_addrs, &mut context.src_routes);
        next.request(ctx, request).await?;

        let context = request.connection.ip_context_mut();
        let answered = context.src_ip_addrs.iter().chain(&context.dst_ip_addrs);
        let ips = answered.filter_map(|address| ip_of(address));
        self.0.lease(ctx.store(), |pools| {
            Some(
                ips.filter(|ip| pools.iter_mut().any(|pool| pool.take(*ip)))
                    .collect(),
            )
        });
        self.0.settle(ctx.store(), true);
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let done = next.close(ctx, request).await;
        self.0.release(ctx.store());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;
    use crate::core::testing::{Connection, request, standard_cases};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        let strict = || Strict::new(&["10.0.0.0/24".parse().unwrap()]).unwrap();
        standard_cases::<NetworkService, _>(strict, request()).await;
    }

    #[tokio::test]
    async fn an_address_is_anybodys_again_after_the_close() {
        let chain = chain![Strict::new(&["10.0.0.0/24".parse().unwrap()]).unwrap()];
        let brought = || {
            let mut request = request();
            request.connection.ip_context_mut().src_ip_addrs = vec!["10.0.0.5/32".into()];
            request
        };
        let (one, two) = (Connection::new(), Connection::new());
        let mut first = brought();
        chain.request(&one.first(), &mut first).await.unwrap();
        let mut second = brought();
        chain.request(&two.first(), &mut second).await.unwrap();
        assert!(
            second.connection.ip_context_mut().src_ip_addrs.is_empty(),
            "it is the first one's"
        );
        chain.close(&one.again(), &mut first).await.unwrap();
        let mut second = brought();
        chain.request(&two.again(), &mut second).await.unwrap();
        assert_eq!(second.connection.ip_context_mut().src_ip_addrs, ["10.0.0.5/32"]);
    }
}
