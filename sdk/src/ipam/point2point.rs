// SPDX-License-Identifier: Apache-2.0
//! Gives each connection a pair of addresses: the endpoint's and the client's, with host prefixes and a route to
//! each other.
//!
//! **Guarantees**: the lower free address is the endpoint's, the next one the client's. No address belongs to two
//! connections, and none that the client excludes is given. A pair that the client brings from an earlier life of
//! the endpoint is kept when both are free; any other address of these prefixes is taken from it, since another
//! connection has it or may get it. What the client has from other endpoints is left alone.
//! **Placement**: in an endpoint, before whatever sets the wire up.
//! **Reads / writes**: reads `excluded_prefixes`; adds to `src_ip_addrs`, `dst_ip_addrs`, `src_routes` and
//! `dst_routes` what is absent.
//! **On failure**: the pair of a first request is free again; a failed refresh keeps the pair that was there.
//! **On close**: the pair is freed after everything behind has closed.
//! **Cost**: one lock and O(log connections) a request.

use std::net::IpAddr;

use async_trait::async_trait;
use ipnet::IpNet;
use nsm_api::connectioncontext::IpContext;

use super::context::{add_address, add_route, excluded, ip_of, is_excluded, remove_address, remove_route};
use super::lease::Pools;
use super::pool::Pool;
use crate::core::{Ctx, Element, Error, NetworkService, Next, Request, Result};

/// See the [module](self).
pub struct Point2Point {
    pools: Pools,
    prefixes: String,
}

impl Point2Point {
    /// Gives addresses of these prefixes, of the first one that has a free pair.
    ///
    /// Errors: `no-prefix`, `overlapping-prefixes`.
    pub fn new(prefixes: &[IpNet]) -> Result<Self> {
        let texts: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
        Ok(Self {
            pools: Pools::new(prefixes)?,
            prefixes: texts.join(", "),
        })
    }

    /// Puts the connection's pair into its context.
    fn assign(&self, ctx: &Ctx, context: &mut IpContext) -> Result<()> {
        let excluded = excluded(context);
        let held = self.pools.held(ctx.store());
        let pair = match held {
            Some(pair) if !is_excluded(&pair, &excluded) => pair,
            _ => {
                let allocate = |pools: &mut [Pool]| allocate(pools, context, &excluded);
                self.pools
                    .lease(ctx.store(), allocate)
                    .ok_or_else(|| self.empty())?
            }
        };
        for ip in self.not_held(context, &pair) {
            remove_address(&mut context.src_ip_addrs, ip);
            remove_address(&mut context.dst_ip_addrs, ip);
            remove_route(&mut context.src_routes, ip);
            remove_route(&mut context.dst_routes, ip);
        }
        if let [dst, src] = pair[..] {
            add_address(&mut context.src_ip_addrs, src.into());
            add_address(&mut context.dst_ip_addrs, dst.into());
            add_route(&mut context.src_routes, dst);
            add_route(&mut context.dst_routes, src);
        }
        Ok(())
    }

    /// The addresses of ours in the context that the connection does not hold.
    fn not_held(&self, context: &IpContext, held: &[IpAddr]) -> Vec<IpAddr> {
        let there = context.src_ip_addrs.iter().chain(&context.dst_ip_addrs);
        let there = there.filter_map(|address| ip_of(address));
        self.pools.look(|pools| {
            let is_ours = |ip: &IpAddr| pools.iter().any(|pool| pool.prefix().contains(ip));
            there.filter(|ip| is_ours(ip) && !held.contains(ip)).collect()
        })
    }

    fn empty(&self) -> Error {
        let text = format!(
            "IPPool is empty: no two addresses of {} are free and not excluded by the client; give the \
             endpoint a larger prefix",
            self.prefixes
        );
        Error::exhausted("pool-empty", text)
    }
}

/// Takes a pair, the endpoint's address first: the one that the client brings, or the lowest.
fn allocate(pools: &mut [Pool], context: &IpContext, excluded: &[IpNet]) -> Option<Vec<IpAddr>> {
    let free = |pool: &Pool, addresses: &[String]| {
        let mut ips = addresses.iter().filter_map(|address| ip_of(address));
        ips.find(|ip| pool.is_free(*ip) && !is_excluded(&[*ip], excluded))
    };
    for pool in &mut *pools {
        let brought = free(pool, &context.dst_ip_addrs).zip(free(pool, &context.src_ip_addrs));
        if let Some((dst, src)) = brought.filter(|(dst, src)| dst != src) {
            return (pool.take(dst) && pool.take(src)).then(|| vec![dst, src]);
        }
    }
    pools.iter_mut().find_map(|pool| {
        let dst = pool.pull(excluded)?;
        let src = pool.pull(excluded);
        if src.is_none() {
            pool.put(dst);
        }
        Some(vec![dst, src?])
    })
}

#[async_trait]
impl Element<NetworkService> for Point2Point {
    fn name(&self) -> &'static str {
        "point2pointipam"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.pools.count_by(ctx.component().meters());
        self.assign(ctx, request.connection.ip_context_mut())?;
        let done = next.request(ctx, request).await;
        self.pools.settle(ctx.store(), done.is_ok());
        done
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let done = next.close(ctx, request).await;
        self.pools.release(ctx.store());
        done
    }
}

#[cfg(test)]
mod tests;
