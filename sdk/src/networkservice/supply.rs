// SPDX-License-Identifier: Apache-2.0
//! Has an endpoint started when a client asks for one that is not there.
//!
//! A supplier is registered for its service as an endpoint of last resort: the service's matches choose it when no other
//! endpoint fits. It never serves a wire itself. A request that reaches it waits until an endpoint is registered that
//! fits its client, and then fails with [`SUPPLIED`], upon which [`discover`](super::discover) in the client's forwarder
//! chooses again. A client whose forwarder does not know that reason asks again and finds the endpoint.
//!
//! **Guarantees**: of each service one start at a time for each node, however many ask; what was started before and
//! lives is waited for and not started again, also by another supplier or after a restart, as far as the [`Starter`]
//! can tell. A start that fails is told to everybody who waits for it, and repeated after a pause that grows. What was
//! started and does not register in time is stopped.
//! **Placement**: last in an endpoint: nothing behind it is called.
//! **Reads / writes**: reads the connection's service and labels, above all [`NODE`].
//! **On failure**: always, with what the client has to know: [`SUPPLIED`], `endpoint-not-ready` (it was started and is
//! not registered yet), `endpoint-not-started`, `too-many-starts`, or the starter's own error.
//! **Cost**: two look-ups in the registry a request; one task and one watch a start.

mod flight;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nsm_api::matching::{self, Labels};
use nsm_api::registry::{NetworkService as Service, NetworkServiceEndpoint};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use super::lookup::Registries;
use crate::core::{Backoff, Component, Ctx, Element, Error, NetworkService, Next, Request, Result, Task};
use flight::{Flight, Progress};

/// The reason of an error that tells that an endpoint is there now: whoever chose the supplier has to choose again.
pub const SUPPLIED: &str = "endpoint-supplied";

/// The label that says on which node an endpoint is needed.
pub const NODE: &str = "nodeName";

/// How many starts may be under way, or failed and not yet repeated, at the same time.
const MAX_FLIGHTS: usize = 1024;

/// How long is waited after a failed start until the next one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long is waited until what was started before is looked at again.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// How long the name of a node may be, bytes: as Kubernetes has it.
const MAX_NODE: usize = 253;

/// How long before its deadline a caller is answered at the latest, so that it still hears why.
const MARGIN: Duration = Duration::from_millis(500);

/// What an endpoint is started for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The service that it has to offer.
    pub service: String,
    /// The node on which it has to run; empty when the client names none.
    pub node: String,
}

impl Place {
    /// The place that a request asks for. Errors: `bad-node`, when its label is no name.
    pub fn of(request: &Request) -> Result<Self> {
        let node = request.connection.labels.get(NODE).cloned().unwrap_or_default();
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let is_edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
        let bytes = node.as_bytes();
        let is_name = bytes.iter().copied().all(is_part) && is_edge(bytes.first()) && is_edge(bytes.last());
        if !is_name || bytes.len() > MAX_NODE || node.contains("..") {
            let node: String = node.chars().take(64).collect();
            let text =
                format!("the label {NODE} is {node:?}, which is no name of a node: letters, digits, - and .");
            return Err(Error::invalid("bad-node", text));
        }
        Ok(Self {
            service: request.connection.network_service.clone(),
            node,
        })
    }
}

/// Starts endpoints.
#[async_trait]
pub trait Starter: Send + Sync + 'static {
    /// Starts an endpoint for `place`, or finds the one that was started for it and has not ended. `request` is that of
    /// the client that asked first.
    ///
    /// Errors: why none can be started, with the remedy.
    async fn start(&self, place: &Place, request: &Request) -> Result<Box<dyn Started>>;

    /// What was started before and has not ended: the requests for which it was, as far as they name service and
    /// labels.
    async fn left(&self) -> Vec<Request>;
}

