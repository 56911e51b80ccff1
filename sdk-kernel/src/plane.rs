// SPDX-License-Identifier: Apache-2.0
//! What the data plane is asked, and how it goes about it: one call of one connection at a time, again when something
//! was in the way.

use std::sync::Arc;

use async_trait::async_trait;
use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::tunnel::{RemoteWire, Transit, Tunnels};
use nsm_sdk::dataplane::{Counters, DataPlane, Interface, Wire};
use tokio::time::Instant;

use crate::asked::Asked;
use crate::check::{bad_name, check};
use crate::kernel::{Kernel, PATIENCE, ask};
use crate::make::Attempt;
use crate::netns::NetnsId;
use crate::observe::{self, Which};
use crate::outcome::Outcome;
use crate::shared::Claim;
use crate::state::State;
use crate::station::Station;
use crate::{leave, veth};

/// How often what is in the way of a wire is removed before we give up.
const MAX_ATTEMPTS: usize = 5;

#[async_trait]
impl DataPlane for Kernel {
    async fn connect(&self, wire: &Wire, before: Option<&Wire>, deadline: Instant) -> Result<()> {
        let asked = Asked::whole(wire);
        if self.is_made(&asked)? {
            return Ok(());
        }
        self.join(asked, before.map(Asked::whole), deadline).await
    }

    async fn disconnect(&self, wire: &Wire) -> Result<()> {
        self.part(Asked::whole(wire)).await
    }

    async fn set_aside(&self, wire: &Wire) -> Result<()> {
        self.put_aside(Asked::whole(wire)).await
    }

    async fn counters(&self, wire: &Wire) -> Result<(Counters, Counters)> {
        match self.count(Asked::whole(wire)).await?[..] {
            [client, endpoint] => Ok((client, endpoint)),
            _ => Err(Error::internal("kernel", "a pair has two ends")),
        }
    }
}

#[async_trait]
impl Tunnels for Kernel {
    async fn connect(&self, wire: &RemoteWire, before: Option<&RemoteWire>, deadline: Instant) -> Result<()> {
        let asked = Asked::half(wire);
        if self.is_made(&asked)? {
            return Ok(());
        }
        let before = before.map(Asked::half);
        self.join(asked, before, deadline).await
    }

    async fn join(&self, transit: &Transit, deadline: Instant) -> Result<()> {
        self.redirect(transit, deadline).await
    }

    async fn disconnect(&self, wire: &RemoteWire) -> Result<()> {
        self.part(Asked::half(wire)).await
    }

    async fn set_aside(&self, wire: &RemoteWire) -> Result<()> {
        self.put_aside(Asked::half(wire)).await
    }

    async fn counters(&self, wire: &RemoteWire) -> Result<Counters> {
        let counted = self.count(Asked::half(wire)).await?;
        Ok(counted.first().copied().unwrap_or_default())
    }
}

impl Kernel {
    /// Whether `wire`, which can be, is as it should be: without waiting, and without a word to the kernel.
    fn is_made(&self, wire: &Asked) -> Result<bool> {
        check(wire)?;
        let spaces = wire.glance();
        Ok(spaces.is_some_and(|spaces| self.shared.is_made(wire, &spaces)))
    }

    async fn join(&self, wire: Asked, before: Option<Asked>, deadline: Instant) -> Result<()> {
        let claim = self.shared.claim(&wire.connection, deadline).await?;
        let spaces = wire.spaces()?;
        let names = names(&wire, &spaces);
        if let [one, other] = &names[..]
            && one == other
        {
            return Err(bad_name(&one.1, "names both ends in one namespace"));
        }
        // Whoever had the turn before may have made it.
        if self.shared.is_made(&wire, &spaces) {
            return Ok(());
        }
        if let Some(before) = &before {
            leave::former(&self.shared, &wire, before, &spaces);
        }
        self.make(&wire, before.is_some(), deadline, &claim).await
    }

