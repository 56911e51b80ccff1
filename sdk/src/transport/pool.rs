// SPDX-License-Identifier: Apache-2.0
//! Ways to other components, kept and shared.
//!
//! **Guarantees**: one connection a target, whoever dials it; those who dial at the same time share one attempt. A unix
//! target is known by the inode of its socket, since its path may be `/proc/PID/fd/N`, where numbers are used again. (An
//! inode is not used again while a connection to it is open, for the other end holds it.) A connection is replaced when
//! it breaks, when the server drains it, and when our SVID was replaced; it ends when its last user has gone.
//! **On failure**: a call may find that its connection ended just before (`connection-gone`): dialling again helps.
//! **Limits**: [`Config`].
//! **Cost**: one lock and, for unix targets, one `stat` for a target that is connected; about 1 ms for one that is not.

mod slots;

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;

use super::Address;
use super::link::Link;
use super::remote::Caller;
use super::tls::Connector;
use crate::core::{Component, Dialer, Error, NetworkService, NsRegistry, NseRegistry, Remote, Result, Task};
use crate::identity::{Bundles, Credentials, Identity, Svid, Tokens};
use slots::{Slot, Slots, Target};

/// The least time between two looks for connections that are not needed.
const LEAST_SWEEP: Duration = Duration::from_millis(100);

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
pub struct Pool(Arc<Inner>);

struct Inner {
    component: Component,
    identity: Identity,
    tokens: Tokens,
    config: Config,
    connector: Mutex<Option<Prepared>>,
    slots: Mutex<Slots>,
    /// Sweeps, for as long as the pool is there.
    sweeper: OnceLock<Task>,
}

/// A connector and what it was made from.
struct Prepared {
    svid: Arc<Svid>,
    bundles: Arc<Bundles>,
    connector: Connector,
}

impl Pool {
    /// A pool of `component`: presents `identity`, signs calls with `tokens`.
    pub fn new(component: &Component, identity: Identity, tokens: Tokens) -> Self {
        Self::with(component, identity, tokens, Config::default())
    }

    /// As [`Pool::new`], otherwise configured.
    pub fn with(component: &Component, identity: Identity, tokens: Tokens, config: Config) -> Self {
        let inner = Arc::new(Inner {
            component: component.clone(),
            identity,
            tokens,
            slots: Mutex::new(Slots::new(config.max_connections)),
            config,
            connector: Mutex::default(),
            sweeper: OnceLock::new(),
        });
        let sweeping = sweep(
            component.clone(),
            Arc::downgrade(&inner),
            inner.config.idle_timeout,
        );
        let _first = inner.sweeper.set(component.spawn("pool", sweeping));
        Self(inner)
    }

    /// How many connections are kept or being made.
    pub fn connections(&self) -> usize {
        self.0.slots.lock().len()
    }

    async fn caller(&self, url: &str, deadline: Instant) -> Result<Arc<Caller>> {
        let address: Address = url.parse()?;
        let target = Target::of(&address)?;
        let mut attempt = match self.0.find(target, address)? {
            Slot::Open(caller, _) => return Ok(caller),
            Slot::Dialling(attempt, _) => attempt,
        };
        let late = |_| Error::deadline(format!("could not connect to {url} within the deadline"));
        let done = timeout_at(deadline, attempt.wait_for(Option::is_some))
            .await
            .map_err(late)?;
        let done = done.ok().and_then(|done| done.clone());
        done.unwrap_or_else(|| Err(Error::unavailable("shutdown", "the program is shutting down")))
    }
}

impl Inner {
    /// What there is for the target, begun when there is nothing of use.
    fn find(self: &Arc<Self>, target: Target, address: Address) -> Result<Slot> {
        let credentials = self.identity.current();
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&target, &credentials.svid) {
            return Ok(slot);
        }
        let connector = self.connector(&credentials)?;
        let (outcome, attempt) = watch::channel(None);
        let old = slots.begin(&target, attempt.clone(), &connector.svid)?;
        drop(slots);
        drop(old);
        let slot = Slot::Dialling(attempt, Arc::clone(&connector.svid));
        let inner = Arc::clone(self);
        self.component.spawn_detached("dial", async move {
            let done = inner.open(&target, &address, &connector).await;
            let ending = inner.component.shutdown().is_cancelled();
            let kept = done.as_ref().ok().filter(|_| !ending).cloned();
            inner.slots.lock().settle(target, &connector.svid, kept);
            let _nobody_may_wait = outcome.send(Some(done));
        });
        Ok(slot)
    }

    async fn open(&self, target: &Target, address: &Address, connector: &Connector) -> Result<Arc<Caller>> {
        let limit = self.config.dial_timeout;
        let opened = timeout(limit, Link::open(&self.component, connector, address)).await;
        let link = opened.unwrap_or_else(|_| {
            let text = format!("cannot connect to {address}: no answer within {limit:?}");
            Err(Error::unavailable("peer-unreachable", text))
        })?;
        if !Target::of(address).is_ok_and(|now| now == *target) {
            let text = format!("the socket {address} was replaced while it was dialled; dial again");
            return Err(Error::new(Code::Aborted, "connection-gone", text));
        }
        Ok(Arc::new(Caller::new(link, self.tokens.clone())))
    }

    fn connector(&self, now: &Credentials) -> Result<Connector> {
        let mut prepared = self.connector.lock();
        let current = prepared.as_ref().filter(|prepared| {
            Arc::ptr_eq(&prepared.svid, &now.svid) && Arc::ptr_eq(&prepared.bundles, &now.bundles)
        });
        if let Some(prepared) = current {
            return Ok(prepared.connector.clone());
        }
        let connector = Connector::new(now)?;
        *prepared = Some(Prepared {
            svid: Arc::clone(&now.svid),
            bundles: Arc::clone(&now.bundles),
            connector: connector.clone(),
        });
        Ok(connector)
    }
}

/// Sweeps until the pool is gone or the component ends, and then lets go of everything that is not in use.
async fn sweep(component: Component, pool: Weak<Inner>, idle: Duration) {
    loop {
        tokio::select! {
            () = component.shutdown().cancelled() => break,
            () = sleep((idle / 4).max(LEAST_SWEEP)) => {}
        }
        let Some(pool) = pool.upgrade() else { return };
        pool.slots.lock().sweep(idle);
    }
    if let Some(pool) = pool.upgrade() {
        pool.slots.lock().clear();
    }
}

#[async_trait]
impl Dialer<NetworkService> for Pool {
    async fn dial(&self, url: &str, deadline: Instant) -> Result<Arc<dyn Remote<NetworkService>>> {
        Ok(self.caller(url, deadline).await?)
    }
}

#[async_trait]
impl Dialer<NseRegistry> for Pool {
    async fn dial(&self, url: &str, deadline: Instant) -> Result<Arc<dyn Remote<NseRegistry>>> {
        Ok(self.caller(url, deadline).await?)
    }
}

#[async_trait]
impl Dialer<NsRegistry> for Pool {
    async fn dial(&self, url: &str, deadline: Instant) -> Result<Arc<dyn Remote<NsRegistry>>> {
        Ok(self.caller(url, deadline).await?)
    }
}
