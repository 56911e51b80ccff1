// SPDX-License-Identifier: Apache-2.0
//! What the hop behind says about a connection, as this hop sees it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use nsm_api::connection::{
    Connection, ConnectionEvent, ConnectionEventType as Kind, MonitorScopeSelector, PathSegment, State,
};
use nsm_api::path::MAX_SEGMENTS;
use tokio::time::sleep;
use tonic::Code;
use tracing::debug;

use super::link::OfLink;
use crate::core::{Backoff, Component, Ctx, Error, Found, NetworkService, Packed, Result, Way};
use crate::elements::dial::GONE;

/// How long opening a stream may take.
const OPEN: Duration = Duration::from_secs(5);

/// How often opening a stream is tried.
const OPEN_TRIES: u32 = 4;

/// The changes of one connection that the next hop tells.
pub(crate) struct Watch {
    known: Arc<Packed<Connection>>,
    events: Found<NetworkService>,
}

/// A change of a connection.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    /// How it was told.
    pub(crate) kind: Kind,
    /// The connection with our id and our index. A deleted one is down.
    pub(crate) connection: Arc<Connection>,
    /// Its state before.
    pub(crate) was: State,
}

impl Watch {
    /// The changes that `events` tell of `connection`, which is known as it is there.
    pub(super) fn of(connection: Arc<Packed<Connection>>, events: Found<NetworkService>) -> Self {
        Self {
            known: connection,
            events,
        }
    }

    /// What the next hop tells next; an error or nothing when it tells no more.
    pub(crate) async fn event(&mut self) -> Option<Result<ConnectionEvent>> {
        self.events.next().await
    }

    /// The connection is known to be like this meanwhile.
    pub(crate) fn know(&mut self, connection: Arc<Packed<Connection>>) {
        self.known = connection;
    }

    /// The connection as it is known.
    pub(crate) fn known(&self) -> Connection {
        self.known.open()
    }

    /// What the event changes; nothing when it tells of others, or what is known. A transfer tells of everything:
    /// what it does not tell of was deleted.
    pub(crate) fn apply(&mut self, event: ConnectionEvent) -> Option<Change> {
        let mut known = self.known.open();
        let (mut kind, was) = (event.r#type(), known.state());
        let told = event.connections.into_values();
        let mut seen: Vec<_> = told.filter_map(|told| seen(&known, kind, told)).collect();
        if kind == Kind::InitialStateTransfer && seen.is_empty() {
            let mut deleted = known.clone();
            deleted.set_state(State::Down);
            seen.push(deleted);
            kind = Kind::Delete;
        }
        let mut is_changed = false;
        for seen in seen {
            if seen != known {
                known = seen;
                is_changed = true;
            }
        }
        is_changed.then(|| {
            self.known = Arc::new(Packed::new(&known));
            Change {
                kind,
                connection: Arc::new(known),
                was,
            }
        })
    }
}

/// What a monitor tells of.
pub(super) enum Selected {
    /// A connection.
    Connection(MonitorScopeSelector),
    /// Everything that was requested over the link.
    Link,
}

impl Selected {
    pub(super) fn only(connection: &Connection) -> Self {
        let own = connection.path.as_ref().and_then(|path| path.current());
        let segment = PathSegment {
            id: connection.id.clone(),
            name: own.map(|segment| segment.name.clone()).unwrap_or_default(),
            ..Default::default()
        };
        Self::Connection(MonitorScopeSelector {
            path_segments: vec![segment],
            network_services: Vec::new(),
        })
    }
}

/// Opens a monitor of the hop at the end of `way`, in a few tries, for that hop may be busy. One whose connection has
/// ended does not come back by it.
pub(super) async fn open(
    component: &Component,
    way: &Way<NetworkService>,
    selected: Selected,
) -> Result<Found<NetworkService>> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let mut tries = 1;
    loop {
        match ask(component, way, &selected).await {
            Err(error) if tries < OPEN_TRIES && !is_refusal(&error) && !is_broken(&error) => {
                debug!(%error, "opening a monitor of the next hop");
                tries += 1;
                sleep(backoff.next(component)).await;
            }
            done => return done,
        }
    }
}

async fn ask(
    component: &Component,
    way: &Way<NetworkService>,
    selected: &Selected,
) -> Result<Found<NetworkService>> {
    let ctx = Ctx::own(component, OPEN);
    let selector = match selected {
        Selected::Connection(selector) => selector.clone(),
        Selected::Link => {
            ctx.call().insert(OfLink);
            MonitorScopeSelector::default()
        }
    };
    ctx.bounded("open a monitor of the next hop", way.0.find(&ctx, selector))
        .await
}

/// Whether the next hop does not serve monitors, or not to us: that says nothing about the connection.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated
    )
}

/// Whether the connection to the next hop has ended.
fn is_broken(error: &Error) -> bool {
    matches!(error.reason(), GONE | "peer-unreachable")
}

