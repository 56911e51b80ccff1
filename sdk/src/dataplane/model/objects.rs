// SPDX-License-Identifier: Apache-2.0
//! What there is in the model, and whose it is.

use super::Model;
use crate::core::Inode;

/// Something that the kernel holds for a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// The namespace that it is in.
    pub netns: Inode,
    /// What it is.
    pub kind: Kind,
    /// The interface, and what tells it from others of its kind.
    pub name: String,
    /// The connection that it was made for; empty for what nobody of ours has made.
    pub owner: String,
}

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One end of a wire.
    Link,
    /// An address of an interface.
    Address,
    /// A route of the main table.
    Route,
    /// A static neighbour.
    Neighbour,
    /// A rule with its table.
    Policy,
}

impl Model {
    /// Everything that there is, sorted; nothing of this must outlive its owner.
    pub fn objects(&self) -> Vec<Object> {
        let state = self.0.lock();
        let foreign = state
            .foreign
            .iter()
            .map(|(netns, name)| (*netns, Kind::Link, name.clone(), ""));
        let mut all: Vec<_> = foreign.collect();
        for (owner, pair) in &state.pairs {
            for at in 0..2 {
                let here = pair.interface(at);
                let of = |text: String| format!("{} {text}", here.name);
                all.push((pair.ends[at].netns, Kind::Link, here.name.clone(), owner));
                let mut add = |kind, text| all.push((pair.ends[at].netns, kind, of(text), owner.as_str()));
                here.addresses
                    .iter()
                    .for_each(|address| add(Kind::Address, address.to_string()));
                here.routes
                    .iter()
                    .for_each(|route| add(Kind::Route, route.prefix.to_string()));
                here.neighbours
                    .iter()
                    .for_each(|neighbour| add(Kind::Neighbour, neighbour.ip.to_string()));
                here.policies
                    .iter()
                    .for_each(|policy| add(Kind::Policy, format!("{policy:?}")));
            }
        }
        let object = |(netns, kind, name, owner): (_, _, _, &str)| Object {
            netns,
            kind,
            name,
            owner: owner.into(),
        };
        let mut all: Vec<_> = all.into_iter().map(object).collect();
        all.sort();
        all
    }
}
