// SPDX-License-Identifier: Apache-2.0
//! What is noted of one wire.

use nsm_sdk::dataplane::Interface;
use serde::{Deserialize, Serialize};

use crate::asked::{Asked, Face};
use crate::end::End;
use crate::netns::NetnsId;

/// One end of a wire, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) netns: NetnsId,
    pub(crate) index: u32,
    pub(crate) end: End,
}

impl Place {
    /// The namespace and the name: what only one interface can have.
    pub(crate) fn key(&self) -> (NetnsId, String) {
        (self.netns, self.end.link.name.clone())
    }

    /// The same, and what its device has of the node.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (NetnsId, String)> + use<> {
        [self.key()].into_iter().chain(self.end.link.device.key())
    }
}

/// A wire that is there, or is being made.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Distinguishes it from every other wire, of this and of earlier lives of the program.
    pub(crate) serial: u64,
    pub(crate) connection: String,
    /// The ends that are on this node, the client's first.
    pub(crate) ends: Vec<Place>,
    /// What the ends were made from; unknown when an earlier life made them.
    pub(crate) asked: Option<Asked>,
    /// It is being worked on: what the kernel reports of it is our own doing.
    pub(crate) settling: bool,
    /// The kernel's state may differ from what is noted here.
    pub(crate) broken: bool,
    /// An earlier life made it, and nobody has asked for it since.
    pub(crate) orphan: bool,
    /// The index of the interface to which what comes out of the first end goes, as far as this life has seen to that.
    pub(crate) joined: Option<u32>,
}

impl Record {
    pub(crate) fn places(&self) -> &[Place] {
        &self.ends
    }

    /// Whether its ends are those that `wire` names, in these namespaces.
    pub(crate) fn is(&self, wire: &Asked, spaces: &[NetnsId]) -> bool {
        let wanted = wire.ends.iter().zip(spaces);
        let is = |(place, ((face, interface), netns)): (&Place, (&(Face, Interface), &NetnsId))| {
            let link = &place.end.link;
            (place.netns, link.device) == (*netns, wire.device)
                && link.name == interface.name
                && link.alias == face.alias(&self.connection)
        };
        self.ends.len() == wire.ends.len() && self.ends.iter().zip(wanted).all(is)
    }
}
