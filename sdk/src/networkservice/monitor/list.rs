// SPDX-License-Identifier: Apache-2.0
//! The connections of a program, found by any id on their paths.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use nsm_api::connection::{Connection, MonitorScopeSelector};
use nsm_api::matching::connection_matches;

use super::counted::{self, Counted};
use super::fingerprint::Fingerprint;
use super::subscriber::asked_id;
use crate::core::meters::Meters;
use crate::core::{LinkId, Packed};

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct List {
    connections: BTreeMap<Arc<str>, Listed>,
    /// Which connections have an id on their path, by the hash of that id: two ids may share one.
    by_segment: BTreeSet<(u64, Arc<str>)>,
    hash: RandomState,
    meters: Meters,
}

#[derive(Debug)]
pub(super) struct Listed {
    pub(super) connection: Arc<Packed<Connection>>,
    /// The hashes of the ids on its path.
    hashes: Box<[u64]>,
    counted: Counted,
    pub(super) standing: Standing,
}

/// What is known of a connection beside itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) print: Fingerprint,
    /// Since when it is as its own hop says; what was relayed of an earlier epoch comes too late.
    pub(super) epoch: u64,
    /// By which transport connection it was requested last.
    pub(super) link: LinkId,
    /// Whether it has changed since that request was answered.
    pub(super) is_news: bool,
}

impl List {
    /// An empty one, which counts by `meters`.
    pub(super) fn new(meters: &Meters) -> Self {
        counted::begin(meters);
        Self {
            meters: meters.clone(),
            ..Self::default()
        }
    }

    /// Lists a connection in place of what was listed under its id.
    pub(super) fn insert(&mut self, connection: &Connection, standing: Standing) -> Arc<Packed<Connection>> {
        let hashes = self.hashes(connection);
        let connections = &mut self.connections;
        let (state, meters) = (connection.state(), &self.meters);
        let (id, old, counted) = match connections.remove_entry(connection.id.as_str()) {
            Some((id, old)) => (id, old.hashes, old.counted.moved(state, meters)),
            None => (
                connection.id.as_str().into(),
                Box::default(),
                Counted::of(state, meters),
            ),
        };
        if old != hashes {
            for hash in old {
                self.by_segment.remove(&(hash, Arc::clone(&id)));
            }
            self.by_segment
                .extend(hashes.iter().map(|hash| (*hash, Arc::clone(&id))));
        }
        let kept = Arc::new(Packed::new(connection));
        let listed = Listed {
            connection: Arc::clone(&kept),
            hashes,
            counted,
            standing,
        };
        connections.insert(id, listed);
        kept
    }

    pub(super) fn get(&self, id: &str) -> Option<&Listed> {
        self.connections.get(id)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<(Arc<str>, Listed)> {
        let (id, mut listed) = self.connections.remove_entry(id)?;
        for hash in std::mem::take(&mut listed.hashes) {
            self.by_segment.remove(&(hash, Arc::clone(&id)));
        }
        Some((id, listed))
    }

    /// The connection was requested by this transport connection.
    pub(super) fn moved(&mut self, id: &str, link: LinkId) {
        if let Some(listed) = self.connections.get_mut(id) {
            listed.standing.link = link;
        }
    }

    /// The ids of those that were requested by `link`.
    pub(super) fn of_link(&self, link: LinkId) -> impl Iterator<Item = Arc<str>> {
        let listed = self.connections.iter();
        listed
            .filter(move |(_, listed)| listed.standing.link == link)
            .map(|(id, _)| Arc::clone(id))
    }

    /// The connection, if it was requested by `link`.
    pub(super) fn requested_by(&self, link: LinkId, id: &str) -> Option<Connection> {
        let listed = self.connections.get(id)?;
        (listed.standing.link == link).then(|| listed.connection.open())
    }

    /// Those that `selector` chooses.
    pub(super) fn matching(&self, selector: &MonitorScopeSelector) -> Vec<Arc<Connection>> {
        let matching = |listed: &Listed| {
            let connection = listed.connection.open();
            connection_matches(selector, &connection).then(|| Arc::new(connection))
        };
        match asked_id(selector) {
            "" => self.connections.values().filter_map(matching).collect(),
            asked => {
                let hash = self.hash.hash_one(asked);
                let named = self.by_segment.range((hash, "".into())..);
                let named = named.take_while(|(other, _)| *other == hash);
                let listed = named.filter_map(|(_, id)| self.connections.get(id));
                listed.filter_map(matching).collect()
            }
        }
    }

    /// The hashes of the ids on its path.
    fn hashes(&self, connection: &Connection) -> Box<[u64]> {
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

    fn connection(ids: &[&str]) -> Connection {
        let segment = |id: &&str| PathSegment {
            id: id.to_string(),
            ..Default::default()
        };
        Connection {
            id: ids[1].into(),
            path: Some(Path {
                index: 1,
                path_segments: ids.iter().map(segment).collect(),
            }),
            ..Default::default()
        }
    }

    fn insert(list: &mut List, ids: &[&str], epoch: u64) {
        let connection = connection(ids);
        let standing = Standing {
            print: Fingerprint::of(&connection),
            epoch,
            link: LinkId::default(),
            is_news: false,
        };
        list.insert(&connection, standing);
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
        insert(&mut list, &["a", "b", "c"], 1);
        insert(&mut list, &["a", "d", "e"], 2);
        assert_eq!(found(&list, "a"), ["b", "d"]);
        assert_eq!(
            (found(&list, "c"), found(&list, "")),
            (vec!["b".into()], vec!["b".into(), "d".into()])
        );
        insert(&mut list, &["a", "b", "f"], 3);
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