    async fn part(&self, wire: Asked) -> Result<()> {
        let claim = self
            .shared
            .claim(&wire.connection, Instant::now() + PATIENCE)
            .await?;
        if let Some(serial) = leave::recorded(&self.shared, &wire) {
            self.shared.doom(serial);
            return Ok(());
        }
        let shared = self.shared.clone();
        let what = format!("look for the wire of connection {}", wire.connection);
        let job = move |station: &mut Station| {
            // Nobody makes a wire of the connection while we look, whether or not our caller still waits.
            let _claim = claim;
            leave::unrecorded(station, &shared, &wire)
        };
        ask(self.pool(), Instant::now() + PATIENCE, &what, job).await
    }

    async fn count(&self, wire: Asked) -> Result<Vec<Counters>> {
        let what = format!("count what went through connection {}", wire.connection);
        ask(self.pool(), Instant::now() + PATIENCE, &what, move |station| {
            let count = |interface: &Interface| {
                let netns = station.open(&interface.netns)?;
                let mut socket = station.socket(&netns)?;
                let seen = observe::link(&mut socket, &Which::Name(&interface.name))
                    .map_err(|error| veth::broken(&netns.id(), &error))?;
                let gone = || format!("there is no interface {} in {}", interface.name, netns.id());
                seen.map(|seen| seen.counters)
                    .ok_or_else(|| Error::not_found("interface-gone", gone()))
            };
            wire.interfaces().map(count).collect()
        })
        .await
    }

    async fn attempt(
        &self,
        wire: &Asked,
        is_refresh: bool,
        deadline: Instant,
        claim: &Arc<Claim>,
    ) -> Result<Outcome> {
        let (shared, wire, claim) = (self.shared.clone(), wire.clone(), claim.clone());
        let what = format!("make the wire of connection {}", wire.connection);
        ask(self.pool(), deadline, &what, move |station| {
            let attempt = Attempt {
                station,
                shared: &shared,
                claim: &claim,
                wire: &wire,
                is_refresh,
                deadline,
                is_watched: false,
            };
            attempt.run()
        })
        .await
    }

    /// Makes the wire, after whatever is in its way.
    async fn make(
        &self,
        wire: &Asked,
        is_refresh: bool,
        deadline: Instant,
        claim: &Arc<Claim>,
    ) -> Result<()> {
        let mut vanished = false;
        for _ in 0..MAX_ATTEMPTS {
            self.vacant(wire, deadline).await?;
            match self.attempt(wire, is_refresh, deadline, claim).await? {
                Outcome::Kept => return Ok(()),
                Outcome::Made(undo) => {
                    undo.keep();
                    return Ok(());
                }
                Outcome::Undone(error) => {
                    // The caller may look at once; when time is short it goes on without us.
                    let _ = self.vacant(wire, deadline).await;
                    return Err(error);
                }
                Outcome::Again => {}
                Outcome::Vanished(_) if !vanished => vanished = true,
                Outcome::Vanished(error) => {
                    let _ = self.vacant(wire, deadline).await;
                    return Err(vanishing(wire, &error));
                }
            }
        }
        let text = format!(
            "what is in the way of connection {} comes back each time",
            wire.connection
        );
        Err(Error::unavailable("kernel", text))
    }

    /// Waits until nothing of the names of `wire`, nor its device, is being removed.
    pub(crate) async fn vacant(&self, wire: &Asked, deadline: Instant) -> Result<()> {
        let mut keys = names(wire, &wire.spaces()?);
        keys.extend(wire.device.key());
        let what = format!("a former device of {} was still being removed", wire.show());
        let is_vacant = |state: &mut State| !keys.iter().any(|key| state.is_doomed(key));
        self.shared.until(&what, deadline, is_vacant).await
    }
}

/// What only one interface can have, of each end.
fn names(wire: &Asked, spaces: &[NetnsId]) -> Vec<(NetnsId, String)> {
    let names = spaces.iter().zip(wire.interfaces());
    names
        .map(|(netns, interface)| (*netns, interface.name.clone()))
        .collect()
}

/// An interface of `wire` was taken away from us twice.
fn vanishing(wire: &Asked, error: &Error) -> Error {
    let text = format!(
        "{}: {} is removed by somebody else as soon as it is there; find out which program does that in the pod",
        error.text(),
        wire.show()
    );
    Error::unavailable("interface-gone", text)
}
