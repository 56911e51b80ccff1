// SPDX-License-Identifier: Apache-2.0
//! Who has a name that is wanted: a stranger, an earlier life, or another connection.
//!
//! **Guarantees**: an interface that we did not make stays as it is, and the error names it and what to do. What an
//! earlier life made for the same connection is adopted. What another forwarder, of whichever implementation, has left
//! of the same connection is replaced: it is told by its alias. A new connection takes a name over from one that had it
//! in the same pod (its container has been started again); one that comes back for its own wire does not.

use std::sync::Arc;

use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::tunnel::Vxlan;
use tonic::Code;

use crate::asked::{Asked, Device, Face};
use crate::doomed::Remains;
use crate::make::{Attempt, Spaces};
use crate::netns::Netns;
use crate::observe::{self, Seen, Which};
use crate::outcome::Outcome;
use crate::record::{Place, Record};
use crate::{veth, vxlan};

impl Attempt<'_> {
    /// A name is taken: by a stranger, which is an error; by what an earlier life made for this connection, which
    /// is adopted; or by an interface of ours that is in the way, which goes.
    pub(crate) fn make_way(&mut self, spaces: &Spaces) -> Result<Outcome> {
        let wire = self.wire;
        let mut holders = Vec::with_capacity(spaces.len());
        for (netns, (face, interface)) in spaces.iter().zip(&wire.ends) {
            holders.push(self.holder(netns, *face, &interface.name)?);
        }
        let found: Option<Vec<&(Seen, Place)>> = holders.iter().map(Option::as_ref).collect();
        let is_ours = |found: &[&(Seen, Place)]| found.iter().all(|(seen, _)| self.is_ours(seen));
        if let Some(found) = found.filter(|found| is_ours(found) && is_of(found, wire)) {
            let record = Record {
                serial: self.shared.state().serial(),
                connection: wire.connection.clone(),
                ends: found.into_iter().map(|(_, place)| place.clone()).collect(),
                asked: None,
                settling: false,
                broken: true,
                orphan: true,
                joined: None,
            };
            self.shared.note(record);
            return Ok(Outcome::Again);
        }
        for (netns, holder) in spaces.iter().zip(holders) {
            if let Some((seen, place)) = holder {
                self.evict(netns, &seen, place)?;
            }
        }
        Ok(Outcome::Again)
    }

    /// The number of a tunnel is taken: by what an earlier life left of this connection in another pod, which goes, or by
    /// something else, which is an error.
    pub(crate) fn make_number_free(&mut self, vxlan: &Vxlan) -> Result<Outcome> {
        let holder = self.shared.state().holder(&self.wire.device).cloned();
        match holder {
            Some(record) if record.orphan && record.connection == self.wire.connection => {
                self.shared.doom(record.serial);
                Ok(Outcome::Again)
            }
            holder => Err(vxlan::taken(
                vxlan,
                holder.as_ref().map(|record| record.connection.as_str()),
            )),
        }
    }

    /// The interface that has the wanted name, if it is one of ours, or what another forwarder has left of this very
    /// end.
    pub(crate) fn holder(&mut self, netns: &Netns, face: Face, name: &str) -> Result<Option<(Seen, Place)>> {
        let broken = |error| veth::broken(&netns.id(), &error);
        let mut socket = self.station.socket(netns)?;
        let Some(seen) = observe::link(&mut socket, &Which::Name(name)).map_err(broken)? else {
            return Ok(None);
        };
        if !self.is_ours(&seen) && seen.alias != face.alias(&self.wire.connection) {
            return Err(taken(netns, &seen, "was not made by this forwarder"));
        }
        let place = observe::place(&mut socket, netns.id(), &seen).map_err(broken)?;
        Ok(place.map(|place| (seen, place)))
    }

    /// Whether we have made it, in this life or an earlier one.
    fn is_ours(&self, seen: &Seen) -> bool {
        [self.shared.group(), self.shared.doomed_group()].contains(&seen.group)
    }

    /// Removes an interface of ours that another connection has, or had in an earlier life.
    pub(crate) fn evict(&mut self, netns: &Arc<Netns>, seen: &Seen, place: Place) -> Result<()> {
        let holder = self.shared.state().by_index(seen.index).cloned();
        match holder {
            // The one who comes back for its own wire does not get another's; the newcomer does.
            Some(record) if self.is_refresh && !record.orphan => {
                return Err(taken(netns, seen, "belongs to another connection"));
            }
            Some(record) if record.connection == self.wire.connection => self.shared.doom(record.serial),
            Some(record) => {
                if !self.shared.doom_orphan(record.serial) && !self.shared.doom_idle(record.serial, |_| true)
                {
                    return Err(taken(
                        netns,
                        seen,
                        "belongs to another connection that is in work",
                    ));
                }
            }
            None => {
                let remains = Remains {
                    place,
                    netns: Some(netns.clone()),
                    path: None,
                };
                self.shared.doom_remains(vec![remains]);
            }
        }
        Ok(())
    }

    /// What is being tried, for errors.
    pub(crate) fn aim(&self) -> String {
        match self.wire.device {
            Device::Veth => format!("make the pair {}", self.wire.show()),
            Device::WireGuard => format!("set up the WireGuard device {}", self.wire.show()),
            Device::Vxlan(vxlan) => {
                let (vni, remote) = (vxlan.vni, vxlan.remote);
                format!(
                    "make the VXLAN device {} with VNI {vni} to {remote}",
                    self.wire.show()
                )
            }
        }
    }
}

/// Whether these are all the ends of what is asked for, and belong together.
pub(crate) fn is_of(found: &[&(Seen, Place)], wire: &Asked) -> bool {
    let is_end = |((seen, _), (face, _)): (&&(Seen, Place), &(Face, _))| {
        seen.alias == face.alias(&wire.connection) && seen.device == wire.device
    };
    let is_whole = match found {
        [(client, _), (endpoint, _)] => (client.peer, client.index) == (endpoint.index, endpoint.peer),
        _ => true,
    };
    is_whole && found.iter().zip(&wire.ends).all(is_end)
}

fn taken(netns: &Netns, seen: &Seen, why: &str) -> Error {
    let alias = if seen.alias.is_empty() {
        String::new()
    } else {
        format!(" (alias {})", seen.alias)
    };
    Error::new(
        Code::AlreadyExists,
        "interface-taken",
        format!(
            "the name {} is taken in {} by interface {}{alias}, which {why}; remove or rename that interface, or ask \
             for another name in the service URL",
            seen.name,
            netns.id(),
            seen.index
        ),
    )
}
