// SPDX-License-Identifier: Apache-2.0
//! Counts what an earlier life of the program left in the kernel and this one removes.

use nsm_sdk::core::meters::{Family, Kind, Meters};

/// Wires, and single ends where no more is known, by what was wrong with them.
pub static LEFTOVERS: Family = Family {
    name: "nsm_leftovers_removed_total",
    help: "What an earlier life of this program left in the kernel and this one has removed.",
    kind: Kind::Counter,
    labels: &["kind"],
};

/// What was left.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leftover {
    /// It was not yet whole.
    HalfMade,
    /// It was to be removed.
    HalfRemoved,
    /// It was whole, and nobody has asked for it again.
    Unwanted,
}

impl Leftover {
    const ALL: [Self; 3] = [Self::HalfMade, Self::HalfRemoved, Self::Unwanted];

    fn word(self) -> &'static str {
        match self {
            Self::HalfMade => "half-made",
            Self::HalfRemoved => "half-removed",
            Self::Unwanted => "unwanted",
        }
    }

    pub(crate) fn count(self, meters: &Meters) {
        meters.add(&LEFTOVERS, &[self.word()], 1);
    }
}

/// Counts from nothing: who looks sees that the first of them was one more.
pub(crate) fn begin(meters: &Meters) {
    for left in Leftover::ALL {
        meters.add(&LEFTOVERS, &[left.word()], 0);
    }
}