/// An endpoint that was started. It goes on when this is dropped.
#[async_trait]
pub trait Started: Send {
    /// What people find it by.
    fn name(&self) -> String;
    /// Whether it was started by this call, and not found.
    fn is_fresh(&self) -> bool;
    /// What it is doing.
    fn state(&self) -> String;
    /// Waits until it does something else.
    async fn changed(&mut self);
    /// How it has ended, if it has.
    fn ended(&self) -> Option<String>;
    /// Ends it.
    async fn stop(&mut self);
}

/// What can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name under which the supplier registers itself.
    pub name: String,
    /// The labels of suppliers, by which the service's matches choose them.
    pub labels: Labels,
    /// How long a started endpoint may take until it is registered.
    pub start_timeout: Duration,
}

/// See the [module](self). Clones are the same.
#[derive(Clone)]
pub struct Supply {
    supplier: Arc<Supplier>,
    /// The last start for each place.
    flights: Arc<Mutex<HashMap<Place, Entry>>>,
}

struct Supplier {
    component: Component,
    settings: Settings,
    registries: Registries,
    starter: Arc<dyn Starter>,
}

/// The last start for a place.
struct Entry {
    progress: watch::Receiver<Progress>,
    backoff: Backoff,
    /// Until when nothing is started after a failure.
    rests: Option<Instant>,
    _task: Task,
}

impl Supply {
    /// Starts endpoints by `starter`, and looks in `registries` for those that are there.
    pub fn new(
        component: &Component,
        settings: Settings,
        registries: Registries,
        starter: Arc<dyn Starter>,
    ) -> Self {
        Self {
            supplier: Arc::new(Supplier {
                component: component.clone(),
                settings,
                registries,
                starter,
            }),
            flights: Arc::default(),
        }
    }

    /// Waits for what an earlier run has started, as for what this one starts: what does not register is stopped. Goes
    /// on until the registry knows each service, or as long as a start may take.
    pub async fn adopt(&self) {
        let component = &self.supplier.component;
        for request in self.supplier.starter.left().await {
            let ctx = Ctx::own(component, self.supplier.settings.start_timeout);
            let mut backoff = Backoff::new(FIRST_LOOK, FIRST_WAIT);
            while let Err(error) = self.adopt_one(&ctx, &request).await {
                debug!(%error, "cannot look after what was started before yet");
                if ctx.remaining().is_zero() {
                    break;
                }
                sleep(backoff.next(component)).await;
            }
        }
    }

    async fn adopt_one(&self, ctx: &Ctx, request: &Request) -> Result<()> {
        let service = self.supplier.registries.service(ctx, request).await?;
        self.join(&Place::of(request)?, request, &service).map(drop)
    }

    /// The start for this client, begun when there is none. Errors: what the last one failed with, as long as it is
    /// not repeated; `too-many-starts`.
    fn join(&self, place: &Place, request: &Request, service: &Service) -> Result<watch::Receiver<Progress>> {
        let mut flights = self.flights.lock();
        let backoff = match flights.get_mut(place) {
            Some(entry) => match entry.joined(&self.supplier.component)? {
                Some(progress) => return Ok(progress),
                None => entry.backoff,
            },
            None => Backoff::new(FIRST_WAIT, LONGEST_WAIT),
        };
        if flights.len() >= MAX_FLIGHTS {
            flights.retain(|_, entry| entry.is_of_use());
        }
        if flights.len() >= MAX_FLIGHTS && !flights.contains_key(place) {
            let text = format!("{MAX_FLIGHTS} endpoints are being started; ask again");
            return Err(Error::exhausted("too-many-starts", text));
        }
        let (told, progress) = watch::channel(Progress::default());
        let flight = Flight {
            supplier: Arc::clone(&self.supplier),
            place: place.clone(),
            request: request.clone(),
            service: service.clone(),
            told,
        };
        let entry = Entry {
            progress: progress.clone(),
            backoff,
            rests: None,
            _task: self.supplier.component.spawn("supply", flight.run()),
        };
        drop(flights.insert(place.clone(), entry));
        Ok(progress)
    }

