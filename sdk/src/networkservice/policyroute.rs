// SPDX-License-Identifier: Apache-2.0
//! Gives clients the policy routes of a file, and those of a changed file as soon as it has changed.
//!
//! The file is a YAML list. Each entry selects packets by `from`, `proto`, `dstport` and `srcport`, and has `routes`,
//! each with `prefix` and `nexthop`; everything may be left out, and numbers may be written as texts:
//!
//! ```yaml
//! - from: 172.16.2.201/24
//!   proto: 6
//!   dstport: 6666
//!   routes:
//!     - prefix: 172.16.3.0/24
//!       nexthop: 172.16.2.200
//! - proto: 17
//!   dstport: 6667-6670
//! ```
//!
//! **Guarantees**: the connection has the configured policies, their sources among the client's addresses, and no
//! source of policies that are no longer configured. A file with a policy that cannot be programmed, or with a key that
//! does not exist, is not taken over.
//! When the policies change, every client is asked to refresh, which changes what differs and leaves its wire alone.
//! **Placement**: in an endpoint, behind `monitor` and address management.
//! **Reads / writes**: `policies` and `src_ip_addrs` of the IP context; the [`Announcer`] and one task in the store.
//! **Cost**: a copy of the policies a request; one sleeping task a connection; a file system watch.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connection::State;
use nsm_api::connectioncontext::{self, IpContext};
use serde::{Deserialize, Deserializer};
use tokio::sync::watch::Receiver;
use tracing::info;

use super::monitor::Announcer;
use super::watched::Watched;
use crate::core::{Component, Ctx, Element, NetworkService, Next, Request, Result, Task};
use crate::yaml;

type Policies = Vec<connectioncontext::PolicyRoute>;

/// See the [module](self).
pub struct PolicyRoute(Watched<Policies>);

/// Asks the client to refresh when the policies change. It ends with the connection.
struct Follower {
    _task: Task,
}

impl PolicyRoute {
    /// Gives the policies of the file at `path`; none while it is not there.
    pub fn watching(component: &Component, path: impl AsRef<Path>) -> Self {
        Self(Watched::new(component, path.as_ref(), parse))
    }
}

/// A policy as the file spells it. Other spellings of the same names are those of the protocol.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    #[serde(deserialize_with = "text")]
    from: String,
    #[serde(deserialize_with = "text")]
    proto: String,
    #[serde(
        deserialize_with = "text",
        alias = "dstPort",
        alias = "dst_port",
        alias = "port"
    )]
    dstport: String,
    #[serde(deserialize_with = "text", alias = "srcPort", alias = "src_port")]
    srcport: String,
    routes: Vec<EntryRoute>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EntryRoute {
    prefix: String,
    #[serde(alias = "nextHop", alias = "next_hop")]
    nexthop: String,
}

/// A text, or a number as its text.
fn text<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    Ok(match Option::<Either>::deserialize(value)? {
        None => String::new(),
        Some(Either::Number(number)) => number.to_string(),
        Some(Either::Text(text)) => text,
    })
}

fn parse(text: &str) -> Result<Policies, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let entries: Option<Vec<Entry>> = yaml::read(text)?;
    entries.unwrap_or_default().into_iter().map(policy).collect()
}

fn policy(entry: Entry) -> Result<connectioncontext::PolicyRoute, String> {
    let route = |route: EntryRoute| connectioncontext::Route {
        prefix: route.prefix,
        next_hop: route.nexthop,
    };
    let policy = connectioncontext::PolicyRoute {
        from: entry.from,
        proto: entry.proto,
        dst_port: entry.dstport,
        src_port: entry.srcport,
        routes: entry.routes.into_iter().map(route).collect(),
    };
    policy.selectors().map_err(|error| error.to_string())?;
    for route in &policy.routes {
        let bad_hop = !route.next_hop.is_empty() && route.next_hop_ip().is_none();
        if route.prefix_net().is_none() || bad_hop {
            return Err(format!(
                "the route to {:?} by {:?} cannot be read",
                route.prefix, route.next_hop
            ));
        }
    }
    Ok(policy)
}

/// Puts `policies` in place of those that are there.
fn replace(context: &mut IpContext, policies: &[connectioncontext::PolicyRoute]) {
    for old in std::mem::take(&mut context.policies) {
        context.src_ip_addrs.retain(|address| *address != old.from);
    }
    for policy in policies {
        if !policy.from.is_empty() && !context.src_ip_addrs.contains(&policy.from) {
            context.src_ip_addrs.push(policy.from.clone());
        }
    }
    context.policies = policies.to_vec();
}

/// Waits until the policies are others than those that the client has, and asks it to refresh.
async fn follow(mut changes: Receiver<Arc<Policies>>, has: Arc<Policies>, announcer: Announcer, id: String) {
    if changes.wait_for(|policies| **policies != *has).await.is_ok() {
        info!(id, "the policies have changed: the client is asked to refresh");
        announcer.announce(State::RefreshRequested);
    }
}

#[async_trait]
impl Element<NetworkService> for PolicyRoute {
    fn name(&self) -> &'static str {
        "policyroute"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let (policies, changes) = self.0.follow();
        replace(request.connection.ip_context_mut(), &policies);
        next.request(ctx, request).await?;
        if let Some(announcer) = ctx.store().get::<Announcer>() {
            let follow = follow(changes, policies, announcer, request.connection.id.clone());
            let task = ctx.component().spawn("policyroute", follow);
            ctx.store().insert(Follower { _task: task });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};
    use crate::core::{Chain, Found};
    use crate::elements::begin::Begin;
    use crate::networkservice::monitor::Monitor;

