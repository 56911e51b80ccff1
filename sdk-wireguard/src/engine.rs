// SPDX-License-Identifier: Apache-2.0
//! The seam between data planes and WireGuard: who makes tunnels, whichever way.

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use nsm_sdk::core::meters::{self, Family};
use nsm_sdk::core::{Component, Result};
use tokio::time::Instant;

use crate::ports::Ports;
use crate::tunnel::{Made, Statistics, Tunnel};

/// How the mark on our interfaces reads by default: `NSM`, as the data plane of the kernel has it.
pub const GROUP: u32 = 0x004e_534d;

/// Which engines make tunnels here.
pub static ENGINES: Family = Family {
    name: "nsm_wireguard_engines",
    help: "Engines of WireGuard that have started: the kernel's, or the one of this program. New tunnels are made in this program once both are there.",
    kind: meters::Kind::Gauge,
    labels: &["engine"],
};

/// The two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By the kernel. Tunnels outlive this program.
    Kernel,
    /// In this program, with TUN devices. Tunnels end with it.
    Userspace,
}

impl Kind {
    /// Counts that an engine of this kind has started, for as long as the program runs.
    pub(crate) fn started(self, component: &Component) {
        component.meters().add(&ENGINES, &[&self.to_string()], 1);
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// How an engine is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace that encrypted packets leave by: the node's.
    pub node: PathBuf,
    /// The UDP ports that the engine chooses from.
    pub ports: Ports,
    /// The link group that marks its devices.
    pub group: u32,
}

impl Default for Config {
    /// In the namespace of the thread that starts the engine.
    fn default() -> Self {
        Self {
            node: crate::netns::HERE.into(),
            ports: Ports::default(),
            group: GROUP,
        }
    }
}

/// Makes tunnels.
///
/// Calls for one id are done one after the other, those for different ids side by side. What a call began is done to
/// its end even if the caller goes away; then what is new is removed again.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Which way.
    fn kind(&self) -> Kind;

    /// Makes `tunnel` be, whatever is there under its id: makes it, or changes what differs. A call with nothing to
    /// change touches nothing. A change of peers, MTU or keepalive keeps the device, the socket and all sessions but
    /// those of peers that are gone; a new key or port keeps the device, and a new key ends all sessions. Another name
    /// or namespace is another device: the one before is removed first. After an error nothing is new, and what was
    /// there is as it was as far as the kernel allows.
    ///
    /// Errors: `bad-tunnel`, `bad-interface-name`, `netns-gone`, `not-a-netns`, `interface-taken`, `port-taken`,
    /// `not-privileged`, `no-wireguard`, `too-many-tunnels`, `deadline`, `wireguard`.
    async fn make(&self, tunnel: &Tunnel, deadline: Instant) -> Result<Made>;

    /// Removes the tunnel. Returns when its device, its socket and its tasks are gone. Removing what is not there
    /// succeeds.
    ///
    /// Errors: `deadline` (it goes on being removed), `wireguard`.
    async fn remove(&self, id: &str, deadline: Instant) -> Result<()>;

    /// Lets the tunnel go, without waiting: the kernel needs tens of milliseconds to remove a device. A tunnel of the same
    /// id, or of the same name in the same namespace, is made when this one is gone.
    fn dismiss(&self, id: &str);

    /// What went through the tunnel, peer by peer.
    ///
    /// Errors: `no-tunnel`, `interface-gone`, `wireguard`.
    async fn statistics(&self, id: &str) -> Result<Vec<Statistics>>;

    /// Waits until there was a handshake with every peer. Those with a keepalive begin one by themselves.
    ///
    /// Errors: those of [`Engine::statistics`], `no-handshake` when the deadline passes.
    async fn established(&self, id: &str, deadline: Instant) -> Result<()>;

    /// The tunnel that an earlier life of the program left under this name in this namespace, with the key and the
    /// port that its peers know: making it again changes nothing and gives it back to this engine. Its id is the
    /// device's alias.
    ///
    /// Errors: `netns-gone`, `not-a-netns`, `wireguard`.
    async fn left(&self, netns: &Path, name: &str) -> Result<Option<Tunnel>>;
}
