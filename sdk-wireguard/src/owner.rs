// SPDX-License-Identifier: Apache-2.0
//! What both engines have in common: who owns which device, and that doing something twice is doing it once.
//!
//! **Guarantees**: calls for one id take turns; what was begun is done by a task of the component, so that a caller who
//! goes away leaves nothing half made; what nobody waits for any more and is new is removed; at most [`MAX_TUNNELS`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nsm_sdk::core::{Component, Error, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::engine::{Engine, Kind};
use crate::leaving::{Leaving, Place};
use crate::netns::{NetnsId, identify};
use crate::tunnel::{Made, Statistics, Tunnel, check};

/// How many tunnels an engine has at most.
pub(crate) const MAX_TUNNELS: usize = 4096;

/// How long to wait at least and at most until a handshake is looked for again; between them an eighth of what has passed.
const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];

/// One way of making devices.
#[async_trait]
pub(crate) trait Driver: Send + Sync + 'static {
    /// A tunnel's device. Dropping it ends what is in this program.
    type Device: Send + 'static;

    fn kind(&self) -> Kind;

    /// Makes a device. After an error there is none.
    async fn build(&self, tunnel: &Tunnel) -> Result<Self::Device>;

    /// What was made.
    fn made(&self, device: &Self::Device) -> Made;

    /// Whether the device is still there.
    async fn is_there(&self, device: &Self::Device, tunnel: &Tunnel) -> bool;

    /// Changes what differs between `before` and `after`, which have one place.
    async fn update(&self, device: &mut Self::Device, before: &Tunnel, after: &Tunnel) -> Result<()>;

    /// Removes the device, and waits until it is gone.
    async fn destroy(&self, device: Self::Device, tunnel: &Tunnel) -> Result<()>;

    async fn statistics(&self, device: &Self::Device, tunnel: &Tunnel) -> Result<Vec<Statistics>>;

    async fn left(&self, netns: &Path, name: &str) -> Result<Option<Tunnel>>;
}

/// A device and what it was made for.
struct Held<T> {
    tunnel: Tunnel,
    netns: NetnsId,
    device: T,
}

impl<T> Held<T> {
    fn place(&self) -> Place {
        (self.netns, self.tunnel.name.clone())
    }
}

type Slot<T> = Arc<tokio::sync::Mutex<Option<Held<T>>>>;

struct Inner<D: Driver> {
    driver: D,
    tunnels: Mutex<HashMap<String, Slot<D::Device>>>,
    leaving: Leaving,
}

/// An engine: the tunnels of one driver.
pub(crate) struct Owner<D: Driver> {
    inner: Arc<Inner<D>>,
    component: Component,
}

impl<D: Driver> Owner<D> {
    pub(crate) fn new(component: &Component, driver: D) -> Self {
        Self {
            inner: Arc::new(Inner {
                driver,
                tunnels: Mutex::default(),
                leaving: Leaving::default(),
            }),
            component: component.clone(),
        }
    }
}

impl<D: Driver> Inner<D> {
    /// The place of the tunnel `id`, made if it is not there yet.
    fn slot(&self, id: &str) -> Result<Slot<D::Device>> {
        let mut tunnels = self.tunnels.lock();
        if let Some(slot) = tunnels.get(id) {
            return Ok(slot.clone());
        }
        if tunnels.len() >= MAX_TUNNELS {
            return Err(Error::exhausted(
                "too-many-tunnels",
                format!("there are {MAX_TUNNELS} WireGuard tunnels on this node already"),
            ));
        }
        Ok(tunnels.entry(id.to_owned()).or_default().clone())
    }

    /// Forgets the place of a tunnel that is not there, unless somebody else waits for it.
    fn tidy(&self, id: &str, slot: Slot<D::Device>) {
        let mut tunnels = self.tunnels.lock();
        let is_empty = slot.try_lock().is_ok_and(|held| held.is_none());
        // Ours and the map's: whoever else wants it has to ask the map first.
        if is_empty && Arc::strong_count(&slot) == 2 {
            tunnels.remove(id);
        }
    }

    /// Makes a tunnel and tells of it. One that is new and that nobody waits for any more is removed before somebody
    /// else can ask for it.
    async fn make(&self, tunnel: &Tunnel, reply: oneshot::Sender<Result<Made>>) {
        let slot = match self.slot_for(tunnel).await {
            Ok(slot) => slot,
            // Who does not wait needs no error.
            Err(error) => return drop(reply.send(Err(error))),
        };
        let mut held = slot.lock().await;
        let made = self.make_in(&mut held, tunnel).await;
        let is_new = made.as_ref().is_ok_and(|(_, is_new)| *is_new);
        let is_unwanted = reply.send(made.map(|(made, _)| made)).is_err();
        if is_new
            && is_unwanted
            && let Err(error) = self.empty(&mut held).await
        {
            tracing::warn!(%error, tunnel = tunnel.id, "a tunnel that nobody waits for cannot be removed");
        }
        drop(held);
        self.tidy(&tunnel.id, slot);
    }

    /// The place of a tunnel, when whatever leaves that place is gone.
    async fn slot_for(&self, tunnel: &Tunnel) -> Result<Slot<D::Device>> {
        let place = (identify(&tunnel.netns)?, tunnel.name.clone());
        self.leaving.clear(&tunnel.id, &place).await;
        self.slot(&tunnel.id)
    }

