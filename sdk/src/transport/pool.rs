// SPDX-License-Identifier: Apache-2.0
//! Ways to other components, kept and shared.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::core::{Api, Component, Dialer, Remote, Result};
use crate::identity::{Identity, Tokens};

/// How a [`Pool`] behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long one attempt to connect may take, whoever waits for it.
    pub dial_timeout: Duration,
    /// How long a connection is kept that nobody uses.
    pub idle_timeout: Duration,
    /// How many connections are kept at most.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            max_connections: 1024,
        }
    }
}

/// Ways to other components. Cheap to clone; clones share their connections. A [`Dialer`] of all three APIs.
#[derive(Clone)]
pub struct Pool(Arc<(Component, Identity, Tokens, Config)>);

impl Pool {
    /// A pool of `component`: presents `identity`, signs calls with `tokens`.
    pub fn new(component: &Component, identity: Identity, tokens: Tokens) -> Self {
        Self::with(component, identity, tokens, Config::default())
    }

    /// As [`Pool::new`], otherwise configured.
    pub fn with(component: &Component, identity: Identity, tokens: Tokens, config: Config) -> Self {
        Self(Arc::new((component.clone(), identity, tokens, config)))
    }
}

#[async_trait]
impl<A: Api> Dialer<A> for Pool {
    async fn dial(&self, _url: &str, _deadline: Instant) -> Result<Arc<dyn Remote<A>>> {
        todo!()
    }
}
