// SPDX-License-Identifier: Apache-2.0
//! The resolver of a pod: each name is asked for where its zone is.
//!
//! ```text
//!  programs of the pod ──▶ 127.0.0.1:53 ──┬── names of an endpoint's domains ──▶ its servers, over the wire
//!    (resolv.conf)           cache        └── all others ──▶ the servers that resolv.conf named before
//! ```
//!
//! As long as no connection brings DNS servers there is no resolver, and `resolv.conf` is as it was. With the first one
//! it is there, and with the last one it goes again ([`Dns`]).
//!
//! What a message is, `hickory-proto` knows; there is no DNSSEC but what servers say of it.
#![forbid(unsafe_code)]

mod cache;
mod resolv_conf;
mod resolve;
mod server;
mod table;
mod upstream;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsm_api::connectioncontext::ConnectionContext;
use nsm_sdk::core::{Component, Task};
use nsm_sdk::networkservice::dnscontext::Resolver;
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::resolv_conf::Taken;
use crate::resolve::Resolve;
use crate::server::Sockets;
use crate::table::{Group, PORT, Table, Told};

/// How the resolver is found.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it hears.
    pub listen_on: SocketAddr,
    /// The file that names it to programs, and the servers for everything else before.
    pub resolv_conf: PathBuf,
}

/// The resolver of a pod, while connections bring DNS servers.
///
/// What stands in its way (a port that may not be had, a file that may not be written) is told to the log with a remedy;
/// the wires are there all the same, and the next thing that a connection tells is another attempt.
#[derive(Debug)]
pub struct Dns {
    component: Component,
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: BTreeMap<String, Told>,
    serving: Option<Serving>,
    /// What stood in the way, as it was told.
    obstacle: Option<String>,
}

/// A resolver that is there. The file is given back before the sockets go.
#[derive(Debug)]
struct Serving {
    _file: Option<Taken>,
    _tasks: [Task; 2],
    resolve: Arc<Resolve>,
    /// The servers for everything else.
    always: Group,
}

/// The file that every container has, which belongs to root.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Makes a copy of [`RESOLV_CONF`], unless there is one: other containers can have it in the place of their own, and a
/// client that is not root can change it.
pub fn share(path: &Path) -> io::Result<()> {
    resolv_conf::copy(Path::new(RESOLV_CONF), path)
}

impl Dns {
    /// Nothing but the promise of it; a file that an earlier life has left taken over is given back, unless somebody
    /// serves there.
    pub fn new(component: &Component, settings: Settings) -> Self {
        let dns = Self {
            component: component.clone(),
            settings,
            state: Mutex::default(),
        };
        dns.give_back();
        dns
    }

    fn give_back(&self) {
        let path = &self.settings.resolv_conf;
        if !resolv_conf::is_taken(path) {
            return;
        }
        if let Err(error) = Sockets::bind(self.settings.listen_on)
            && error.kind() == io::ErrorKind::AddrInUse
        {
            return;
        }
        match resolv_conf::restore(path) {
            Ok(()) => info!(path = %path.display(), "given back what an earlier life had taken over"),
            Err(error) => warn!("{}", self.obstacle_of_file(&error)),
        }
    }

    /// Lets the resolver be as the connections want it.
    fn follow(&self, state: &mut State) {
        if state.told.is_empty() {
            if state.serving.take().is_some() {
                info!("no connection has a DNS server any more");
            }
            state.obstacle = None;
            return;
        }
        if let Some(serving) = &state.serving {
            let table = Table::new(state.told.values(), serving.always.clone());
            info!(zones = ?table.zones(), "asking for names where connections say");
            serving.resolve.go_by(table);
            return;
        }
        match self.start(state) {
            Ok(serving) => state.serving = Some(serving),
            Err(obstacle) if state.obstacle.as_ref() != Some(&obstacle) => {
                warn!("{obstacle}");
                state.obstacle = Some(obstacle);
            }
            Err(_) => {}
        }
    }

