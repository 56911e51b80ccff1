// SPDX-License-Identifier: Apache-2.0
//! The phases by which every program starts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::Failure;
use crate::chains::endpoint::Gate;
use crate::core::{Component, Result};
use crate::identity::{Identity, Source, Tokens};
use crate::policy::Policies;
use crate::transport::{self, Pool};

/// How long a program waits for its identity.
const TO_IDENTIFY: Duration = Duration::from_secs(60);

/// A program that starts: each phase is logged with the time since the first.
pub struct Start {
    component: Component,
    tokens: Tokens,
    began: Instant,
}

impl Start {
    /// Begins. Tokens that the program signs are valid for `max_token_lifetime`.
    pub fn new(component: &Component, max_token_lifetime: super::Duration) -> Self {
        Self {
            component: component.clone(),
            tokens: Tokens::new(max_token_lifetime.into()),
            began: Instant::now(),
        }
    }

    /// Waits for the program's identity, from where the environment says.
    ///
    /// Errors: `no-identity-source`, `no-identity`.
    pub async fn identity(&self) -> Result<Identity, Failure> {
        let source = Source::choose(|name| std::env::var(name).ok());
        let source = source.map_err(Failure::settings)?;
        let identity = source
            .follow(&self.component, Instant::now() + TO_IDENTIFY)
            .await?;
        let spiffe_id = identity.current().svid.spiffe_id.clone();
        info!(spiffe_id, after = ?self.began.elapsed(), "identified");
        Ok(identity)
    }

    /// Whom the program lets in: the policies that `masks` select.
    pub fn gate(&self, identity: &Identity, masks: &[String]) -> Result<Gate, Failure> {
        Ok(Gate {
            identity: identity.clone(),
            tokens: self.tokens.clone(),
            policies: self.policies(masks)?,
        })
    }

    /// The policies that `masks` select.
    pub fn policies(&self, masks: &[String]) -> Result<Policies, Failure> {
        Policies::choose(&masks.join(",")).map_err(Failure::settings)
    }

    /// The program's ways to others, each dialled within `dial_timeout`.
    pub fn pool(&self, identity: &Identity, dial_timeout: super::Duration) -> Arc<Pool> {
        let config = transport::Config {
            dial_timeout: dial_timeout.into(),
            ..transport::Config::default()
        };
        Arc::new(Pool::with(
            &self.component,
            identity.clone(),
            self.tokens.clone(),
            config,
        ))
    }

    /// Tells where the program listens and that it is ready, and waits until it is told to end.
    pub async fn ready(&self, urls: &[String]) {
        for url in urls {
            info!(url, "listening");
        }
        info!(after = ?self.began.elapsed(), "ready");
        self.component.shutdown().cancelled().await;
    }
}
