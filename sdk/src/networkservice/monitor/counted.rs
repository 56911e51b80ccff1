// SPDX-License-Identifier: Apache-2.0
//! How many connections there are by their states.

use nsm_api::connection::State;

use crate::core::meters::{Family, Held, Kind, Meters};

/// The connections that are established here, each in the state that was told of it last.
pub static CONNECTIONS: Family = Family {
    name: "nsm_connections",
    help: "Connections that are established here, by the state that was told last.",
    kind: Kind::Gauge,
    labels: &["state"],
};

/// Every state that a connection may be in.
const STATES: [State; 4] = [
    State::Up,
    State::Down,
    State::RefreshRequested,
    State::ReselectRequested,
];

/// The word for a state, in metrics and for people.
pub fn word(state: State) -> &'static str {
    match state {
        State::Up => "up",
        State::Down => "down",
        State::RefreshRequested => "refresh-requested",
        State::ReselectRequested => "reselect-requested",
    }
}

/// Says of every state that there is none so far: what is absent would be asked for in vain.
pub(super) fn begin(meters: &Meters) {
    for state in STATES {
        meters.add(&CONNECTIONS, &[word(state)], 0);
    }
}

/// One connection, counted in its state until this is dropped.
pub(super) struct Counted {
    state: State,
    held: Option<Held>,
}

impl Counted {
    pub(super) fn of(state: State, meters: &Meters) -> Self {
        let held = meters.hold(&CONNECTIONS, &[word(state)]);
        Self { state, held }
    }

    /// The same connection, which is in this state now.
    pub(super) fn moved(self, state: State, meters: &Meters) -> Self {
        if self.state == state {
            return self;
        }
        drop(self.held);
        Self::of(state, meters)
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(word(self.state))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nsm_api::connection::Connection;

    use super::*;
    use crate::core::testing::request;
    use crate::core::{Component, LinkId};
    use crate::networkservice::monitor::fingerprint::Fingerprint;
    use crate::networkservice::monitor::hub::Hub;

    /// Up, down, to be refreshed, to be selected anew.
    fn counts(component: &Component) -> [u64; 4] {
        let text = component.meters().text();
        let of = |state| {
            let start = format!("nsm_connections{{state=\"{}\"}} ", word(state));
            let mut told = text.lines().filter_map(|line| line.strip_prefix(&start));
            told.next()
                .and_then(|told| told.parse().ok())
                .expect("it is told")
        };
        STATES.map(of)
    }

    #[test]
    fn a_connection_counts_once_in_the_state_that_was_told_last_until_it_is_deleted() {
        let component = Component::new("nsmgr");
        component.meters().switch_on();
        let hub = Hub::new(&component);
        assert_eq!(counts(&component), [0; 4], "what has not happened is told, too");
        let answered = |id: &str| {
            let mut connection = request().connection;
            connection.id = id.into();
            let print = Fingerprint::of(&connection);
            hub.update(&connection, print, LinkId::default()).epoch
        };
        let told = |epoch, id: &str, state| {
            let mut connection = Connection {
                id: id.into(),
                ..request().connection
            };
            connection.set_state(state);
            hub.relay(epoch, &Arc::new(connection));
        };
        let (first, _) = (answered("a"), answered("b"));
        assert_eq!(counts(&component), [2, 0, 0, 0]);
        assert_eq!(answered("a"), first, "a refresh that changes nothing");
        assert_eq!(counts(&component), [2, 0, 0, 0]);
        for _ in 0..2 {
            told(first, "a", State::Down);
            assert_eq!(counts(&component), [1, 1, 0, 0]);
        }
        assert!(hub.change("b", |connection| connection.set_state(State::RefreshRequested)));
        assert_eq!(counts(&component), [0, 1, 1, 0]);
        assert!(hub.change("b", |connection| connection.set_state(State::ReselectRequested)));
        assert_eq!(counts(&component), [0, 1, 0, 1]);
        let again = answered("a");
        assert_eq!(counts(&component), [1, 0, 0, 1]);
        for _ in 0..2 {
            hub.delete("a", None);
            hub.delete("b", None);
            told(again, "a", State::Up);
            assert_eq!(counts(&component), [0; 4], "what is deleted is in no state");
        }
    }

    #[test]
    fn a_state_that_nobody_knows_is_counted_as_one_that_is_known() {
        let component = Component::new("nsmgr");
        component.meters().switch_on();
        let hub = Hub::new(&component);
        let mut connection = request().connection;
        connection.state = 77;
        hub.update(&connection, Fingerprint::of(&connection), LinkId::default());
        assert_eq!(counts(&component), [1, 0, 0, 0]);
    }
}
