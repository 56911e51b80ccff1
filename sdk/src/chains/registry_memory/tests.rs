// SPDX-License-Identifier: Apache-2.0
use futures::StreamExt;
use futures::future::join_all;
use tokio::time::sleep;
use tonic::Code;

use super::*;
use crate::chains::testing::{Mesh, Place, component, endpoint};
use crate::core::{Ctx, Element, Peer, Registration, Result};
use crate::policy::Policies;
use crate::registry::queries::Registry;
use crate::registry::testing::{find, names, service};
use crate::registry::updatepath::NoPath;

fn settings(place: &Place, policies: Option<Policies>) -> Settings {
    let gate = place.gate();
    Settings {
        gate: Gate {
            policies: policies.unwrap_or(gate.policies),
            ..gate
        },
        expiration: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn the_chains_read_like_this() {
    let mesh = Mesh::new();
    let settings = settings(&mesh.registry, None);
    let component = component("registry");
    let [nse, ns] = crate::chains::testing::names(&nse(&component, &settings), &ns(&component, &settings));
    assert_eq!(
        nse,
        "checks updatepath authorize begin meter setregistrationtime expire memory"
    );
    assert_eq!(ns, "checks updatepath authorize begin meter setpayload memory");
}

/// A registry that the test calls as somebody.
struct Direct {
    mesh: Mesh,
    component: Component,
    nse: Chain<NseRegistry>,
    ns: Chain<NsRegistry>,
}

fn direct(policies: Option<Policies>) -> Direct {
    let (mesh, component) = (Mesh::new(), component("registry"));
    let settings = settings(&mesh.registry, policies);
    Direct {
        nse: nse(&component, &settings),
        ns: ns(&component, &settings),
        mesh,
        component,
    }
}

impl Direct {
    fn ctx(&self, caller: &Place) -> Ctx {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        let peer = caller.party.calls(&self.mesh.registry.party);
        Ctx::new(&self.component, peer, Some(deadline))
    }

    async fn registers<A: Registry>(
        &self,
        chain: &Chain<A>,
        mut message: Registration<A::Entry>,
    ) -> Result<Registration<A::Entry>> {
        chain.request(&self.ctx(&self.mesh.nse), &mut message).await?;
        Ok(message)
    }

    async fn names(&self) -> Vec<String> {
        names(&self.nse, &self.component, Default::default()).await
    }
}

fn at(name: &str) -> Registration<nsm_api::registry::NetworkServiceEndpoint> {
    endpoint(name, &["s"], "tcp://10.0.0.1:5001")
}

#[tokio::test(start_paused = true)]
async fn c40_an_empty_name_is_an_error_and_stores_nothing() {
    let registry = direct(None);
    for chain_error in [
        registry
            .registers(&registry.nse, at(""))
            .await
            .expect_err("is refused"),
        registry
            .registers(&registry.ns, service("", "IP"))
            .await
            .expect_err("is refused"),
    ] {
        assert!(
            chain_error.text().contains("Name can not be zero valued"),
            "{chain_error}"
        );
    }
    assert!(registry.names().await.is_empty());
    registry.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c41_c50_an_answer_says_until_when_and_since_when() {
    let registry = direct(None);
    let first = registry
        .registers(&registry.nse, at("nse"))
        .await
        .expect("registers")
        .entry;
    let end = NseRegistry::expires(&first).expect("an expiration");
    assert_eq!(end, registry.component.now() + Duration::from_secs(60));
    sleep(Duration::from_secs(40)).await;
    let again = registry
        .registers(&registry.nse, at("nse"))
        .await
        .expect("refreshes")
        .entry;
    assert_eq!(again.initial_registration_time, first.initial_registration_time);
    sleep(Duration::from_secs(44)).await;
    assert_eq!(registry.names().await, ["nse"]);
    sleep(Duration::from_secs(2)).await;
    assert!(
        registry.names().await.is_empty(),
        "45 s after the last registration"
    );
    registry.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c51_a_service_gets_a_payload() {
    let registry = direct(None);
    let answer = registry
        .registers(&registry.ns, service("ns", ""))
        .await
        .expect("registers");
    assert_eq!(answer.entry.payload, "IP");
    let found = find(&registry.ns, &registry.component, Default::default()).await;
    assert_eq!(found[0].payload, "IP");
    registry.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c52_parallel_calls_for_one_name_end_as_the_last_one() {
    let registry = direct(None);
    let calls = (0..100).map(|count| {
        let registry = &registry;
        async move {
            let (ctx, mut message) = (registry.ctx(&registry.mesh.nse), at("nse"));
            message.entry.url = format!("tcp://10.0.0.1:{count}");
            let done = match count % 3 {
                0 => registry.nse.close(&ctx, &mut message).await.map(|()| None),
                _ => registry
                    .nse
                    .request(&ctx, &mut message)
                    .await
                    .map(|()| Some(message.entry.url)),
            };
            let done = match done {
                Err(error) if error.code() == Code::PermissionDenied => panic!("{error}"),
                done => done,
            };
            (count, done)
        }
    });
    let order = parking_lot::Mutex::new(Vec::new());
    let calls = calls.map(|call| async {
        let (_, done) = call.await;
        if let Ok(url) = done {
            order.lock().push(url);
        }
    });
    join_all(calls).await;
    let last = order.lock().pop().expect("some succeeded");
    let found = find(&registry.nse, &registry.component, Default::default()).await;
    let found = found.into_iter().map(|entry| entry.url).next();
    assert_eq!(found, last);
    registry.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c55_unregistering_what_is_unknown_succeeds() {
    let registry = direct(None);
    let ctx = registry.ctx(&registry.mesh.nse);
    registry
        .nse
        .close(&ctx, &mut at("nobody"))
        .await
        .expect("unregisters");
    registry
        .ns
        .close(&ctx, &mut service("nobody", "IP"))
        .await
        .expect("unregisters");
    registry.component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c74_without_a_path_a_call_is_denied_unless_there_are_no_policies() {
    for (policies, expected) in [
        (None, Some(Code::PermissionDenied)),
        (Some(Policies::default()), None),
    ] {
        let registry = direct(policies);
        let ctx = registry.ctx(&registry.mesh.nse);
        ctx.call().insert(NoPath);
        let done = registry.nse.request(&ctx, &mut at("nse")).await;
        assert_eq!(done.err().map(|error| error.code()), expected);
        assert_eq!(registry.names().await.is_empty(), expected.is_some());
        registry.component.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn c89_everybody_may_find_without_a_token() {
    let registry = direct(None);
    registry
        .registers(&registry.nse, at("nse"))
        .await
        .expect("registers");
    let peer = Peer {
        token: None,
        ..registry.mesh.other.party.calls(&registry.mesh.registry.party)
    };
    let ctx = Ctx::new(&registry.component, peer, None);
    let found = registry.nse.find(&ctx, Default::default()).await.expect("finds");
    assert_eq!(found.count().await, 1);
    registry.component.end().await;
}

/// A store that cannot take anything, before the one that does.
struct Broken;

#[async_trait::async_trait]
impl Element<NseRegistry> for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }
    async fn request(
        &self,
        _: &Ctx,
        _: &mut Registration<nsm_api::registry::NetworkServiceEndpoint>,
        _: crate::core::Next<'_, NseRegistry>,
    ) -> Result<()> {
        Err(crate::core::Error::unavailable("told-so", "no"))
    }
}

#[tokio::test(start_paused = true)]
async fn c53_what_fails_leaves_no_timer_and_no_entry() {
    let registry = direct(None);
    let chain = registry.nse.then(&chain![Broken]);
    for _ in 0..3 {
        registry.registers(&chain, at("nse")).await.expect_err("fails");
    }
    assert_eq!(registry.component.tasks(), 0);
    assert!(registry.names().await.is_empty());
    registry.component.end().await;
}