    /// Waits until an endpoint fits; answers its name. Errors: why none does.
    async fn wait(&self, ctx: &Ctx, request: &Request, place: &Place) -> Result<String> {
        let labels = &request.connection.labels;
        let service = self.supplier.registries.service(ctx, request).await?;
        let found = self.supplier.registries.chosen(ctx, labels, &service).await?;
        if let Some(name) = self.supplier.fitting(labels, &service, &found.endpoints) {
            return Ok(name.to_string());
        }
        let mut progress = self.join(place, request, &service)?;
        let until = ctx.deadline() - MARGIN.min(ctx.remaining() / 4);
        loop {
            let is_over = {
                let now = progress.borrow_and_update();
                let found = now.alive(ctx.component().now());
                if let Some(name) = self.supplier.fitting(labels, &service, &found) {
                    return Ok(name.to_string());
                }
                if let Some(error) = &now.failed {
                    return Err(error.clone());
                }
                now.is_over
            };
            if is_over {
                // It is there for whoever asked first, and not for this client.
                progress = self.join(place, request, &service)?;
            }
            tokio::select! {
                _changed = progress.changed() => {}
                () = sleep_until(until) => {
                    let state = progress.borrow().state.clone();
                    let text = format!("{state}; no endpoint of {} fits a client labelled {labels:?} yet, ask again", service.name);
                    return Err(Error::unavailable("endpoint-not-ready", text));
                }
                () = ctx.cancelled().cancelled() => {
                    return Err(Error::unavailable("endpoint-not-ready", "nobody waits any more"));
                }
            }
        }
    }
}

impl Supplier {
    /// The name of an endpoint to which the client would be routed now.
    fn fitting<'a>(
        &self,
        labels: &Labels,
        service: &Service,
        found: &'a [NetworkServiceEndpoint],
    ) -> Option<&'a str> {
        let chosen = matching::endpoints(labels, service, found);
        let other = chosen
            .into_iter()
            .find(|endpoint| !self.is_supplier(service, endpoint))?;
        Some(&other.name)
    }

    /// Whether an endpoint is a supplier like us: it has our labels, or where there are none, our name.
    fn is_supplier(&self, service: &Service, endpoint: &NetworkServiceEndpoint) -> bool {
        let Settings { name, labels, .. } = &self.settings;
        if labels.is_empty() {
            return endpoint.name.starts_with(name.as_str());
        }
        let offered = endpoint.network_service_labels.get(&service.name);
        offered.is_some_and(|offered| {
            labels
                .iter()
                .all(|(key, value)| offered.labels.get(key) == Some(value))
        })
    }
}

impl Entry {
    /// The start, if it is under way. Errors: what it failed with, while it rests.
    fn joined(&mut self, component: &Component) -> Result<Option<watch::Receiver<Progress>>> {
        let now = self.progress.borrow();
        if !now.is_over {
            return Ok(Some(self.progress.clone()));
        }
        let Some(error) = &now.failed else {
            self.backoff.reset();
            return Ok(None);
        };
        let backoff = &mut self.backoff;
        let rests = *self
            .rests
            .get_or_insert_with(|| now.since + backoff.next(component));
        let left = rests.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        Err(error.clone().context(format!("the next start is in {left:.1?}")))
    }

    /// Whether it is under way, or has failed lately.
    fn is_of_use(&self) -> bool {
        let now = self.progress.borrow();
        !now.is_over || (now.failed.is_some() && now.since.elapsed() < LONGEST_WAIT)
    }
}

#[async_trait]
impl Element<NetworkService> for Supply {
    fn name(&self) -> &'static str {
        "supply"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        let place = Place::of(request)?;
        let name = self.wait(ctx, request, &place).await?;
        let text = format!("the endpoint {name} is there; ask again without naming one");
        Err(Error::unavailable(SUPPLIED, text))
    }
}

#[cfg(test)]
mod tests;
