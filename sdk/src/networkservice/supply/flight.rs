// SPDX-License-Identifier: Apache-2.0
//! One start of an endpoint, from the order until it is registered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::{Place, Started, Supplier};
use crate::core::{Backoff, Ctx, DEFAULT_BUDGET, Error, Request, Result};
use crate::networkservice::lookup::MAX_FOUND;

/// How often what was found running may end before what was to be waited for: its end was on its way.
const MAX_ENDINGS: u32 = 5;

/// How long is waited until the registry is watched again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// How far it is.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// What people are told about it.
    pub(super) state: String,
    /// The endpoints of the service, by name.
    endpoints: BTreeMap<String, NetworkServiceEndpoint>,
    /// Whether nothing more happens.
    pub(super) is_over: bool,
    /// Why no endpoint came.
    pub(super) failed: Option<Error>,
    /// When it began, or ended.
    pub(super) since: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            state: "an endpoint is being started".into(),
            endpoints: BTreeMap::new(),
            is_over: false,
            failed: None,
            since: Instant::now(),
        }
    }
}

impl Progress {
    /// The endpoints that are still promised.
    pub(super) fn alive(&self, now: SystemTime) -> Vec<NetworkServiceEndpoint> {
        let is_alive = |endpoint: &&NetworkServiceEndpoint| {
            let expires = endpoint.expiration_time;
            let expires = expires.and_then(|time| SystemTime::try_from(time).ok());
            expires.is_none_or(|expires| now < expires)
        };
        self.endpoints.values().filter(is_alive).cloned().collect()
    }

    fn take(&mut self, told: NetworkServiceEndpointResponse) {
        let Some(endpoint) = told.network_service_endpoint else {
            return;
        };
        if told.deleted {
            self.endpoints.remove(&endpoint.name);
        } else if self.endpoints.len() < MAX_FOUND || self.endpoints.contains_key(&endpoint.name) {
            self.endpoints.insert(endpoint.name.clone(), endpoint);
        }
    }
}

/// A start that is under way.
pub(super) struct Flight {
    pub(super) supplier: Arc<Supplier>,
    pub(super) place: Place,
    /// That of the client that asked first.
    pub(super) request: Request,
    pub(super) service: Service,
    pub(super) told: watch::Sender<Progress>,
}

impl Flight {
    pub(super) async fn run(self) {
        let done = tokio::select! {
            done = self.start() => done,
            () = self.watch() => Ok(()),
        };
        if let Err(error) = &done {
            let Place { service, node } = &self.place;
            warn!(service, node, %error, "no endpoint came");
        }
        self.told.send_modify(|progress| {
            progress.is_over = true;
            progress.failed = done.err();
            progress.since = Instant::now();
        });
    }

    /// Starts an endpoint and waits for ever, unless it ends. Errors: why it did not come.
    async fn start(&self) -> Result<()> {
        let until = Instant::now() + self.supplier.settings.start_timeout;
        let mut endings = 0;
        loop {
            let starting = self.supplier.starter.start(&self.place, &self.request);
            let late = |_| Error::unavailable("endpoint-not-started", "starting an endpoint took too long");
            let mut started = timeout_at(until, starting).await.map_err(late)??;
            let (name, is_fresh) = (started.name(), started.is_fresh());
            if is_fresh {
                let Place { service, node } = &self.place;
                info!(service, node, name, "an endpoint is started");
            }
            let ended = self.wait(started.as_mut(), until).await?;
            endings += 1;
            if is_fresh || endings >= MAX_ENDINGS {
                let text = format!("{name} has ended before it was registered: {ended}");
                return Err(Error::unavailable("endpoint-not-started", text));
            }
            debug!(name, ended, "what was there has ended; starting another one");
        }
    }

    /// Waits until it has ended; answers how. Errors: it takes too long.
    async fn wait(&self, started: &mut dyn Started, until: Instant) -> Result<String> {
        let began = Instant::now();
        loop {
            if let Some(ended) = started.ended() {
                return Ok(ended);
            }
            let state = format!("{} is {}", started.name(), started.state());
            self.told.send_if_modified(|progress| {
                let is_news = progress.state != state;
                progress.state = state;
                is_news
            });
            if timeout_at(until, started.changed()).await.is_err() {
                let (name, state) = (started.name(), started.state());
                started.stop().await;
                let text = format!(
                    "{name} was not registered within {:.1?} and is stopped; it was {state}",
                    began.elapsed()
                );
                return Err(Error::unavailable("endpoint-not-started", text));
            }
        }
    }

    /// Watches the registry until there is an endpoint for the client that asked first.
    async fn watch(&self) {
        let component = &self.supplier.component;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            match self.follow().await {
                Ok(true) => return,
                Ok(false) => debug!("the registry has ended the watch"),
                Err(error) => debug!(%error, "cannot watch the registry"),
            }
            sleep(backoff.next(component)).await;
        }
    }

    /// Whether there is one; not when the watch has ended before.
    async fn follow(&self) -> Result<bool> {
        let component = &self.supplier.component;
        let ctx = Ctx::own(component, DEFAULT_BUDGET);
        let wanted = NetworkServiceEndpoint {
            network_service_names: vec![self.service.name.clone()],
            ..Default::default()
        };
        let query = NetworkServiceEndpointQuery {
            network_service_endpoint: Some(wanted),
            watch: true,
        };
        let mut found = self.supplier.registries.endpoints.find(&ctx, query).await?;
        self.told.send_modify(|progress| progress.endpoints.clear());
        let labels = &self.request.connection.labels;
        while let Some(told) = found.next().await {
            let told = told?;
            self.told.send_modify(|progress| progress.take(told));
            let alive = self.told.borrow().alive(component.now());
            if let Some(name) = self.supplier.fitting(labels, &self.service, &alive) {
                info!(service = self.service.name, name, "the endpoint is there");
                return Ok(true);
            }
        }
        Ok(false)
    }
}
