// SPDX-License-Identifier: Apache-2.0
//! Entries, calls and replicas for tests, on virtual time and a [model](api::Model) of the API server.
//!
//! That the model is like the real one is shown by the tests of the program `registry-k8s`, which run against that.

mod api;

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use nsm_api::registry::{NetworkService, NetworkServiceEndpoint};
use nsm_sdk::chain;
use nsm_sdk::core::{
    Chain, Clock, Component, Ctx, Entry as _, Found, NsRegistry, NseRegistry, Registration, Result,
};
use nsm_sdk::elements::begin::Begin;
use nsm_sdk::registry::expire::Expire;
use nsm_sdk::registry::queries::Registry;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{ApiServer, Etcd, Kind};
pub(crate) use api::Model;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// One replica of the registry.
pub(crate) struct Replica {
    pub(crate) component: Component,
    pub(crate) api: ApiServer,
    pub(crate) nse: Chain<NseRegistry>,
    pub(crate) ns: Chain<NsRegistry>,
}

impl Replica {
    /// A replica that writes into the namespace `home`, and knows what is there.
    pub(crate) async fn start(model: &Model, seed: u64) -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + model.elapsed();
        let component = Component::with("registry", Clock::starting_at(start), StdRng::seed_from_u64(seed));
        let api = ApiServer::new(&component, model.client(), 100_000);
        let endpoints = Etcd::start(&component, &api, "home", MINUTE);
        let services = Etcd::start(&component, &api, "home", MINUTE);
        endpoints.synced().await;
        services.synced().await;
        Self {
            nse: chain![Begin::server(&component), Expire::new(MINUTE), endpoints],
            ns: chain![Begin::server(&component), services],
            component,
            api,
        }
    }

    pub(crate) fn ctx(&self) -> Ctx {
        Ctx::own(&self.component, Duration::from_secs(15))
    }

    /// Registers an endpoint of this name and owner.
    pub(crate) async fn registers(&self, name: &str, owner: &str) -> Result<NetworkServiceEndpoint> {
        self.puts(&self.nse, endpoint(name, owner)).await
    }

    /// Registers an entry.
    pub(crate) async fn puts<A: Kind>(&self, chain: &Chain<A>, entry: A::Entry) -> Result<A::Entry> {
        let mut message = Registration {
            entry,
            path: Default::default(),
        };
        chain.request(&self.ctx(), &mut message).await?;
        Ok(message.entry)
    }

    /// Unregisters the entry of this name.
    pub(crate) async fn unregisters<A: Kind>(&self, chain: &Chain<A>, name: &str) -> Result<()> {
        let mut message = Registration::<A::Entry>::default();
        message.entry.set_name(name.to_string());
        chain.close(&self.ctx(), &mut message).await
    }

    /// Everything of this kind that is found.
    pub(crate) async fn finds<A: Kind>(&self, chain: &Chain<A>) -> Vec<A::Entry> {
        let found = chain
            .find(&self.ctx(), A::query(A::Entry::default(), false))
            .await;
        let found: Vec<_> = found.expect("finds").collect().await;
        let entry =
            |found: Result<A::Found>| A::told(&found.expect("an answer")).expect("an entry").0.clone();
        found.into_iter().map(entry).collect()
    }

    /// The names of the endpoints that are found.
    pub(crate) async fn names(&self) -> Vec<String> {
        let found = self.finds(&self.nse).await;
        found.into_iter().map(|entry| entry.name).collect()
    }

    /// Waits until exactly these endpoints are found.
    pub(crate) async fn shows(&self, names: &[&str]) {
        let shown = async {
            while self.names().await != names {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let shown = tokio::time::timeout(Duration::from_secs(30), shown).await;
        if shown.is_err() {
            panic!("shows {:?} and not {names:?}", self.names().await);
        }
    }

    /// Opens a watch on all endpoints.
    pub(crate) async fn watches(&self) -> Found<NseRegistry> {
        let query = NseRegistry::query(NetworkServiceEndpoint::default(), true);
        self.nse.find(&self.ctx(), query).await.expect("opens a watch")
    }

    /// How long an entry is registered from now on.
    pub(crate) fn left(&self, entry: &NetworkServiceEndpoint) -> Duration {
        self.component
            .until(NseRegistry::expires(entry).expect("an expiration"))
    }
}

/// The next answer of a stream: the name, and whether it is deleted.
pub(crate) async fn next(found: &mut Found<NseRegistry>) -> (String, bool) {
    let answer = found.next().await.expect("goes on").expect("an answer");
    let (entry, deleted) = NseRegistry::told(&answer).expect("an entry");
    (entry.name.clone(), deleted)
}

/// An endpoint of this name and owner.
pub(crate) fn endpoint(name: &str, owner: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: vec!["s".into()],
        url: "tcp://10.0.0.1:5001".into(),
        path_ids: vec![format!("spiffe://t/{owner}"), "spiffe://t/nsmgr".into()],
        ..Default::default()
    }
}

/// A service of this name and owner.
pub(crate) fn service(name: &str, owner: &str) -> NetworkService {
    NetworkService {
        name: name.into(),
        payload: "IP".into(),
        path_ids: vec![format!("spiffe://t/{owner}")],
        ..Default::default()
    }
}
