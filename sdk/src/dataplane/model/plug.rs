// SPDX-License-Identifier: Apache-2.0
//! How the model makes, changes and removes wires.

use async_trait::async_trait;
use nsm_api::interface_name;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Code;

use super::{End, Model, Name, Pair, State, inode};
use crate::core::{Error, Inode, Result};
use crate::dataplane::{Counters, DataPlane, Interface, Wire};

#[async_trait]
impl DataPlane for Model {
    async fn connect(&self, wire: &Wire, _: Option<&Wire>, deadline: Instant) -> Result<()> {
        for end in [&wire.client, &wire.endpoint] {
            interface_name::check(&end.name)
                .map_err(|error| Error::invalid("bad-interface-name", error.to_string()))?;
        }
        let netns = [inode(&wire.client.netns)?, inode(&wire.endpoint.netns)?];
        let names = [
            (netns[0], wire.client.name.clone()),
            (netns[1], wire.endpoint.name.clone()),
        ];
        let mut ready = Instant::now() + self.0.lock().connect_time;
        loop {
            let late = |_| Error::deadline(format!("could not make the wire of {} in time", wire.connection));
            // The timer's millisecond is not the model's.
            if ready > Instant::now() {
                timeout_at(deadline, sleep_until(ready)).await.map_err(late)?;
            }
            let mut state = self.0.lock();
            if let Some(until) = state.free_at(&names) {
                ready = until;
                continue;
            }
            if let Some(gone) = netns.iter().find(|netns| state.gone.contains(netns)) {
                return Err(Error::unavailable(
                    "netns-gone",
                    format!("the network namespace {gone} is gone"),
                ));
            }
            if let Some(name) = state.taken(&wire.connection, &names) {
                let text = format!("an interface {name} that is not ours is there already");
                return Err(Error::new(Code::AlreadyExists, "interface-taken", text));
            }
            if let Some(error) = state.fault.as_mut().and_then(|fault| fault(wire)) {
                return Err(error);
            }
            state.plug(wire, netns);
            return Ok(());
        }
    }

    async fn disconnect(&self, wire: &Wire) -> Result<()> {
        let mut state = self.0.lock();
        let is_it = state.pairs.get(&wire.connection).is_some_and(|pair| {
            // A namespace whose path has closed meanwhile is known by the names alone.
            let same = |at, end: &Interface| {
                pair.interface(at).name == end.name
                    && inode(&end.netns).map_or(true, |netns| netns == pair.ends[at].netns)
            };
            same(0, &wire.client) && same(1, &wire.endpoint)
        });
        if is_it {
            state.remove(&wire.connection);
        }
        Ok(())
    }

    async fn counters(&self, wire: &Wire) -> Result<(Counters, Counters)> {
        let state = self.0.lock();
        let pair = state.pairs.get(&wire.connection).ok_or_else(|| {
            Error::not_found(
                "no-link",
                format!("there is no link of connection {}", wire.connection),
            )
        })?;
        Ok((pair.ends[0].counters, pair.ends[1].counters))
    }
}

impl State {
    /// Whether another link has one of these names.
    fn taken(&self, connection: &str, names: &[Name; 2]) -> Option<String> {
        let others = self.pairs.iter().filter(|(owner, _)| *owner != connection);
        let others = others
            .flat_map(|(_, pair)| pair.names())
            .chain(self.foreign.iter().cloned());
        let twice = (names[0] == names[1]).then(|| names[0].clone());
        others
            .chain(twice)
            .find(|name| names.contains(name))
            .map(|(_, name)| name)
    }

    /// When the names are free of links that are being removed.
    fn free_at(&mut self, names: &[Name; 2]) -> Option<Instant> {
        let now = Instant::now();
        self.dying.retain(|(_, until)| *until > now);
        self.dying
            .iter()
            .filter(|(name, _)| names.contains(name))
            .map(|(_, until)| *until)
            .max()
    }

    pub(super) fn remove(&mut self, connection: &str) {
        let Some(pair) = self.pairs.remove(connection) else {
            return;
        };
        self.changes += 1;
        if !self.removal_time.is_zero() {
            let until = Instant::now() + self.removal_time;
            self.dying.extend(pair.names().map(|name| (name, until)));
        }
    }

    /// Makes the wire be.
    fn plug(&mut self, wire: &Wire, netns: [Inode; 2]) {
        let connection = &wire.connection;
        let names = [
            (netns[0], wire.client.name.clone()),
            (netns[1], wire.endpoint.name.clone()),
        ];
        if let Some(pair) = self
            .pairs
            .get_mut(connection)
            .filter(|pair| pair.names() == names)
        {
            let before = std::mem::replace(&mut pair.wire, wire.clone());
            pair.wire.client.netns.clone_from(&before.client.netns);
            pair.wire.endpoint.netns.clone_from(&before.endpoint.netns);
            self.changes += usize::from(pair.wire != before);
            pair.ends.iter_mut().for_each(|end| end.is_up = true);
            return;
        }
        self.remove(connection);
        self.dying.retain(|(name, _)| !names.contains(name));
        self.changes += 1;
        self.next_index += 1;
        let ends = netns.map(|netns| End {
            netns,
            is_up: true,
            counters: Counters::default(),
        });
        let pair = Pair {
            wire: wire.clone(),
            index: self.next_index,
            ends,
        };
        self.pairs.insert(connection.clone(), pair);
    }
}
