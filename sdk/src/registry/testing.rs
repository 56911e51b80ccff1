// SPDX-License-Identifier: Apache-2.0
//! Entries, calls and readers for tests of registries.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use nsm_api::registry::{NetworkService, NetworkServiceEndpoint};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::queries::Registry;
use crate::core::testing::Probe;
use crate::core::{
    Api, Chain, Clock, Component, Ctx, Element, Entry, Found, NsRegistry, NseRegistry, Registration,
};

/// A component on virtual time that starts a million seconds after the epoch.
pub(crate) fn component() -> Component {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    Component::with("test", Clock::starting_at(start), StdRng::seed_from_u64(1))
}

/// A call that has this long.
pub(crate) fn within(component: &Component, secs: u64) -> Ctx {
    Ctx::own(component, Duration::from_secs(secs))
}

/// The registration of an endpoint that offers `services`.
pub(crate) fn endpoint(name: &str, services: &[&str]) -> Registration<NetworkServiceEndpoint> {
    let entry = NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: services.iter().map(ToString::to_string).collect(),
        url: format!("tcp://{name}"),
        ..Default::default()
    };
    Registration {
        entry,
        path: Default::default(),
    }
}

/// The registration of a service.
pub(crate) fn service(name: &str, payload: &str) -> Registration<NetworkService> {
    let entry = NetworkService {
        name: name.into(),
        payload: payload.into(),
        ..Default::default()
    };
    Registration {
        entry,
        path: Default::default(),
    }
}

/// What one answer says: the name, and whether it is deleted.
pub(crate) fn item<A: Registry>(found: &A::Found) -> (String, bool) {
    let (entry, deleted) = A::told(found).expect("an entry");
    (entry.name().to_string(), deleted)
}

/// Registers `message`.
pub(crate) async fn register<A: Registry>(
    chain: &Chain<A>,
    component: &Component,
    message: Registration<A::Entry>,
) -> Registration<A::Entry> {
    let mut answer = message;
    let done = chain.request(&within(component, 10), &mut answer).await;
    done.expect("registers");
    answer
}

/// Unregisters the entry of this name.
pub(crate) async fn unregister<A: Registry>(chain: &Chain<A>, component: &Component, name: &str) {
    let mut message = Registration::<A::Entry>::default();
    message.entry.set_name(name.to_string());
    let done = chain.close(&within(component, 10), &mut message).await;
    done.expect("unregisters");
}

/// Everything that a query without a watch finds now.
pub(crate) async fn find<A: Registry>(
    chain: &Chain<A>,
    component: &Component,
    example: A::Entry,
) -> Vec<A::Entry> {
    let found = chain.find(&within(component, 10), A::query(example, false)).await;
    let found: Vec<_> = found.expect("finds").collect().await;
    let entry = |found: crate::core::Result<A::Found>| {
        let found = found.expect("an answer");
        A::told(&found).expect("an entry").0.clone()
    };
    found.into_iter().map(entry).collect()
}

/// The names of what a query finds.
pub(crate) async fn names<A: Registry>(
    chain: &Chain<A>,
    component: &Component,
    example: A::Entry,
) -> Vec<String> {
    let found = find(chain, component, example).await;
    found.iter().map(|entry| entry.name().to_string()).collect()
}

/// Opens a watch on entries like `example`.
pub(crate) async fn watch<A: Registry>(
    chain: &Chain<A>,
    component: &Component,
    example: A::Entry,
) -> Found<A> {
    let found = chain.find(&within(component, 10), A::query(example, true)).await;
    found.expect("opens a watch")
}

/// The next answer of a stream.
pub(crate) async fn next<A: Registry>(found: &mut Found<A>) -> (String, bool) {
    let answer = found.next().await.expect("goes on").expect("an answer");
    item::<A>(&answer)
}

/// A chain of one element and a probe.
pub(crate) fn before<A: Api, E: Element<A>>(element: E, probe: &Arc<Probe<A>>) -> Chain<A> {
    Chain::new(vec![Arc::new(element), Arc::new(Arc::clone(probe))])
}

/// The chain of endpoints.
pub(crate) type Nse = Chain<NseRegistry>;
/// The chain of services.
pub(crate) type Ns = Chain<NsRegistry>;
