// SPDX-License-Identifier: Apache-2.0
//! Registries of a small mesh, on the simulated wire: real identities, tokens and descriptors.

use std::sync::Arc;
use std::time::Duration;

use nsm_api::registry::{NetworkService, NetworkServiceEndpoint};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use super::endpoint::Gate;
use super::nsmgr_registry::{self, NsmgrRegistry, nsmgr_registry};
use super::registry_client::{self, Client};
use super::registry_memory;
use crate::core::{Clock, Component, NsRegistry, NseRegistry, Registration, Result};
use crate::identity::testing::{Party, now, parties};
use crate::networkservice::Registries;
use crate::policy::{self, Policies};
use crate::registry::queries::Registry;
use crate::registry::testing::{find, within};
use crate::sandbox::{Host, Network, Way};

pub(super) const REGISTRY_URL: &str = "tcp://registry:5002";
pub(super) const URLS: [&str; 2] = ["tcp://10.0.0.1:5001", "tcp://10.0.0.2:5001"];

/// A registry and two managers.
pub(super) struct Mesh {
    pub(super) network: Network,
    pub(super) registry: Place,
    pub(super) managers: [Manager; 2],
    pub(super) nse: Place,
    pub(super) other: Place,
    pub(super) forwarder: Place,
}

/// One program of the mesh, and who it is.
pub(super) struct Place {
    pub(super) component: Component,
    pub(super) party: Party,
}

pub(super) struct Manager {
    pub(super) place: Place,
    pub(super) url: &'static str,
    pub(super) served: NsmgrRegistry,
}

pub(super) fn component(name: &str) -> Component {
    Component::with(name, Clock::starting_at(now()), StdRng::seed_from_u64(1))
}

fn policies(masks: &str) -> Policies {
    Policies::choose(masks).expect("the usual policies")
}

impl Place {
    fn new(party: Party) -> Self {
        let component = component(party.id());
        Self { component, party }
    }

    /// One more manager.
    pub(super) fn nsmgr() -> Self {
        let [party] = parties(["/ns/nsm-system/pod/nsmgr-3"]);
        Self::new(party)
    }

    pub(super) fn gate(&self) -> Gate {
        Gate {
            identity: self.party.identity(),
            tokens: self.party.tokens.clone(),
            policies: policies(policy::REGISTRY_SERVER),
        }
    }

    pub(super) fn way(&self, network: &Network) -> Arc<Way> {
        let (identity, tokens) = (self.party.identity(), self.party.tokens.clone());
        network.dialer(&self.component, &identity, &tokens, &CancellationToken::new())
    }

    pub(super) fn client(&self, network: &Network, url: &str) -> Client {
        registry_client::client(&self.component, &settings(url), &self.way(network))
    }

    pub(super) fn lookup(&self, network: &Network, url: &str) -> Registries {
        registry_client::lookup(&settings(url), &self.way(network))
    }
}

fn settings(url: &str) -> registry_client::Settings {
    registry_client::Settings {
        connect_to: url.into(),
        policies: policies(policy::REGISTRY_CLIENT),
    }
}

impl Mesh {
    pub(super) fn new() -> Self {
        let [registry, nsmgr1, nsmgr2, nse, other, forwarder] = parties([
            "/ns/nsm-system/pod/registry",
            "/ns/nsm-system/pod/nsmgr-1",
            "/ns/nsm-system/pod/nsmgr-2",
            "/ns/default/pod/nse",
            "/ns/default/pod/other",
            "/ns/nsm-system/pod/forwarder",
        ])
        .map(Place::new);
        let network = Network::default();
        network.set_delay(Duration::from_millis(1));
        let [url1, url2] = URLS;
        let managers = [(nsmgr1, url1), (nsmgr2, url2)];
        let managers = managers.map(|(place, url)| manager(&network, place, url, Some(REGISTRY_URL)));
        let mesh = Self {
            network,
            registry,
            managers,
            nse,
            other,
            forwarder,
        };
        mesh.start_registry();
        mesh
    }

    /// Starts a registry that knows nothing, in place of the one there is.
    pub(super) fn start_registry(&self) {
        let settings = registry_memory::Settings {
            gate: self.registry.gate(),
            expiration: Duration::from_secs(60),
        };
        let host = Host {
            component: self.registry.component.clone(),
            identity: self.registry.party.identity(),
            power: CancellationToken::new(),
            network_service: None,
            nse_registry: Some(registry_memory::nse(&self.registry.component, &settings)),
            ns_registry: Some(registry_memory::ns(&self.registry.component, &settings)),
        };
        self.network.listen(REGISTRY_URL, host);
    }

    /// The endpoints that somebody finds who asks the registry itself.
    pub(super) async fn registered(&self) -> Vec<NetworkServiceEndpoint> {
        let registry = self.other.lookup(&self.network, REGISTRY_URL);
        find(&registry.endpoints, &self.other.component, Default::default()).await
    }

    pub(super) async fn services(&self) -> Vec<NetworkService> {
        let registry = self.other.lookup(&self.network, REGISTRY_URL);
        find(&registry.services, &self.other.component, Default::default()).await
    }

    pub(super) async fn end(&self) {
        let places = [&self.nse, &self.other, &self.forwarder, &self.registry];
        for place in self.managers.iter().map(|manager| &manager.place).chain(places) {
            place.component.end().await;
        }
    }
}

/// A manager that listens on `url`.
pub(super) fn manager(
    network: &Network,
    place: Place,
    url: &'static str,
    registry_url: Option<&str>,
) -> Manager {
    let settings = nsmgr_registry::Settings {
        gate: place.gate(),
        client_policies: policies(policy::REGISTRY_CLIENT),
        registry_url: registry_url.map(ToString::to_string),
        url: url.into(),
        info: [("nodeName".to_string(), url.to_string())].into(),
    };
    let served = nsmgr_registry(&place.component, &settings, &place.way(network));
    let host = Host {
        component: place.component.clone(),
        identity: place.party.identity(),
        power: CancellationToken::new(),
        network_service: None,
        nse_registry: Some(served.nse.clone()),
        ns_registry: Some(served.ns.clone()),
    };
    network.listen(url, host);
    Manager { place, url, served }
}

impl Place {
    /// Registers `entry` as this program.
    pub(super) async fn registers<A: Registry>(
        &self,
        chain: &crate::core::Chain<A>,
        mut entry: Registration<A::Entry>,
    ) -> Result<Registration<A::Entry>> {
        chain.request(&within(&self.component, 15), &mut entry).await?;
        Ok(entry)
    }

    pub(super) async fn unregisters<A: Registry>(
        &self,
        chain: &crate::core::Chain<A>,
        mut entry: Registration<A::Entry>,
    ) -> Result<()> {
        chain.close(&within(&self.component, 15), &mut entry).await
    }
}

/// An endpoint of the service `s` that listens on `url`, and has an entry for labels.
pub(super) fn endpoint(name: &str, services: &[&str], url: &str) -> Registration<NetworkServiceEndpoint> {
    let mut message = crate::registry::testing::endpoint(name, services);
    message.entry.url = url.into();
    let labels = services
        .iter()
        .map(|service| (service.to_string(), Default::default()));
    message.entry.network_service_labels = labels.collect();
    message
}

/// Names of the elements of both chains.
pub(super) fn names(
    nse: &crate::core::Chain<NseRegistry>,
    ns: &crate::core::Chain<NsRegistry>,
) -> [String; 2] {
    [nse.names().join(" "), ns.names().join(" ")]
}
