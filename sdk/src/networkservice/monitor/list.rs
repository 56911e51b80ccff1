// SPDX-License-Identifier: Apache-2.0
//! The connections of a program, found by any id on their paths.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use nsm_api::connection::{Connection, MonitorScopeSelector};
use nsm_api::matching::connection_matches;

use super::subscriber::asked_id;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct List {
    connections: BTreeMap<Arc<str>, Listed>,
    /// Which connections have an id on their path, by the hash of that id: two ids may share one.
    by_segment: BTreeSet<(u64, Arc<str>)>,
    hash: RandomState,
}

#[derive(Debug)]
pub(super) struct Listed {
    pub(super) connection: Arc<Connection>,
    /// Since when it is as its own hop says; what was relayed of an earlier epoch comes too late.
    pub(super) epoch: u64,
}

impl List {
    /// Lists a connection in place of what was listed under its id.
    pub(super) fn insert(&mut self, connection: Arc<Connection>, epoch: u64) {
        let id: Arc<str> = connection.id.as_str().into();
        let hashes = self.hashes(&connection);
        let listed = Listed { connection, epoch };
        let old = self.connections.insert(Arc::clone(&id), listed);
        let old = old.map_or(Vec::new(), |old| self.hashes(&old.connection));
        if old != hashes {
            for hash in old {
                self.by_segment.remove(&(hash, Arc::clone(&id)));
            }
            self.by_segment
                .extend(hashes.into_iter().map(|hash| (hash, Arc::clone(&id))));
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Listed> {
        self.connections.get(id)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<Connection>> {
        let (id, listed) = self.connections.remove_entry(id)?;
        for hash in self.hashes(&listed.connection) {
            self.by_segment.remove(&(hash, Arc::clone(&id)));
        }
        Some(listed.connection)
    }

    /// Those that `selector` chooses.
    pub(super) fn matching(&self, selector: &MonitorScopeSelector) -> Vec<Arc<Connection>> {
        let matches = |listed: &&Listed| connection_matches(selector, &listed.connection);
        let copy = |listed: &Listed| Arc::clone(&listed.connection);
        match asked_id(selector) {
            "" => self.connections.values().filter(matches).map(copy).collect(),
            asked => {
                let hash = self.hash.hash_one(asked);
                let named = self.by_segment.range((hash, "".into())..);
                let named = named.take_while(|(other, _)| *other == hash);
                let listed = named.filter_map(|(_, id)| self.connections.get(id));
                listed.filter(matches).map(copy).collect()
            }
        }
    }

    /// The hashes of the ids on its path.
    fn hashes(&self, connection: &Connection) -> Vec<u64> {
        let segments = connection.path.iter().flat_map(|path| &path.path_segments);
        segments
            .map(|segment| self.hash.hash_one(segment.id.as_str()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use nsm_api::connection::{Path, PathSegment};

    use super::*;

    fn connection(ids: &[&str]) -> Arc<Connection> {
        let segment = |id: &&str| PathSegment {
            id: id.to_string(),
            ..Default::default()
        };
        Arc::new(Connection {
            id: ids[1].into(),
            path: Some(Path {
                index: 1,
                path_segments: ids.iter().map(segment).collect(),
            }),
            ..Default::default()
        })
    }

    fn found(list: &List, asked: &str) -> Vec<String> {
        let segment = PathSegment {
            id: asked.into(),
            ..Default::default()
        };
        let selector = MonitorScopeSelector {
            path_segments: vec![segment],
            ..Default::default()
        };
        let found = list.matching(&selector);
        found.iter().map(|connection| connection.id.clone()).collect()
    }

    #[test]
    fn a_connection_is_found_by_every_id_that_its_path_has_now() {
        let mut list = List::default();
        list.insert(connection(&["a", "b", "c"]), 1);
        list.insert(connection(&["a", "d", "e"]), 2);
        assert_eq!(found(&list, "a"), ["b", "d"]);
        assert_eq!(
            (found(&list, "c"), found(&list, "")),
            (vec!["b".into()], vec!["b".into(), "d".into()])
        );
        list.insert(connection(&["a", "b", "f"]), 3);
        assert_eq!(
            (found(&list, "c").len(), found(&list, "f")),
            (0, vec!["b".to_string()])
        );
        list.remove("b").expect("listed");
        assert_eq!(found(&list, "a"), ["d"]);
        list.remove("d").expect("listed");
        assert!(list.by_segment.is_empty() && found(&list, "a").is_empty());
    }
}
