// SPDX-License-Identifier: Apache-2.0
//! Ways to other components, kept and shared.
//!
//! **Guarantees**: one connection a target, whoever dials it; those who dial at the same time share one attempt. A unix
//! target is known by the inode of its socket, since its path may be `/proc/PID/fd/N`, where numbers are used again. (An
//! inode is not used again while a connection to it is open, for both ends hold it.) A connection is replaced when it
//! breaks, when the server drains it, and when our SVID was replaced; it ends when its last user has gone.
//! **Limits**: [`Config`].
//! **Cost**: one lock and, for unix targets, one `stat` for a target that is connected; about 1 ms for one that is not.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;

use super::Address;
use super::link::{Link, explain};
use super::remote::Caller;
use super::tls::Connector;
use crate::core::{Component, Dialer, Error, Inode, NetworkService, NsRegistry, NseRegistry, Remote, Result};
use crate::identity::{Bundles, Credentials, Identity, Svid, Tokens};

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
    slots: Mutex<HashMap<Target, Slot>>,
    janitor: OnceLock<crate::core::Task>,
}

/// A connector and what it was made from.
struct Prepared {
    svid: Arc<Svid>,
    bundles: Arc<Bundles>,
    connector: Connector,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Socket(Inode),
    Tcp(String),
}

type Attempt = watch::Receiver<Option<Result<Arc<Caller>>>>;

enum Slot {
    Dialling(Attempt, Arc<Svid>),
    Open(Arc<Caller>, Instant),
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
            config,
            connector: Mutex::default(),
            slots: Mutex::default(),
            janitor: OnceLock::new(),
        });
        let cleaning = clean(
            component.clone(),
            Arc::downgrade(&inner),
            inner.config.idle_timeout,
        );
        let _first = inner.janitor.set(component.spawn("pool", cleaning));
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
        let done = timeout_at(deadline, attempt.wait_for(Option::is_some)).await;
        let done =
            done.map_err(|_| Error::deadline(format!("could not connect to {url} within the deadline")))?;
        match done.ok().and_then(|done| done.clone()) {
            Some(done) => done,
            None => Err(Error::unavailable("shutdown", "the program is shutting down")),
        }
    }
}

impl Inner {
    /// What there is for the target, begun when there is nothing of use.
    fn find(self: &Arc<Self>, target: Target, address: Address) -> Result<Slot> {
        let credentials = self.identity.current();
        let mut slots = self.slots.lock();
        match slots.get_mut(&target) {
            Some(Slot::Open(caller, used)) if caller.serves(&credentials.svid) => {
                *used = Instant::now();
                return Ok(Slot::Open(Arc::clone(caller), *used));
            }
            Some(Slot::Dialling(attempt, svid)) if same(svid, &credentials.svid) => {
                return Ok(Slot::Dialling(attempt.clone(), Arc::clone(svid)));
            }
            _ => {}
        }
        let old = slots.remove(&target);
        if slots.len() >= self.config.max_connections {
            self.make_room(&mut slots)?;
        }
        let connector = self.connector(&credentials)?;
        let (outcome, attempt) = watch::channel(None);
        let slot = || Slot::Dialling(attempt.clone(), Arc::clone(&connector.svid));
        slots.insert(target.clone(), slot());
        drop(slots);
        drop(old);
        let (inner, slot) = (Arc::clone(self), slot());
        self.component.spawn_detached("dial", async move {
            let done = inner.open(&target, &address, &connector).await;
            inner.settle(target, &connector.svid, &done);
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

    /// Puts the outcome of an attempt in its place, unless another SVID's attempt has taken it.
    fn settle(&self, target: Target, by: &Arc<Svid>, done: &Result<Arc<Caller>>) {
        let mut slots = self.slots.lock();
        let ours = matches!(slots.get(&target), Some(Slot::Dialling(_, svid)) if same(svid, by));
        match done {
            _ if !ours => {}
            Ok(caller) if !self.component.shutdown().is_cancelled() => {
                slots.insert(target, Slot::Open(Arc::clone(caller), Instant::now()));
            }
            _ => {
                slots.remove(&target);
            }
        }
    }

    /// Drops the connection that is unused for the longest time.
    fn make_room(&self, slots: &mut HashMap<Target, Slot>) -> Result<()> {
        let unused = slots.iter().filter_map(|(target, slot)| match slot {
            Slot::Open(caller, used) if !caller.is_used() => Some((*used, target.clone())),
            _ => None,
        });
        let Some((_, target)) = unused.min_by_key(|(used, _)| *used) else {
            let text = format!(
                "{} connections to other components are in use, which is the most",
                slots.len()
            );
            return Err(Error::exhausted("too-many-connections", text));
        };
        slots.remove(&target);
        Ok(())
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

    /// Drops connections that are broken, or that nobody has used for a while.
    fn sweep(&self) {
        let now = Instant::now();
        self.slots.lock().retain(|_, slot| match slot {
            Slot::Dialling(..) => true,
            Slot::Open(caller, used) => {
                caller.link().expire_files();
                if caller.is_used() {
                    *used = now;
                }
                caller.link().is_open() && now.saturating_duration_since(*used) < self.config.idle_timeout
            }
        });
    }
}

impl Target {
    fn of(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(authority) => Ok(Self::Tcp(authority.clone())),
            Address::Unix(path) => match rustix::fs::stat(path) {
                Ok(stat) => Ok(Self::Socket(Inode {
                    dev: stat.st_dev,
                    ino: stat.st_ino,
                })),
                Err(error) => {
                    let why = explain(address, &error.into());
                    Err(Error::unavailable(
                        "peer-unreachable",
                        format!("cannot connect to {address}: {why}"),
                    ))
                }
            },
        }
    }
}

impl Caller {
    /// Whether it can be given to who dials with this SVID.
    fn serves(&self, svid: &Svid) -> bool {
        self.link().is_open()
            && self
                .link()
                .peer()
                .local
                .as_ref()
                .is_some_and(|local| same(local, svid))
    }

    /// Whether anybody but the pool holds it.
    fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || Arc::strong_count(self.link()) > 1
    }
}

/// Whether two SVIDs are the same one, told twice.
fn same(one: &Svid, other: &Svid) -> bool {
    one.certificates == other.certificates
}

/// Sweeps until the pool is gone or the component ends, and then lets go of everything that is not in use.
async fn clean(component: Component, pool: Weak<Inner>, idle: Duration) {
    loop {
        tokio::select! {
            () = component.shutdown().cancelled() => break,
            () = sleep((idle / 4).max(LEAST_SWEEP)) => {}
        }
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
    if let Some(pool) = pool.upgrade() {
        pool.slots.lock().clear();
    }
}

macro_rules! dials {
    ($($api:ty),*) => {$(
        #[async_trait]
        impl Dialer<$api> for Pool {
            async fn dial(&self, url: &str, deadline: Instant) -> Result<Arc<dyn Remote<$api>>> {
                Ok(self.caller(url, deadline).await?)
            }
        }
    )*};
}

dials!(NetworkService, NseRegistry, NsRegistry);
