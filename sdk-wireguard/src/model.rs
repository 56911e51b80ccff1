// SPDX-License-Identifier: Apache-2.0
//! An engine that makes nothing, for tests of what is around engines.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_sdk::core::{Error, Result};
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::time::Instant;

use crate::engine::{Engine, Kind};
use crate::key::PrivateKey;
use crate::link::{port_taken, refused};
use crate::tunnel::{Made, Statistics, Tunnel};

/// The tunnels of a node's pods: what stays when an engine of the kernel's kind ends.
#[derive(Default)]
struct Devices {
    tunnels: BTreeMap<String, Tunnel>,
    /// How often one was changed or made.
    changes: usize,
    has_no_wireguard: bool,
    ports_are_taken: bool,
}

/// See the [module](self).
pub(crate) struct Model {
    kind: Kind,
    devices: Arc<Mutex<Devices>>,
}

/// A tunnel without peers.
pub(crate) fn tunnel(id: &str) -> Tunnel {
    Tunnel {
        id: id.into(),
        netns: "/proc/self/ns/net".into(),
        name: "nsm-1".into(),
        mtu: 1420,
        private_key: PrivateKey::random().expect("randomness"),
        listen_port: 51_900,
        peers: Vec::new(),
    }
}

impl Model {
    pub(crate) fn new(kind: Kind) -> Self {
        let devices = Arc::default();
        Self { kind, devices }
    }

    /// The engine of the program's next life.
    pub(crate) fn again(&self) -> Self {
        let devices = match self.kind {
            Kind::Kernel => self.devices.clone(),
            Kind::Userspace => Arc::default(),
        };
        let kind = self.kind;
        Self { kind, devices }
    }

    pub(crate) fn lose_wireguard(&self) {
        self.devices.lock().has_no_wireguard = true;
    }

    pub(crate) fn take_ports(&self) {
        self.devices.lock().ports_are_taken = true;
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.devices.lock().tunnels.keys().cloned().collect()
    }

    pub(crate) fn changes(&self) -> usize {
        self.devices.lock().changes
    }

    fn check(&self, id: &str) -> Result<()> {
        let is_there = self.devices.lock().tunnels.contains_key(id);
        let none = || Error::not_found("no-tunnel", format!("there is no WireGuard tunnel {id}"));
        is_there.then_some(()).ok_or_else(none)
    }
}

#[async_trait]
impl Engine for Model {
    fn kind(&self) -> Kind {
        self.kind
    }

    async fn make(&self, tunnel: &Tunnel, _: Instant) -> Result<Made> {
        let mut devices = self.devices.lock();
        if devices.has_no_wireguard {
            return Err(refused("make a WireGuard device", Errno::OPNOTSUPP));
        }
        if devices.ports_are_taken {
            return Err(port_taken("cannot listen"));
        }
        if devices.tunnels.get(&tunnel.id) != Some(tunnel) {
            devices.changes += 1;
            devices.tunnels.insert(tunnel.id.clone(), tunnel.clone());
        }
        Ok(Made {
            index: 1,
            listen_port: tunnel.listen_port,
        })
    }

    async fn remove(&self, id: &str, _: Instant) -> Result<()> {
        self.dismiss(id);
        Ok(())
    }

    fn dismiss(&self, id: &str) {
        self.devices.lock().tunnels.remove(id);
    }

    async fn statistics(&self, id: &str) -> Result<Vec<Statistics>> {
        self.check(id).map(|()| Vec::new())
    }

    async fn established(&self, id: &str, _: Instant) -> Result<()> {
        self.check(id)
    }

    async fn left(&self, netns: &Path, name: &str) -> Result<Option<Tunnel>> {
        let devices = self.devices.lock();
        let mut tunnels = devices.tunnels.values();
        Ok(tunnels
            .find(|tunnel| tunnel.netns == netns && tunnel.name == name)
            .cloned())
    }
}
