// SPDX-License-Identifier: Apache-2.0
//! Gives the wire behind an endpoint that passes packets on a context of its own, and tells each side how to reach the
//! other: the pod of the endpoint forwards between its two wires.
//!
//! ```text
//!   client ──── near leg ────▶ [ this endpoint ] ──── far leg ────▶ the endpoint behind
//!          addresses of ours                     addresses of theirs
//! ```
//!
//! **Guarantees**: addresses, policies, neighbours and MACs of a leg stay on it. The endpoint behind gets a route to the
//! client and to what is behind the client; the client gets one to the endpoint behind and to what that offers, each
//! through us. No address of the near leg is given out behind. What was told and holds no more is taken back with the
//! next request. DNS, extra context and the smaller MTU are the same on both legs.
//! **Placement**: in an endpoint, first of the elements that call the next one, behind its address management.
//! **Reads / writes**: the context, which is the far leg's behind it.
//! **On failure**: the caller's context is as it came; what is kept of the far leg stays.
//! **On close**: the far leg is closed with its own context.
//! **Cost**: a copy of both contexts a request.

use async_trait::async_trait;
use ipnet::IpNet;
use nsm_api::connectioncontext::{ConnectionContext, DnsConfig, IpContext, Route};

use super::tunnel::lowest;
use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Legs;

/// What is kept of a connection.
#[derive(Clone, Default)]
struct Far {
    /// The context of the far leg, as it was last answered.
    context: ConnectionContext,
    /// The routes to the client's side that we have asked for behind.
    asked: Vec<Route>,
    /// The routes and the DNS from behind that we have told the client.
    told: Vec<Route>,
    dns: Vec<DnsConfig>,
}

impl Far {
    /// What is asked for behind, for a client whose leg has the context `near`.
    fn ask(&mut self, near: &ConnectionContext) -> ConnectionContext {
        let nothing = IpContext::default();
        let near_ip = near.ip_context.as_ref().unwrap_or(&nothing);
        let mut context = self.context.clone();
        let ip = context.ip_context_mut();
        ip.excluded_prefixes.clone_from(&near_ip.excluded_prefixes);
        let near_leg = near_ip.src_nets().into_iter().chain(near_ip.dst_nets());
        for host in near_leg.map(host).map(|net| net.to_string()) {
            if !ip.excluded_prefixes.contains(&host) {
                ip.excluded_prefixes.push(host);
            }
        }
        let asked = through_us(&near_ip.src_nets(), &near_ip.dst_routes);
        replace(
            &mut ip.dst_routes,
            &std::mem::replace(&mut self.asked, asked),
            &self.asked,
        );
        context.mtu = near.mtu;
        context.extra_context.clone_from(&near.extra_context);
        context
    }

    /// Takes over what was answered for the far leg, and tells the near one.
    fn answer(&mut self, near: &mut ConnectionContext, context: ConnectionContext) {
        let nothing = IpContext::default();
        let far_ip = context.ip_context.as_ref().unwrap_or(&nothing);
        let told = through_us(&far_ip.dst_nets(), &far_ip.src_routes);
        let before = std::mem::replace(&mut self.told, told);
        replace(&mut near.ip_context_mut().src_routes, &before, &self.told);
        let dns = context.dns_context.as_ref().map(|dns| dns.configs.clone());
        let before = std::mem::replace(&mut self.dns, dns.unwrap_or_default());
        if let Some(dns) = &mut near.dns_context {
            dns.configs.retain(|config| !before.contains(config));
        }
        for config in &self.dns {
            near.dns_context_mut().add(config);
        }
        near.mtu = if context.mtu == 0 {
            near.mtu
        } else {
            lowest(near.mtu, context.mtu)
        };
        near.extra_context.clone_from(&context.extra_context);
        self.context = context;
    }
}

fn host(net: IpNet) -> IpNet {
    net.addr().into()
}

/// Routes to these hosts and to where these routes lead. They name no next hop, which means the other end of the wire
/// that they are told on: us.
fn through_us(hosts: &[IpNet], routes: &[Route]) -> Vec<Route> {
    let prefixes = routes.iter().filter_map(Route::prefix_net).map(|net| net.trunc());
    let mut through = Vec::new();
    for route in hosts.iter().copied().map(host).chain(prefixes).map(Route::to) {
        if !through.contains(&route) {
            through.push(route);
        }
    }
    through
}

/// Puts `new` in place of `old`, but where there is another route of the same prefix already.
fn replace(routes: &mut Vec<Route>, old: &[Route], new: &[Route]) {
    routes.retain(|route| !old.contains(route) || new.contains(route));
    for route in new {
        if !routes
            .iter()
            .any(|there| there.prefix_net() == route.prefix_net())
        {
            routes.push(route.clone());
        }
    }
}

#[async_trait]
impl Element<NetworkService> for Legs {
    fn name(&self) -> &'static str {
        "legs"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let mut far = ctx.store().get::<Far>().unwrap_or_default();
        let near = request.connection.context.take();
        request.connection.context = Some(far.ask(near.as_ref().unwrap_or(&ConnectionContext::default())));
        let done = next.request(ctx, request).await;
        let answered = std::mem::replace(&mut request.connection.context, near).unwrap_or_default();
        done?;
        far.answer(request.connection.context.get_or_insert_default(), answered);
        ctx.store().insert(far);
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let far = ctx.store().get::<Far>().unwrap_or_default();
        let near = request.connection.context.replace(far.context);
        let done = next.close(ctx, request).await;
        request.connection.context = near;
        done
    }
}

#[cfg(test)]
mod tests;
