// SPDX-License-Identifier: Apache-2.0
//! One network service and the connections that are looked at when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use nsm_api::registry::NetworkService as Service;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::{debug, info};

use super::registry::{Chosen, Registry};
use crate::core::{Event, Events, Task};

/// A service that is watched as long as somebody holds this.
pub(super) struct Watched {
    registry: Arc<Registry>,
    state: Arc<Mutex<State>>,
    _task: Task,
}

#[derive(Default)]
struct State {
    service: Option<Arc<Service>>,
    /// How often the service was told.
    told: u64,
    connections: BTreeMap<u64, Connection>,
    /// The number of the connection that came last.
    last: u64,
}

/// A connection that is looked at when the service changes.
struct Connection {
    chosen: Arc<Chosen>,
    events: Events,
    /// An event that it asked for is withdrawn with it.
    _withdraw: DropGuard,
    /// What looks at it.
    look: Option<Task>,
}

/// A connection's place in a watch, which it leaves when this is dropped.
pub(super) struct Looking {
    watched: Arc<Watched>,
    number: u64,
}

impl Drop for Looking {
    fn drop(&mut self) {
        let gone = self.watched.state.lock().connections.remove(&self.number);
        drop(gone);
    }
}

impl Watched {
    /// Begins to watch the service of this name.
    pub(super) fn begin(registry: &Arc<Registry>, name: &str) -> Arc<Self> {
        let state = Arc::<Mutex<State>>::default();
        let (follows, told, name) = (Arc::clone(registry), Arc::clone(&state), name.to_string());
        let task = async move {
            follows
                .follow(&name, |service| told.lock().tell(&follows, service))
                .await
        };
        Arc::new(Self {
            registry: Arc::clone(registry),
            state,
            _task: registry.component().spawn("netsvcmonitor", task),
        })
    }

    /// How often the service was told.
    pub(super) fn told(&self) -> u64 {
        self.state.lock().told
    }

    /// Looks at the connection whenever the service is told more than so often.
    pub(super) fn look(
        self: Arc<Self>,
        chosen: Chosen,
        (events, withdraw): (Events, DropGuard),
        told: u64,
    ) -> Looking {
        let mut state = self.state.lock();
        state.last += 1;
        let number = state.last;
        let mut connection = Connection {
            chosen: Arc::new(chosen),
            events,
            _withdraw: withdraw,
            look: None,
        };
        if let Some(service) = state.service.as_ref().filter(|_| state.told > told) {
            connection.look(&self.registry, service);
        }
        state.connections.insert(number, connection);
        drop(state);
        Looking {
            watched: self,
            number,
        }
    }
}

impl State {
    /// Takes a state of the service, and looks at the connections if it is new; registries repeat themselves.
    fn tell(&mut self, registry: &Arc<Registry>, service: Service) {
        if self.service.as_deref() == Some(&service) {
            return;
        }
        let service = self.service.insert(Arc::new(service));
        self.told += 1;
        for connection in self.connections.values_mut() {
            connection.look(registry, service);
        }
    }
}

impl Connection {
    /// Begins to look, in place of an earlier look.
    fn look(&mut self, registry: &Arc<Registry>, service: &Arc<Service>) {
        if self.chosen.until.is_some_and(|until| until <= Instant::now()) {
            return;
        }
        let (chosen, events) = (Arc::clone(&self.chosen), self.events.clone());
        let (asks, service) = (Arc::clone(registry), Arc::clone(service));
        let looks = async move {
            if asks.is_lost(&service, &chosen).await {
                close(&chosen, &service, &events).await;
            }
        };
        self.look = Some(registry.component().spawn("netsvcmonitor", looks));
    }
}

/// Closes a connection that is lost.
async fn close(chosen: &Chosen, service: &Service, events: &Events) {
    let Chosen { id, endpoint, .. } = chosen;
    info!(
        id,
        endpoint,
        service = service.name,
        "the service does not choose the endpoint any more"
    );
    if let Err(error) = events.run(Event::Close).await {
        debug!(id, %error, "closing a connection");
    }
}
