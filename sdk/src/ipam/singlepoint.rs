// SPDX-License-Identifier: Apache-2.0
//! Gives each connection one address for the client, with the length of the prefix: all clients share a subnet.
//!
//! **Guarantees**: no address belongs to two connections, and none that the client excludes is given. The first
//! address of each prefix is the endpoint's, and IPv4's broadcast address is nobody's. An address of a prefix
//! that the client brings from an earlier life of the endpoint is kept when it is free.
//! **Placement**: in an endpoint, before whatever sets the wire up.
//! **Reads / writes**: reads `excluded_prefixes`; adds to `src_ip_addrs` what is absent.
//! **On failure**: the address of a first request is free again; a failed refresh keeps what was there.
//! **On close**: the address is freed after everything behind has closed.
//! **Cost**: one lock and O(log connections) a request.

use std::net::IpAddr;

use async_trait::async_trait;
use ipnet::IpNet;
use nsm_api::connectioncontext::IpContext;

use super::context::{add_address, excluded, is_excluded, remove_address};
use super::lease::Pools;
use super::pool::Pool;
use crate::core::{Ctx, Element, Error, NetworkService, Next, Request, Result};

/// See the [module](self).
pub struct SinglePoint {
    pools: Pools,
    prefixes: Vec<IpNet>,
}

impl SinglePoint {
    /// Gives addresses of these prefixes, of the first one that has a free one.
    ///
    /// Errors: `no-prefix`, `overlapping-prefixes`.
    pub fn new(prefixes: &[IpNet]) -> Result<Self> {
        let pools = Pools::new(prefixes)?;
        let prefixes = prefixes.iter().map(IpNet::trunc).collect();
        pools.change(|pools| {
            for pool in pools {
                pool.take(pool.prefix().network());
                if let IpNet::V4(prefix) = pool.prefix() {
                    pool.take(prefix.broadcast().into());
                }
            }
        });
        Ok(Self { pools, prefixes })
    }

    /// Puts the connection's address into its context.
    fn assign(&self, ctx: &Ctx, context: &mut IpContext) -> Result<()> {
        let excluded = excluded(context);
        let ips = match self.pools.held(ctx.store()) {
            Some(ips) if !is_excluded(&ips, &excluded) => ips,
            old => {
                for ip in old.iter().flatten() {
                    remove_address(&mut context.src_ip_addrs, *ip);
                }
                let allocate = |pools: &mut [Pool]| allocate(pools, context, &excluded).map(|ip| vec![ip]);
                self.pools
                    .lease(ctx.store(), allocate)
                    .ok_or_else(|| self.empty())?
            }
        };
        for ip in ips {
            let prefix = self.prefixes.iter().find(|prefix| prefix.contains(&ip));
            let length = prefix.map(IpNet::prefix_len);
            if let Some(address) = length.and_then(|length| IpNet::new(ip, length).ok()) {
                add_address(&mut context.src_ip_addrs, address);
            }
        }
        Ok(())
    }

    fn empty(&self) -> Error {
        let prefixes: Vec<_> = self.prefixes.iter().map(ToString::to_string).collect();
        let text = format!(
            "IPPool is empty: no address of {} is free and not excluded by the client; give the endpoint a \
             larger prefix",
            prefixes.join(", ")
        );
        Error::exhausted("pool-empty", text)
    }
}

/// Takes the address that the client brings with the length of a pool's prefix, or the lowest.
fn allocate(pools: &mut [Pool], context: &IpContext, excluded: &[IpNet]) -> Option<IpAddr> {
    let brought = context.src_nets().into_iter();
    for address in brought.filter(|address| !is_excluded(&[address.addr()], excluded)) {
        let subnet = pools.iter_mut().find(|pool| pool.prefix() == address.trunc());
        if subnet.is_some_and(|pool| pool.take(address.addr())) {
            return Some(address.addr());
        }
    }
    pools.iter_mut().find_map(|pool| pool.pull(excluded))
}

#[async_trait]
impl Element<NetworkService> for SinglePoint {
    fn name(&self) -> &'static str {
        "singlepointipam"
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
mod tests {
    use super::*;
    use crate::chain;
    use crate::core::Chain;
    use crate::core::testing::{Connection, request, standard_cases};

    fn element(prefix: &str) -> SinglePoint {
        SinglePoint::new(&[prefix.parse().unwrap()]).unwrap()
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| element("10.0.0.0/24"), request()).await;
    }

    async fn ask(
        chain: &Chain<NetworkService>,
        connection: &Connection,
        src: &[&str],
    ) -> Result<Vec<String>> {
        let mut request = request();
        request.connection.ip_context_mut().src_ip_addrs = src.iter().map(ToString::to_string).collect();
        chain.request(&connection.first(), &mut request).await?;
        Ok(request.connection.ip_context_mut().src_ip_addrs.clone())
    }

    #[tokio::test]
    async fn first_and_broadcast_addresses_are_nobodys_and_a_closed_one_is_given_once() {
        let chain = chain![element("10.0.0.0/30")];
        let (one, two, three) = (Connection::new(), Connection::new(), Connection::new());
        assert_eq!(ask(&chain, &one, &[]).await.unwrap(), ["10.0.0.1/30"]);
        assert_eq!(ask(&chain, &two, &[]).await.unwrap(), ["10.0.0.2/30"]);
        assert_eq!(ask(&chain, &three, &[]).await.unwrap_err().reason(), "pool-empty");
        chain.close(&one.again(), &mut request()).await.unwrap();
        assert_eq!(ask(&chain, &one, &[]).await.unwrap(), ["10.0.0.1/30"]);
        assert_eq!(ask(&chain, &three, &[]).await.unwrap_err().reason(), "pool-empty");
    }

    #[tokio::test]
    async fn an_address_of_the_subnet_that_the_client_brings_is_kept() {
        let chain = chain![element("10.0.0.0/24")];
        assert_eq!(
            ask(&chain, &Connection::new(), &["10.0.0.9/24"]).await.unwrap(),
            ["10.0.0.9/24"]
        );
    }
}
