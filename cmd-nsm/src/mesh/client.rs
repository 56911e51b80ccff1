// SPDX-License-Identifier: Apache-2.0
//! A client in this process, on the same chain as the client program.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nsm_api::connection::MonitorScopeSelector;
use nsm_sdk::chains::client::{self, client};
use nsm_sdk::core::{Chain, Component, Ctx, NetworkService, Request};
use nsm_sdk::identity::{Identity, Tokens};
use nsm_sdk::policy::{self, Policies};
use nsm_sdk::transport::Pool;
use tokio::time::Instant;

use super::{Node, Pinger};

/// How long one request may take.
const TO_ATTACH: Duration = Duration::from_secs(15);

/// Asks for wires into one network namespace.
pub struct Client {
    component: Component,
    chain: Chain<NetworkService>,
    netns: PathBuf,
    pinger: Option<Arc<Pinger>>,
}

/// A wire that is there.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The connection.
    pub request: Request,
    /// From the call until its answer.
    pub answered: Duration,
    /// From the call until the first ping came back; equals `answered` for a client that does not ping.
    pub carried: Duration,
}

impl Attached {
    /// The first IPv4 address of the endpoint.
    pub fn endpoint(&self) -> Option<Ipv4Addr> {
        let nets = self.request.connection.ip_context()?.dst_nets();
        nets.iter().find_map(|net| match net.addr() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }
}

impl Client {
    /// A client called `name` of the manager of `node`, whose wires end in `netns`.
    pub fn new(node: &Node, name: &str, netns: &Path) -> Result<Self> {
        Self::at(&node.manager_url(), name, node.identity().clone(), netns)
    }

    /// A client called `name` of whoever listens on `url`, whose wires end in `netns`.
    pub fn at(url: &str, name: &str, identity: Identity, netns: &Path) -> Result<Self> {
        let component = Component::new(name);
        let tokens = Tokens::new(Duration::from_secs(600));
        let pool = Pool::new(&component, identity, tokens);
        let settings = client::Settings {
            connect_to: url.to_string(),
            netns: format!("file://{}", netns.display()),
            info: Default::default(),
            awareness_groups: Default::default(),
            policies: Policies::choose(policy::CLIENT)?,
            heal: nsm_sdk::chain![],
            dns: nsm_sdk::chain![],
        };
        let chain = client(&component, &settings, Arc::new(pool));
        Ok(Self {
            component,
            chain,
            netns: netns.to_path_buf(),
            pinger: None,
        })
    }

    /// The same client, which takes a wire for ready only when a ping has come back.
    pub fn pinging(mut self) -> Result<Self> {
        self.pinger = Some(Arc::new(Pinger::new(&self.netns)?));
        Ok(self)
    }

    /// Asks for `service` by its URL, as the connection `id`.
    pub async fn attach(&self, id: &str, service: &str) -> Result<Attached> {
        self.again(self.ask(id, service)?).await
    }

    /// The first request for `service` by its URL, as the connection `id`, not made yet.
    pub fn ask(&self, id: &str, service: &str) -> Result<Request> {
        Ok(client::request(&self.component, id, &service.parse()?))
    }

    /// Repeats a request, or makes a first one.
    pub async fn again(&self, mut request: Request) -> Result<Attached> {
        let ctx = Ctx::own(&self.component, TO_ATTACH);
        let began = Instant::now();
        self.chain.request(&ctx, &mut request).await?;
        let answered = began.elapsed();
        let mut attached = Attached {
            request,
            answered,
            carried: answered,
        };
        if let Some(pinger) = &self.pinger {
            let to = attached
                .endpoint()
                .context("the endpoint has no IPv4 address to ping")?;
            pinger.once(to, 1, began + TO_ATTACH)?;
            attached.carried = began.elapsed();
        }
        Ok(attached)
    }

    /// Closes a connection; answers how long the caller waited.
    pub async fn close(&self, mut request: Request) -> Result<Duration> {
        let ctx = Ctx::own(&self.component, TO_ATTACH);
        let began = Instant::now();
        self.chain.close(&ctx, &mut request).await?;
        Ok(began.elapsed())
    }

    /// What the manager knows of the connection `id` now.
    pub async fn look(&self, id: &str) -> Result<Option<nsm_api::connection::Connection>> {
        use futures::StreamExt;
        let selector = MonitorScopeSelector {
            path_segments: vec![nsm_api::connection::PathSegment {
                id: id.to_string(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let ctx = Ctx::own(&self.component, TO_ATTACH);
        let mut events = self.chain.find(&ctx, selector).await?;
        let first = events.next().await.transpose()?;
        Ok(first.and_then(|event| event.connections.into_values().next()))
    }

    /// Ends the client. Its connections stay as they are.
    pub async fn end(self) {
        self.component.end().await;
    }
}
