// SPDX-License-Identifier: Apache-2.0
//! Listens, and runs chains for whoever calls.

use crate::core::{Chain, Component, NetworkService, NsRegistry, NseRegistry, Result};
use crate::identity::Identity;

/// What one program serves, on every URL that it listens on.
///
/// ```ignore
/// let urls = Server::new(&component, identity.clone())
///     .network_service(chain)          // NetworkService and MonitorConnection
///     .nse_registry(nse_chain)         // NetworkServiceEndpointRegistry
///     .ns_registry(ns_chain)           // NetworkServiceRegistry
///     .listen(&["unix:///run/nsm.sock", "tcp://:5001"])
///     .await?;
/// ```
pub struct Server {
    component: Component,
    identity: Identity,
}

impl Server {
    /// A server of `component` that serves nothing but `grpc.health.v1` yet.
    pub fn new(component: &Component, identity: Identity) -> Self {
        Self {
            component: component.clone(),
            identity,
        }
    }

    /// Serves the NetworkService and MonitorConnection services by `chain` (a monitor is its `find`).
    #[must_use]
    pub fn network_service(self, _chain: Chain<NetworkService>) -> Self {
        todo!()
    }

    /// Serves the NetworkServiceEndpointRegistry service by `chain`.
    #[must_use]
    pub fn nse_registry(self, _chain: Chain<NseRegistry>) -> Self {
        todo!()
    }

    /// Serves the NetworkServiceRegistry service by `chain`.
    #[must_use]
    pub fn ns_registry(self, _chain: Chain<NsRegistry>) -> Self {
        todo!()
    }

    /// Listens on `urls` and serves in tasks of the component until it ends. Returns the addresses as they were
    /// bound (a port 0 is replaced by the real one), in the order of `urls`.
    ///
    /// Errors: `bad-url`, `address-in-use`, `listen`.
    pub async fn listen<U: AsRef<str>>(self, _urls: &[U]) -> Result<Vec<String>> {
        let _ = (self.component, self.identity);
        todo!()
    }
}
