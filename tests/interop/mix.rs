// SPDX-License-Identifier: Apache-2.0
//! Which programs are ours, and which are theirs.

/// A place in a mesh that a program fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    Client,
    Nsmgr,
    Forwarder,
    Registry,
    Endpoint,
}

impl Hop {
    pub(crate) const ALL: [Self; 5] = [
        Self::Client,
        Self::Nsmgr,
        Self::Forwarder,
        Self::Registry,
        Self::Endpoint,
    ];

    /// The name of our program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Client => "nsc",
            Self::Nsmgr => "nsmgr",
            Self::Forwarder => "forwarder",
            Self::Registry => "registry-memory",
            Self::Endpoint => "nse-icmp",
        }
    }

    /// What it is called in names of tests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Nsmgr => "nsmgr",
            Self::Forwarder => "forwarder",
            Self::Registry => "registry",
            Self::Endpoint => "endpoint",
        }
    }
}

/// Which of the five programs are theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mix(u8);

impl Mix {
    /// That of a name that ends with the hops that are theirs: `go_client_nsmgr`.
    pub(crate) fn named(name: &str) -> Self {
        let theirs = |hop: &Hop| name.split('_').any(|word| word == hop.name());
        Hop::ALL
            .into_iter()
            .filter(theirs)
            .fold(Self::default(), Self::turned)
    }

    /// The same, but this program is theirs if it was ours, and the other way around.
    pub(crate) fn turned(self, hop: Hop) -> Self {
        Self(self.0 ^ (1 << hop as u8))
    }

    /// The same for all but the client.
    pub(crate) fn servers(self) -> Self {
        Self(self.0 & !(1 << Hop::Client as u8))
    }

    /// Whether a program is theirs.
    pub(crate) fn is_go(self, hop: Hop) -> bool {
        self.0 & (1 << hop as u8) != 0
    }
}
