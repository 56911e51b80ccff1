// SPDX-License-Identifier: Apache-2.0
//! What waits for somebody who is told of everything that one transport connection has requested.
//!
//! **Guarantees**: of each connection the last change is told, however slowly it is read: what waits has one entry a
//! connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use nsm_api::connection::{Connection, ConnectionEvent, ConnectionEventType as Kind};
use prost::Message;
use tokio::sync::Notify;

use crate::core::{Error, Result};

/// How many deleted connections wait for one requester.
const MAX_DELETED: usize = 16_384;

/// An event takes no more connections once it has so many bytes.
const ENOUGH: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Requester {
    waiting: BTreeMap<Arc<str>, Change>,
    deleted: usize,
    /// Whether everything has been told that was there at first.
    is_transferred: bool,
    wake: Arc<Notify>,
}

#[derive(Debug)]
enum Change {
    /// It is there, as it is listed by then.
    Listed,
    /// It was deleted when it was like this.
    Deleted(Arc<Connection>),
}

impl Requester {
    /// Somebody who is told of these connections first, and is woken when there is more.
    pub(super) fn new(ids: impl Iterator<Item = Arc<str>>, wake: &Arc<Notify>) -> Self {
        Self {
            waiting: ids.map(|id| (id, Change::Listed)).collect(),
            deleted: 0,
            is_transferred: false,
            wake: Arc::clone(wake),
        }
    }

    /// The connection has changed.
    pub(super) fn changed(&mut self, id: &Arc<str>) {
        self.put(id, Change::Listed);
    }

    /// The connection was deleted.
    pub(super) fn deleted(&mut self, id: &Arc<str>, connection: &Arc<Connection>) {
        self.put(id, Change::Deleted(Arc::clone(connection)));
    }

    /// The requester knows by an answer how the connection is.
    pub(super) fn answered(&mut self, id: &str) {
        if let Some(Change::Deleted(_)) = self.waiting.remove(id) {
            self.deleted -= 1;
        }
    }

    fn put(&mut self, id: &Arc<str>, change: Change) {
        self.answered(id);
        self.deleted += usize::from(matches!(change, Change::Deleted(_)));
        self.waiting.insert(Arc::clone(id), change);
        self.wake.notify_one();
    }

    /// What it is to be told next; `listed` gives a connection that is there and that it has requested.
    ///
    /// Errors: `monitor-lags`, when too much was deleted that it has not read; then it is told nothing more.
    pub(super) fn next(
        &mut self,
        listed: impl Fn(&str) -> Option<Connection>,
    ) -> Option<Result<ConnectionEvent>> {
        if self.deleted > MAX_DELETED {
            let text = "the monitor is so slow that deleted connections cannot be told any more";
            return Some(Err(Error::exhausted("monitor-lags", text)));
        }
        let (mut kind, mut told, mut size) = (None, Vec::new(), 0);
        while size < ENOUGH {
            let Some(first) = self.waiting.first_entry() else {
                break;
            };
            let is_deleted = matches!(first.get(), Change::Deleted(_));
            if *kind.get_or_insert(is_deleted) != is_deleted {
                break;
            }
            let connection = match first.remove_entry() {
                (id, Change::Listed) => listed(&id),
                (_, Change::Deleted(connection)) => {
                    self.deleted -= 1;
                    Some(Arc::unwrap_or_clone(connection))
                }
            };
            size += connection.as_ref().map_or(0, Connection::encoded_len);
            told.extend(connection);
        }
        match kind {
            Some(true) => Some(Ok(event(Kind::Delete, told))),
            _ if self.is_transferred => (!told.is_empty()).then(|| Ok(event(Kind::Update, told))),
            _ => {
                self.is_transferred = told.is_empty();
                Some(Ok(event(Kind::InitialStateTransfer, told)))
            }
        }
    }
}

fn event(kind: Kind, connections: Vec<Connection>) -> ConnectionEvent {
    let entry = |connection: Connection| (connection.id.clone(), connection);
    ConnectionEvent {
        r#type: kind as i32,
        connections: connections.into_iter().map(entry).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str) -> Option<Connection> {
        (id != "gone").then(|| Connection {
            id: id.into(),
            payload: "x".repeat(ENOUGH / 2),
            ..Default::default()
        })
    }

    fn told(requester: &mut Requester) -> Option<(Kind, Vec<String>)> {
        let event = requester.next(listed)?.expect("no error");
        Some((event.r#type(), event.connections.into_keys().collect()))
    }

    fn requester(ids: &[&str]) -> Requester {
        Requester::new(ids.iter().map(|id| Arc::from(*id)), &Arc::default())
    }

    #[test]
    fn what_is_there_is_told_in_pieces_and_then_that_this_was_all() {
        let mut requester = requester(&["a", "b", "c"]);
        let piece = |ids: &[&str]| {
            let ids = ids.iter().map(ToString::to_string).collect();
            Some((Kind::InitialStateTransfer, ids))
        };
        assert_eq!(told(&mut requester), piece(&["a", "b"]));
        requester.changed(&"a".into());
        assert_eq!(told(&mut requester), piece(&["a", "c"]));
        assert_eq!(told(&mut requester), piece(&[]));
        assert_eq!(told(&mut requester), None);
    }

    #[test]
    fn of_many_changes_of_a_connection_the_last_one_is_told() {
        let mut requester = requester(&[]);
        told(&mut requester).expect("the end of the transfer");
        let gone = Arc::new(Connection::default());
        for _ in 0..MAX_DELETED * 2 {
            requester.deleted(&"a".into(), &gone);
            requester.changed(&"a".into());
            requester.changed(&"gone".into());
            requester.changed(&"b".into());
            requester.answered("b");
        }
        assert_eq!(told(&mut requester), Some((Kind::Update, vec!["a".into()])));
        assert_eq!(told(&mut requester), None);
        requester.deleted(&"a".into(), &gone);
        assert_eq!(told(&mut requester).expect("told").0, Kind::Delete);
    }

    #[test]
    fn who_is_too_slow_to_hear_what_was_deleted_is_cut() {
        let mut requester = requester(&[]);
        let gone = Arc::new(Connection::default());
        for id in 0..=MAX_DELETED {
            requester.deleted(&id.to_string().into(), &gone);
        }
        let error = requester.next(listed).expect("told").expect_err("too much");
        assert_eq!(error.reason(), "monitor-lags");
    }
}