    /// Returns what was made, and whether it is new.
    async fn make_in(&self, held: &mut Option<Held<D::Device>>, tunnel: &Tunnel) -> Result<(Made, bool)> {
        let netns = identify(&tunnel.netns)?;
        if let Some(present) = held.as_mut()
            && present.netns == netns
            && present.tunnel.name == tunnel.name
            && self.driver.is_there(&present.device, tunnel).await
        {
            let mut wanted = tunnel.clone();
            if wanted.listen_port == 0 {
                wanted.listen_port = self.driver.made(&present.device).listen_port;
            }
            present.tunnel.netns.clone_from(&wanted.netns);
            if present.tunnel != wanted {
                let Held {
                    tunnel: before,
                    device,
                    ..
                } = present;
                self.driver.update(device, before, &wanted).await?;
                present.tunnel = wanted;
            }
            return Ok((self.driver.made(&present.device), false));
        }
        if let Some(before) = held.take() {
            self.driver.destroy(before.device, &before.tunnel).await?;
        }
        let device = self.driver.build(tunnel).await?;
        let made = self.driver.made(&device);
        let mut tunnel = tunnel.clone();
        tunnel.listen_port = made.listen_port;
        *held = Some(Held {
            tunnel,
            netns,
            device,
        });
        Ok((made, true))
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let Some(slot) = self.tunnels.lock().get(id).cloned() else {
            return Ok(());
        };
        let removed = self.empty(&mut *slot.lock().await).await;
        self.tidy(id, slot);
        removed
    }

    /// Removes what is held, and waits until it is gone.
    async fn empty(&self, held: &mut Option<Held<D::Device>>) -> Result<()> {
        match held.take() {
            Some(held) => self.driver.destroy(held.device, &held.tunnel).await,
            None => Ok(()),
        }
    }

    /// Removes the tunnel of `slot`, which was noted under `number` to be leaving.
    async fn leave(&self, id: &str, slot: Slot<D::Device>, number: u64) {
        let mut held = slot.lock().await;
        if let Some(place) = held.as_ref().map(Held::place) {
            self.leaving.found(number, place);
        }
        if let Err(error) = self.empty(&mut held).await {
            tracing::warn!(%error, tunnel = id, "a tunnel that was let go stays");
        }
        drop(held);
        self.leaving.end(number);
        self.tidy(id, slot);
    }

    async fn statistics(&self, id: &str) -> Result<Vec<Statistics>> {
        let none = || Error::not_found("no-tunnel", format!("there is no WireGuard tunnel {id}"));
        let slot = self.tunnels.lock().get(id).cloned().ok_or_else(none)?;
        let held = slot.lock().await;
        let held = held.as_ref().ok_or_else(none)?;
        self.driver.statistics(&held.device, &held.tunnel).await
    }
}

#[async_trait]
impl<D: Driver> Engine for Owner<D> {
    fn kind(&self) -> Kind {
        self.inner.driver.kind()
    }

    async fn make(&self, tunnel: &Tunnel, deadline: Instant) -> Result<Made> {
        check(tunnel)?;
        let (inner, tunnel) = (self.inner.clone(), tunnel.clone());
        let aim = format!("make the WireGuard tunnel {} in time", tunnel.id);
        let (reply, answer) = oneshot::channel();
        self.component.spawn_detached("wireguard-make", async move {
            inner.make(&tunnel, reply).await;
        });
        wait(answer, &aim, deadline).await
    }

    async fn remove(&self, id: &str, deadline: Instant) -> Result<()> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        let aim = format!("remove the WireGuard tunnel {id} in time");
        let (reply, answer) = oneshot::channel();
        self.component.spawn_detached("wireguard-remove", async move {
            let removed = inner.remove(&id).await;
            let _ = reply.send(removed);
        });
        wait(answer, &aim, deadline).await
    }

    fn dismiss(&self, id: &str) {
        let Some(slot) = self.inner.tunnels.lock().get(id).cloned() else {
            return;
        };
        let place = slot.try_lock().ok();
        let place = place.and_then(|held| held.as_ref().map(Held::place));
        let number = self.inner.leaving.begin(id, place);
        let (inner, id) = (self.inner.clone(), id.to_owned());
        self.component.spawn_detached(
            "wireguard-leave",
            async move { inner.leave(&id, slot, number).await },
        );
    }

    async fn statistics(&self, id: &str) -> Result<Vec<Statistics>> {
        self.inner.statistics(id).await
    }

    async fn established(&self, id: &str, deadline: Instant) -> Result<()> {
        let began = Instant::now();
        loop {
            let statistics = self.inner.statistics(id).await?;
            let silent = statistics.iter().find(|peer| peer.last_handshake.is_none());
            let Some(silent) = silent else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let peer = silent.public_key;
                return Err(Error::unavailable(
                    "no-handshake",
                    format!(
                        "the WireGuard peer {peer} of tunnel {id} does not answer; is UDP let through between the nodes?"
                    ),
                ));
            }
            sleep((began.elapsed() / 8).clamp(LOOKS[0], LOOKS[1])).await;
        }
    }

    async fn left(&self, netns: &Path, name: &str) -> Result<Option<Tunnel>> {
        self.inner.driver.left(netns, name).await
    }
}

async fn wait<T>(answer: oneshot::Receiver<Result<T>>, aim: &str, deadline: Instant) -> Result<T> {
    match timeout_at(deadline, answer).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(Error::unavailable("wireguard", "the WireGuard engine has ended")),
        Err(_) => Err(Error::deadline(format!("could not {aim}"))),
    }
}