    fn start(&self, state: &State) -> Result<Serving, String> {
        let (address, path) = (self.settings.listen_on, &self.settings.resolv_conf);
        let sockets = Sockets::bind(address).map_err(|error| self.obstacle_of_port(&error))?;
        let original = resolv_conf::original(path).map_err(|error| self.obstacle_of_file(&error))?;
        let servers = resolv_conf::servers(&original).into_iter();
        let servers = servers.map(|ip| SocketAddr::new(ip, PORT));
        let always: Group = servers.filter(|server| !self.is_us(server)).collect();
        let table = Table::new(state.told.values(), always.clone());
        let zones = table.zones();
        let resolve = Arc::new(Resolve::new(self.component.clone(), table));
        let tasks = sockets.serve(&self.component, &resolve);
        let tasks = tasks.map_err(|error| self.obstacle_of_port(&error))?;
        let file = match self.take_over() {
            Ok(file) => file,
            Err(obstacle) => {
                warn!("{obstacle}");
                None
            }
        };
        info!(%address, ?zones, others = ?always, "asking for names where connections say");
        Ok(Serving {
            _file: file,
            _tasks: tasks,
            resolve,
            always,
        })
    }

    /// Lets the file name us, if it is there and can: without one, programs ask the loopback anyway.
    fn take_over(&self) -> Result<Option<Taken>, String> {
        let (address, path) = (self.settings.listen_on, &self.settings.resolv_conf);
        if address.port() != PORT {
            let text = format!(
                "resolv.conf stays as it is, since it can name no port but {PORT}; \
                 NSM_LOCAL_DNS_SERVER_ADDRESS is {address}"
            );
            return Err(text);
        }
        let ip = match address.ip() {
            ip if ip.is_unspecified() && ip.is_ipv4() => std::net::Ipv4Addr::LOCALHOST.into(),
            ip if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        match Taken::take(path, ip) {
            Ok(taken) => Ok(Some(taken)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.obstacle_of_file(&error)),
        }
    }

    /// Whether asking this server would be asking ourselves.
    fn is_us(&self, server: &SocketAddr) -> bool {
        let (us, ip) = (self.settings.listen_on, server.ip().to_canonical());
        let is_local = ip.is_unspecified() || ip == us.ip() || us.ip().is_unspecified() && ip.is_loopback();
        server.port() == us.port() && is_local
    }

    fn obstacle_of_port(&self, error: &io::Error) -> String {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "end the other DNS server of this pod, or name another address",
            io::ErrorKind::PermissionDenied => {
                "let the pod have it by the sysctl net.ipv4.ip_unprivileged_port_start=53"
            }
            _ => "name an address that the pod has",
        };
        format!(
            "names of connections cannot be resolved: {} (NSM_LOCAL_DNS_SERVER_ADDRESS) cannot be listened on: \
             {error}; {remedy}, or set NSM_LOCAL_DNS_SERVER_ENABLED=false",
            self.settings.listen_on
        )
    }

    fn obstacle_of_file(&self, error: &io::Error) -> String {
        let remedy = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => "set readOnlyRootFilesystem: false for this container",
            io::ErrorKind::PermissionDenied => "run this container as the owner of the file (runAsUser: 0)",
            _ => "make it a file that can be read and written",
        };
        format!(
            "programs of the pod do not find names of connections: {} (NSM_RESOLV_CONFIG_PATH) cannot be taken over: \
             {error}; {remedy}, or set NSM_LOCAL_DNS_SERVER_ENABLED=false",
            self.settings.resolv_conf.display()
        )
    }
}

impl Resolver for Dns {
    fn tell(&self, id: &str, context: &ConnectionContext) {
        let told = Told::read(id, context, |server| self.is_us(server));
        if told.is_empty() {
            self.forget(id);
            return;
        }
        let state = &mut *self.state.lock();
        if state.serving.is_some() && state.told.get(id) == Some(&told) {
            return;
        }
        state.told.insert(id.to_string(), told);
        self.follow(state);
    }

    fn forget(&self, id: &str) {
        let state = &mut *self.state.lock();
        if state.told.remove(id).is_some() {
            self.follow(state);
        }
    }
}

#[cfg(test)]
mod tests;