/// `known` as it is by what the next hop told, if that tells of it: in our coordinates or in those of the next hop.
/// What the next hop has of the path up to us is what it was asked with: we know that better.
fn seen(known: &Connection, kind: Kind, told: Connection) -> Option<Connection> {
    let (index, ours) = known.path.as_ref().map_or((0, [].as_slice()), |path| {
        (path.index, path.path_segments.as_slice())
    });
    let state = match told.state() {
        _ if kind == Kind::Delete => State::Down,
        // What it was asked with, which hops of others tell until the next refresh: it has answered.
        State::ReselectRequested => State::Up,
        told => told,
    };
    let mut path = told.path?;
    let here = usize::try_from(index).ok()?;
    let is_near = path.index == index || path.index == index.saturating_add(1);
    if path.path_segments.get(here)?.id != known.id || !is_near || path.path_segments.len() > MAX_SEGMENTS {
        return None;
    }
    path.index = index;
    for (told, ours) in path.path_segments.iter_mut().zip(ours).take(here + 1) {
        told.clone_from(ours);
    }
    let mut seen = known.clone();
    seen.path = Some(path);
    seen.context = told.context;
    seen.set_state(state);
    Some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Probe, end, request};

    /// A connection of the second hop of three, in the coordinates of hop `index`.
    fn connection(index: u32) -> Connection {
        let mut connection = request().connection;
        let path = connection.path.get_or_insert_default();
        path.index = index;
        path.path_segments = (0..3)
            .map(|hop| PathSegment {
                name: format!("hop-{hop}"),
                id: format!("id-{hop}"),
                ..Default::default()
            })
            .collect();
        connection.id = format!("id-{index}");
        connection
    }

    fn event(kind: Kind, connections: Vec<Connection>) -> ConnectionEvent {
        let connections = connections
            .into_iter()
            .map(|connection| (connection.id.clone(), connection));
        ConnectionEvent {
            r#type: kind as i32,
            connections: connections.collect(),
        }
    }

    /// What hop 1 sees of these events.
    async fn changes(events: Vec<ConnectionEvent>) -> Vec<Change> {
        let probe = Probe::<NetworkService>::new();
        probe.as_ref().find(events);
        let (component, way) = (Component::new("hop-1"), end(crate::chain![probe]));
        let known = connection(1);
        let events = open(&component, &way, Selected::only(&known))
            .await
            .expect("opens");
        let mut watch = Watch::of(Arc::new(Packed::new(&known)), events);
        let mut changes = Vec::new();
        while let Some(event) = watch.event().await {
            changes.extend(watch.apply(event.expect("no errors")));
        }
        changes
    }

    fn state(mut connection: Connection, state: State) -> Connection {
        connection.set_state(state);
        connection
    }

    #[tokio::test]
    async fn changes_are_told_in_our_coordinates() {
        let refreshing = state(connection(2), State::RefreshRequested);
        let changes = changes(vec![
            event(Kind::InitialStateTransfer, vec![connection(2)]),
            event(Kind::Update, vec![refreshing.clone()]),
            event(Kind::Update, vec![refreshing.clone()]),
            event(Kind::Delete, vec![refreshing]),
        ])
        .await;
        let change = |kind, now, was| Change {
            kind,
            connection: state(connection(1), now).into(),
            was,
        };
        assert_eq!(
            changes,
            [
                change(Kind::Update, State::RefreshRequested, State::Up),
                change(Kind::Delete, State::Down, State::RefreshRequested),
            ]
        );
    }

    #[tokio::test]
    async fn that_a_hop_was_asked_to_reselect_is_no_news() {
        let asked = || state(connection(2), State::ReselectRequested);
        let changes = changes(vec![
            event(Kind::InitialStateTransfer, vec![asked()]),
            event(Kind::Update, vec![asked()]),
        ])
        .await;
        assert!(changes.is_empty(), "{changes:?}");
    }

    #[tokio::test]
    async fn other_connections_and_other_places_on_the_path_are_not_ours() {
        let mut other = state(connection(2), State::Down);
        other.path.as_mut().expect("a path").path_segments[1].id = "other".into();
        let mut far = state(connection(2), State::Down);
        far.path.as_mut().expect("a path").index = 3;
        let before = state(connection(0), State::Down);
        let mut short = state(connection(1), State::Down);
        short.path.as_mut().expect("a path").path_segments.truncate(1);
        let mut long = state(connection(1), State::Down);
        let segments = &mut long.path.as_mut().expect("a path").path_segments;
        segments.resize(MAX_SEGMENTS + 1, Default::default());
        let mut none = state(connection(1), State::Down);
        none.path = None;
        for not_ours in [other, far, before, short, long, none] {
            assert!(
                changes(vec![event(Kind::Update, vec![not_ours])])
                    .await
                    .is_empty()
            );
        }
    }

    #[tokio::test]
    async fn the_path_up_to_us_stays_as_we_know_it() {
        let mut told = state(connection(2), State::RefreshRequested);
        for segment in &mut told.path.as_mut().expect("a path").path_segments {
            segment.token = "told".into();
        }
        let changes = changes(vec![event(Kind::Update, vec![told])]).await;
        let path = changes[0].connection.path.as_ref().expect("a path");
        let tokens: Vec<_> = path
            .path_segments
            .iter()
            .map(|segment| segment.token.as_str())
            .collect();
        assert_eq!(tokens, ["", "", "told"]);
    }

    #[tokio::test]
    async fn what_a_transfer_does_not_tell_of_was_deleted() {
        let changes = changes(vec![event(Kind::InitialStateTransfer, Vec::new())]).await;
        let deleted = Change {
            kind: Kind::Delete,
            connection: Arc::new(state(connection(1), State::Down)),
            was: State::Up,
        };
        assert_eq!(changes, [deleted]);
    }

    #[test]
    fn the_selector_names_our_segment() {
        let Selected::Connection(selector) = Selected::only(&connection(1)) else {
            panic!("a selector");
        };
        let segment = &selector.path_segments[0];
        assert_eq!((segment.name.as_str(), segment.id.as_str()), ("hop-1", "id-1"));
    }
}