    const EXAMPLE: &str = "
- from: 172.16.2.201/24
  proto: 6
  dstport: 6666
  routes:
    - prefix: 172.16.3.0/24
      nexthop: 172.16.2.200
- from: 172.16.2.201/24
  proto: \"6\"
  srcport: 5555
- proto: 17
  dstPort: 6667-6670
- from: 2004::3/120
  proto: 17
  port: 5555
  routes:
    - prefix: 2004::5/120
      nextHop: 2004::6
";

    #[tokio::test]
    async fn passes_the_standard_cases() {
        let component = Component::new("test");
        standard_cases::<NetworkService, _>(
            || PolicyRoute::watching(&component, "/nowhere/config.yaml"),
            request(),
        )
        .await;
    }

    #[test]
    fn the_file_is_a_list_of_policies_with_numbers_or_texts() {
        let policies = parse(EXAMPLE).unwrap();
        assert_eq!(policies.len(), 4);
        assert_eq!((&*policies[0].proto, &*policies[0].dst_port), ("6", "6666"));
        assert_eq!(
            (&*policies[0].routes[0].prefix, &*policies[0].routes[0].next_hop),
            ("172.16.3.0/24", "172.16.2.200")
        );
        assert_eq!((&*policies[1].proto, &*policies[1].src_port), ("6", "5555"));
        assert_eq!((&*policies[2].from, &*policies[2].dst_port), ("", "6667-6670"));
        assert_eq!(
            (&*policies[3].dst_port, &*policies[3].routes[0].next_hop),
            ("5555", "2004::6")
        );
        for empty in ["", "\n", "[]", "# nothing yet\n"] {
            assert_eq!(parse(empty), Ok(Vec::new()), "{empty:?}");
        }
        for bad in [
            "from: x",
            "- from: 10.0.0.1",
            "- dstport: 9-1",
            "- routes: [{prefix: here}]",
            "- routes: [{prefix: ::/0, nexthop: there}]",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_that_does_not_exist_is_told_with_its_line_and_the_nearest_one() {
        let told = parse("- from: 10.0.0.1/32\n  dstprt: 80\n").unwrap_err();
        assert_eq!(
            told,
            "line 2, column 3: the key \"dstprt\" is not known: did you mean \"dstport\"?"
        );
        let told = parse("- routes:\n  - prefix: 10.0.0.0/8\n    next-hops: 10.0.0.1\n").unwrap_err();
        assert!(
            told.starts_with("line 3") && told.contains("did you mean \"next"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn c103_a_change_takes_the_old_sources_away_and_adds_the_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, EXAMPLE).unwrap();
        let element = PolicyRoute::watching(&Component::new("test"), &path);
        let policies = element.0.get();
        let probe = Probe::new();
        let chain = before(element, &probe);
        let connection = Connection::new();
        let mut request = request();
        request.connection.ip_context_mut().src_ip_addrs = vec!["10.0.0.1/32".into()];
        for ctx in [connection.first(), connection.again()] {
            chain.request(&ctx, &mut request).await.unwrap();
            let seen = request.connection.ip_context().unwrap();
            assert_eq!(
                seen.src_ip_addrs,
                ["10.0.0.1/32", "172.16.2.201/24", "2004::3/120"]
            );
            assert_eq!(seen.policies, *policies);
        }
        std::fs::write(&path, "- from: 172.16.9.9/24").unwrap();
        loop {
            chain.request(&connection.again(), &mut request).await.unwrap();
            if request.connection.ip_context().unwrap().policies.len() == 1 {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(
            request.connection.ip_context().unwrap().src_ip_addrs,
            ["10.0.0.1/32", "172.16.9.9/24"]
        );
    }

    /// What is told of the only connection next.
    async fn told(events: &mut Found<NetworkService>) -> State {
        let event = events.next().await.unwrap().unwrap();
        event.connections.into_values().next().unwrap().state()
    }

    #[tokio::test]
    async fn a_change_asks_each_client_to_refresh_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, EXAMPLE).unwrap();
        let component = Component::new("test");
        let chain: Chain<NetworkService> = crate::chain![
            Begin::server(&component),
            Monitor::new(&component),
            PolicyRoute::watching(&component, &path),
            Probe::<NetworkService>::new(),
        ];
        let ctx = || Ctx::own(&component, std::time::Duration::from_secs(10));
        let mut message = request();
        chain.request(&ctx(), &mut message).await.unwrap();
        let mut events = chain.find(&ctx(), Default::default()).await.unwrap();
        assert_eq!(told(&mut events).await, State::Up);
        for (text, count) in [("- from: 172.16.9.9/24", 1), ("[]", 0)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(told(&mut events).await, State::RefreshRequested);
            chain.request(&ctx(), &mut message).await.unwrap();
            assert_eq!(message.connection.ip_context().unwrap().policies.len(), count);
            assert_eq!(told(&mut events).await, State::Up);
        }
        chain.close(&ctx(), &mut message).await.unwrap();
        told(&mut events).await;
        std::fs::write(&path, EXAMPLE).unwrap();
        tokio::task::yield_now().await;
        assert!(events.next().now_or_never().is_none(), "who is gone is not asked");
    }
}
