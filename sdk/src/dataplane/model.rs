// SPDX-License-Identifier: Apache-2.0
//! A kernel in memory: the model that simulations and tests of elements use in place of the real one.
//!
//! Any file can stand for a network namespace: like the real ones it is known by device and inode, whatever path
//! leads to it. Links come in pairs as with veth; what is configured on them decides what [`Model::can_reach`]
//! says. Time is tokio's, so that it can be virtual.
//!
//! It keeps the contract of [`DataPlane`](super::DataPlane): a program that dies and comes back finds its wires, a
//! failed call leaves what was there, and what is removed may take its time.

mod objects;
mod plug;
mod reach;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

pub use objects::{Kind, Object};

use super::{Counters, Interface, Wire};
use crate::core::{Error, Inode, Result};

/// The kernel of one node. Clones are the same kernel.
#[derive(Clone, Default)]
pub struct Model(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By connection.
    pairs: BTreeMap<String, Pair>,
    /// Links that nobody of ours has made.
    foreign: HashSet<Name>,
    /// Links that are being removed, and until when.
    dying: Vec<(Name, Instant)>,
    gone: HashSet<Inode>,
    next_index: u32,
    changes: usize,
    connect_time: Duration,
    removal_time: Duration,
    fault: Option<Fault>,
}

type Name = (Inode, String);
type Fault = Box<dyn FnMut(&Wire) -> Option<Error> + Send>;

/// Two links that are each other's peer.
struct Pair {
    wire: Wire,
    index: u32,
    ends: [End; 2],
}

struct End {
    netns: Inode,
    is_up: bool,
    counters: Counters,
}

impl Pair {
    fn interface(&self, at: usize) -> &Interface {
        if at == 0 {
            &self.wire.client
        } else {
            &self.wire.endpoint
        }
    }

    fn name(&self, at: usize) -> Name {
        (self.ends[at].netns, self.interface(at).name.clone())
    }

    fn names(&self) -> [Name; 2] {
        [self.name(0), self.name(1)]
    }
}

impl Model {
    /// A kernel with nothing in it, in which everything is done at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets every connect take this long, and every removal go on this long after it was promised.
    pub fn set_times(&self, connect: Duration, removal: Duration) {
        let mut state = self.0.lock();
        (state.connect_time, state.removal_time) = (connect, removal);
    }

    /// Fails the connects for which `fault` answers an error, until another one is set.
    pub fn set_fault(&self, fault: impl FnMut(&Wire) -> Option<Error> + Send + 'static) {
        self.0.lock().fault = Some(Box::new(fault));
    }

    /// Makes a link that belongs to nobody of ours.
    pub fn occupy(&self, netns: &Path, name: &str) -> Result<()> {
        let inode = inode(netns)?;
        self.0.lock().foreign.insert((inode, name.to_string()));
        Ok(())
    }

    /// Sets a link up or down, as somebody in its namespace might.
    pub fn set_up(&self, netns: &Path, name: &str, is_up: bool) -> Result<()> {
        let name = (inode(netns)?, name.to_string());
        for pair in self.0.lock().pairs.values_mut() {
            for at in 0..2 {
                if pair.name(at) == name {
                    pair.ends[at].is_up = is_up;
                }
            }
        }
        Ok(())
    }

    /// Deletes a link, and with it its peer, as somebody in its namespace might.
    pub fn delete(&self, netns: &Path, name: &str) -> Result<()> {
        let name = (inode(netns)?, name.to_string());
        self.0
            .lock()
            .pairs
            .retain(|_, pair| !pair.names().contains(&name));
        Ok(())
    }

    /// Ends a namespace with everything in it, and the other ends of its links.
    pub fn destroy(&self, netns: &Path) -> Result<()> {
        let inode = inode(netns)?;
        let mut state = self.0.lock();
        state.gone.insert(inode);
        state
            .pairs
            .retain(|_, pair| pair.ends.iter().all(|end| end.netns != inode));
        state.foreign.retain(|(netns, _)| *netns != inode);
        Ok(())
    }

    /// How many wires were made, changed or removed by calls; a call with nothing to do counts for nothing.
    pub fn changes(&self) -> usize {
        self.0.lock().changes
    }

    /// The number of the pair of links of a connection: another number means another pair.
    pub fn index(&self, connection: &str) -> Option<u32> {
        self.0.lock().pairs.get(connection).map(|pair| pair.index)
    }

    /// The connections that have a wire, and its number.
    pub fn wires(&self) -> BTreeMap<String, u32> {
        let state = self.0.lock();
        let number = |(connection, pair): (&String, &Pair)| (connection.clone(), pair.index);
        state.pairs.iter().map(number).collect()
    }

    /// Removes the wire of a connection if it still has this number.
    pub fn sweep(&self, connection: &str, index: u32) {
        let mut state = self.0.lock();
        if state
            .pairs
            .get(connection)
            .is_some_and(|pair| pair.index == index)
        {
            state.remove(connection);
        }
    }

    /// The wire of a connection as it is.
    pub fn wire(&self, connection: &str) -> Option<Wire> {
        self.0.lock().pairs.get(connection).map(|pair| pair.wire.clone())
    }
}

fn inode(netns: &Path) -> Result<Inode> {
    let gone = |error: std::io::Error| {
        Error::unavailable(
            "netns-gone",
            format!("the network namespace {} is gone: {error}", netns.display()),
        )
    };
    std::fs::File::open(netns).and_then(Inode::of).map_err(gone)
}

#[cfg(test)]
mod tests;
