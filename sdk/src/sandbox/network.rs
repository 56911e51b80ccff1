// SPDX-License-Identifier: Apache-2.0
//! The wire of a simulation: who listens where, and what those who watch it see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::Connected;
use crate::core::{
    Api, Chain, Component, Dialer, Error, Inode, NetworkService, NsRegistry, NseRegistry, Remote, Result,
};
use crate::identity::{Identity, Tokens};

/// An API that a [`Host`] may serve.
pub trait Served: Api {
    /// The chain by which the host serves it.
    fn chain(host: &Host) -> Option<&Chain<Self>>
    where
        Self: Sized;
}

/// One component of a simulated mesh, as others reach it.
#[derive(Clone)]
pub struct Host {
    /// Who it is.
    pub component: Component,
    /// The identity that it presents.
    pub identity: Identity,
    /// Once this is cancelled nothing arrives or leaves any more.
    pub power: CancellationToken,
    /// How it serves connections.
    pub network_service: Option<Chain<NetworkService>>,
    /// How it serves endpoints.
    pub nse_registry: Option<Chain<NseRegistry>>,
    /// How it serves services.
    pub ns_registry: Option<Chain<NsRegistry>>,
}

impl Served for NetworkService {
    fn chain(host: &Host) -> Option<&Chain<Self>> {
        host.network_service.as_ref()
    }
}

impl Served for NseRegistry {
    fn chain(host: &Host) -> Option<&Chain<Self>> {
        host.nse_registry.as_ref()
    }
}

impl Served for NsRegistry {
    fn chain(host: &Host) -> Option<&Chain<Self>> {
        host.ns_registry.as_ref()
    }
}

/// A call between two components.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls.
    pub from: String,
    /// Who is called.
    pub to: String,
    /// [`Api::NAME`].
    pub api: &'static str,
    /// What is called.
    pub kind: Kind,
    /// The id that the caller gives the connection, or the name of the entry; empty for a find.
    pub id: String,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A request or a registration.
    Request,
    /// A close or an unregistration.
    Close,
    /// A query or a monitor.
    Find,
}

/// How far a call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The caller calls.
    Sent,
    /// It is there.
    Arrived,
    /// The answer leaves: success, or the reason of the failure.
    Answered(std::result::Result<(), String>),
    /// The caller has its answer, or waits no more.
    Over,
}

type Tap = Arc<dyn Fn(&Call, &Step) + Send + Sync>;

/// Who listens where, and how messages travel. Cheap to clone.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    listening: BTreeMap<String, Arc<Host>>,
    delay: Duration,
    tap: Option<Tap>,
}

impl Network {
    /// Lets `host` listen on `url`, in place of whoever did, who is dead then. The URL of a socket in the file system
    /// is that socket, whatever path leads to it.
    pub fn listen(&self, url: &str, host: Host) {
        let before = self.0.lock().listening.insert(place(url), Arc::new(host));
        before.into_iter().for_each(|before| before.power.cancel());
    }

    /// Kills who listens on `url`.
    pub fn unlisten(&self, url: &str) {
        let before = self.0.lock().listening.remove(&place(url));
        before.into_iter().for_each(|before| before.power.cancel());
    }

    /// Lets go of those who are dead.
    pub(super) fn forget_dead(&self) {
        let mut state = self.0.lock();
        let dead: Vec<_> = state
            .listening
            .extract_if(.., |_, host| host.power.is_cancelled())
            .collect();
        drop(state);
        drop(dead);
    }

    /// From now on each message takes up to `most`.
    pub fn set_delay(&self, most: Duration) {
        self.0.lock().delay = most;
    }

    /// Tells `tap` of every step of every call, before it is taken.
    pub fn set_tap(&self, tap: impl Fn(&Call, &Step) + Send + Sync + 'static) {
        self.0.lock().tap = Some(Arc::new(tap));
    }

    /// The way for `component` to call others, as `identity`, until `power` is cancelled.
    pub fn dialer(
        &self,
        component: &Component,
        identity: &Identity,
        tokens: &Tokens,
        power: &CancellationToken,
    ) -> Arc<Way> {
        Arc::new(Way {
            network: self.clone(),
            component: component.clone(),
            identity: identity.clone(),
            tokens: tokens.clone(),
            power: power.clone(),
        })
    }

    pub(super) fn delay(&self) -> Duration {
        self.0.lock().delay
    }

    pub(super) fn tell(&self, call: &Call, step: &Step) {
        let tap = self.0.lock().tap.clone();
        if let Some(tap) = tap {
            tap(call, step);
        }
    }

    fn at(&self, url: &str) -> Result<Arc<Host>> {
        let host = self.0.lock().listening.get(&place(url)).cloned();
        host.filter(|host| !host.power.is_cancelled())
            .ok_or_else(|| Error::unavailable("peer-unreachable", format!("nobody listens on {url}")))
    }
}

/// What a URL stands for: a socket by its number, anything else by its name.
fn place(url: &str) -> String {
    let socket = url.strip_prefix("unix://").and_then(|path| Inode::at(path).ok());
    socket.map_or_else(|| url.to_string(), |socket| socket.to_string())
}

/// How one component calls others; a [`Dialer`] of every API.
pub struct Way {
    pub(super) network: Network,
    pub(super) component: Component,
    pub(super) identity: Identity,
    pub(super) tokens: Tokens,
    pub(super) power: CancellationToken,
}

#[async_trait]
impl<A: Served> Dialer<A> for Way {
    async fn dial(&self, url: &str, _: Instant) -> Result<Arc<dyn Remote<A>>> {
        Ok(Arc::new(Connected::new(self, self.network.at(url)?)?))
    }
}
