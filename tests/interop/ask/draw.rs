// SPDX-License-Identifier: Apache-2.0
//! Random material. Words are few, so that they meet: that is what matching is about.

use nsm_api::connection::{Connection, Path, PathSegment};
use nsm_api::matching::Labels;
use nsm_api::registry::{
    Destination, Match, Metadata, NetworkService, NetworkServiceEndpoint, NetworkServiceLabels,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Names of labels.
const NAMES: [&str; 5] = ["app", "nodeName", "zone", "tier", "x"];

/// Values of labels; templates among them, some of which are none.
const VALUES: [&str; 20] = [
    "a",
    "b",
    "c",
    "",
    "{{.nodeName}}",
    "{{ .zone }}",
    "{{.missing}}",
    "{{.app}}-{{.zone}}",
    "{{",
    "}}",
    "{{index . \"x\"}}",
    "{{- .app -}} ",
    " {{.app}}",
    "{{.}}",
    "{{}}",
    "{{.app}",
    "{{.app.b}}",
    "{{\"a\"}}",
    "{{/* a */}}",
    "{{.a-b}}",
];

/// Randomness of one question.
pub(super) struct Draw(StdRng);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0.random_range(0..limit)
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.0.random_ratio(percent, 100)
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    pub(super) fn text(&mut self, of: &[&str]) -> String {
        self.pick(of).to_string()
    }

    /// So many things, or fewer.
    pub(super) fn several<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    pub(super) fn labels(&mut self, most: usize) -> Labels {
        let labels = self.several(most, |draw| (draw.text(&NAMES), draw.text(&VALUES)));
        labels.into_iter().collect()
    }

    pub(super) fn service(&mut self) -> NetworkService {
        NetworkService {
            name: self.text(&["one", "two", "one@far", ""]),
            payload: self.text(&["IP", "ETHERNET", ""]),
            matches: self.several(3, Self::choice),
            ..Default::default()
        }
    }

    fn choice(&mut self) -> Match {
        let route = |draw: &mut Self| Destination {
            destination_selector: draw.labels(2),
            weight: u32::from(draw.chance(30)),
        };
        let labels = |draw: &mut Self| Metadata {
            labels: draw.labels(2),
        };
        Match {
            source_selector: self.labels(2),
            fallthrough: self.chance(40),
            routes: self.several(2, route),
            metadata: self.chance(20).then(|| labels(self)),
        }
    }

    pub(super) fn endpoint(&mut self) -> NetworkServiceEndpoint {
        let names = self.several(2, |draw| draw.text(&["one", "two", "three"]));
        let mut labels = Vec::new();
        for name in &names {
            if self.chance(80) {
                let labels_of = NetworkServiceLabels {
                    labels: self.labels(3),
                };
                labels.push((name.clone(), labels_of));
            }
        }
        let seconds = |draw: &mut Self| prost_types::Timestamp {
            seconds: i64::from(draw.chance(50)),
            nanos: i32::from(draw.chance(50)),
        };
        NetworkServiceEndpoint {
            name: self.text(&["e1", "e2", "e", ""]),
            url: self.text(&["tcp://10.0.0.1:5001", "unix:///run/e.sock", "10.0.0", ""]),
            network_service_names: names,
            network_service_labels: labels.into_iter().collect(),
            expiration_time: self.chance(20).then(|| seconds(self)),
            ..Default::default()
        }
    }

    /// A connection of which only the way is told.
    pub(super) fn connection(&mut self) -> Connection {
        let segment = |draw: &mut Self| PathSegment {
            name: draw.text(&["nsc", "nsmgr", "forwarder", ""]),
            id: draw.text(&["id-0", "id-1", "id-2", ""]),
            ..Default::default()
        };
        let path_segments = self.several(5, segment);
        let index = match self.chance(5) {
            true => u32::MAX,
            false => u32::try_from(self.below(6)).unwrap_or_default(),
        };
        let path = Path { index, path_segments };
        Connection {
            id: self.text(&["id-0", "id-1", "id-2", ""]),
            network_service: self.text(&["one", "two"]),
            path: (!self.chance(10)).then_some(path),
            ..Default::default()
        }
    }
}
