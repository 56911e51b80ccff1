// SPDX-License-Identifier: Apache-2.0
//! Which VXLAN network identifiers are in use on this node.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::core::meters::{Family, Held, Kind, Meters};

/// How many tunnels have an identifier.
static IDENTIFIERS: Family = Family {
    name: "nsm_vxlan_identifiers",
    help: "VXLAN network identifiers that tunnels of this node have.",
    kind: Kind::Gauge,
    labels: &[],
};

/// A port and an identifier: the kernel has one device for each pair of them on a node, whatever its addresses.
type Used = (u16, u32);

/// The identifiers in use on one node. Clones are the same.
#[derive(Clone, Default)]
pub struct Vnis {
    used: Arc<Mutex<HashSet<Used>>>,
    meters: Meters,
}

/// An identifier that is ours until this is dropped.
pub(super) struct Lease {
    vnis: Vnis,
    used: Used,
    _counted: Option<Held>,
}

impl Vnis {
    /// None in use yet; those of tunnels are counted.
    pub fn new(meters: &Meters) -> Self {
        Self {
            used: Arc::default(),
            meters: meters.clone(),
        }
    }

    /// Marks an identifier as somebody else's for good, as the kernel has said.
    pub fn avoid(&self, port: u16, vni: u32) {
        self.used.lock().insert((port, vni));
    }

    /// How many are in use.
    pub fn len(&self) -> usize {
        self.used.lock().len()
    }

    /// Whether none is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes `vni` if it is free.
    pub(super) fn take(&self, port: u16, vni: u32) -> Option<Lease> {
        let is_free = vni != 0 && self.used.lock().insert((port, vni));
        is_free.then(|| Lease {
            vnis: self.clone(),
            used: (port, vni),
            _counted: self.meters.hold(&IDENTIFIERS, &[]),
        })
    }

    /// Takes the first free one of those that `draw` gives, which is asked often enough to find one.
    pub(super) fn draw(&self, port: u16, mut draw: impl FnMut() -> Option<u32>) -> Option<Lease> {
        const TRIES: usize = 1000;
        (0..TRIES).find_map(|_| self.take(port, draw()?))
    }
}

impl Lease {
    /// The identifier.
    pub(super) fn vni(&self) -> u32 {
        self.used.1
    }

    /// The identifier, if it is one of this port.
    pub(super) fn on(&self, port: u16) -> Option<u32> {
        (self.used.0 == port).then_some(self.used.1)
    }

    /// Whether it is this one.
    pub(super) fn is(&self, port: u16, vni: u32) -> bool {
        self.used == (port, vni)
    }

    /// Lets go of it without freeing it: it is somebody else's.
    pub(super) fn give_up(self) {
        let (vnis, (port, vni)) = (self.vnis.clone(), self.used);
        drop(self);
        vnis.avoid(port, vni);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.vnis.used.lock().remove(&self.used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_anothers_until_its_lease_is_dropped() {
        let vnis = Vnis::default();
        let lease = vnis.take(4789, 7).expect("free");
        assert!(vnis.take(4789, 7).is_none() && vnis.take(4789, 0).is_none());
        assert!(vnis.take(4790, 7).is_some(), "another port has its own");
        drop(lease);
        assert!(vnis.is_empty() && vnis.take(4789, 7).is_some());
    }

    #[test]
    fn what_the_kernel_says_is_taken_is_not_drawn() {
        let vnis = Vnis::default();
        vnis.take(4789, 2).expect("free").give_up();
        let mut next = [2, 2, 4].into_iter();
        let lease = vnis.draw(4789, || next.next()).expect("one is free");
        assert_eq!((lease.vni(), vnis.len()), (4, 2));
        assert!(vnis.draw(4789, || Some(4)).is_none());
    }
}
