// SPDX-License-Identifier: Apache-2.0
//! What waits for one subscriber, never without a bound.

use std::collections::VecDeque;
use std::sync::Arc;

use nsm_api::connection::{Connection, ConnectionEvent, ConnectionEventType as Kind, MonitorScopeSelector};
use nsm_api::matching::connection_matches;
use nsm_api::path::MAX_SEGMENTS;
use tokio::sync::Notify;

use crate::core::{Error, Result};
use crate::elements::updatepath::{MAX_NAME, MAX_TOKEN};

/// How many events wait for one subscriber before it gets a new initial transfer in place of those that follow.
pub(super) const MAX_QUEUE: usize = 256;

/// How many services one selector may name.
const MAX_SERVICES: usize = 1024;

#[derive(Debug)]
pub(super) struct Subscriber {
    selector: MonitorScopeSelector,
    queue: VecDeque<Change>,
    /// Once the queue was full: the connections that were deleted since.
    missed: Option<Vec<Arc<Connection>>>,
    wake: Arc<Notify>,
}

type Change = (Kind, Vec<Arc<Connection>>);

impl Subscriber {
    /// Somebody who is told of these connections first, and is woken when there is more.
    pub(super) fn new(
        selector: MonitorScopeSelector,
        initial: Vec<Arc<Connection>>,
        wake: &Arc<Notify>,
    ) -> Self {
        Self {
            selector,
            queue: [(Kind::InitialStateTransfer, initial)].into(),
            missed: None,
            wake: Arc::clone(wake),
        }
    }

    pub(super) fn tell(&mut self, kind: Kind, connection: &Arc<Connection>) {
        if !connection_matches(&self.selector, connection) {
            return;
        }
        if self.missed.is_none() && self.queue.len() >= MAX_QUEUE {
            self.missed = Some(Vec::new());
        }
        match &mut self.missed {
            None => self.queue.push_back((kind, vec![Arc::clone(connection)])),
            Some(deleted) if kind == Kind::Delete && deleted.len() <= MAX_QUEUE => {
                deleted.push(Arc::clone(connection));
            }
            Some(_) => {}
        }
        self.wake.notify_one();
    }

    /// What it is to be told next. `listed` makes a new initial transfer for its selector.
    ///
    /// Errors: `monitor-lags`, when even what was deleted is too much to be kept; then it is told nothing more.
    pub(super) fn next(
        &mut self,
        listed: impl FnOnce(&MonitorScopeSelector) -> Vec<Arc<Connection>>,
    ) -> Option<Result<ConnectionEvent>> {
        if let Some(change) = self.queue.pop_front() {
            return Some(Ok(event(change)));
        }
        let deleted = self.missed.take()?;
        if deleted.len() > MAX_QUEUE {
            let text = "the monitor is so slow that deleted connections cannot be told any more";
            return Some(Err(Error::exhausted("monitor-lags", text)));
        }
        self.queue
            .push_back((Kind::InitialStateTransfer, listed(&self.selector)));
        if !deleted.is_empty() {
            return Some(Ok(event((Kind::Delete, deleted))));
        }
        self.queue.pop_front().map(event).map(Ok)
    }

    /// What it has asked for.
    pub(super) fn selector(&self) -> &MonitorScopeSelector {
        &self.selector
    }
}

/// An id that every connection has which the selector chooses; empty when there is none.
pub(super) fn asked_id(selector: &MonitorScopeSelector) -> &str {
    let mut ids = selector.path_segments.iter().map(|segment| segment.id.as_str());
    ids.find(|id| !id.is_empty()).unwrap_or("")
}

fn event((kind, connections): Change) -> ConnectionEvent {
    let entry = |connection: Arc<Connection>| (connection.id.clone(), Arc::unwrap_or_clone(connection));
    ConnectionEvent {
        r#type: kind as i32,
        connections: connections.into_iter().map(entry).collect(),
    }
}

/// Refuses selectors that are larger than any honest one.
pub(super) fn check(selector: &MonitorScopeSelector) -> Result<()> {
    let services = &selector.network_services;
    let fits = selector.path_segments.len() <= MAX_SEGMENTS
        && services.len() <= MAX_SERVICES
        && services.iter().all(|name| name.len() <= MAX_NAME)
        && selector.path_segments.iter().all(|segment| {
            segment.name.len().max(segment.id.len()) <= MAX_NAME && segment.token.len() <= MAX_TOKEN
        });
    if fits {
        return Ok(());
    }
    let text = format!(
        "a monitor may select by {MAX_SEGMENTS} path segments and {MAX_SERVICES} services, names up to {MAX_NAME} bytes"
    );
    Err(Error::invalid("selector-too-large", text))
}
