// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use async_trait::async_trait;
use nsm_api::connection::{Path, PathSegment};
use nsm_api::registry::NetworkServiceEndpoint;
use rand::SeedableRng;
use tokio::time::Instant;

use super::*;
use crate::core::testing::{Connection, Probe, standard_cases};
use crate::core::{CallToken, Chain, Clock, Component, NsRegistry, NseRegistry, Peer, Registration};
use crate::elements::authorize::AuthorizeClient;
use crate::elements::begin::Begin;
use crate::identity::testing::{NSE, NSMGR, OTHER, Party, REGISTRY, now, parties, segment};
use crate::policy;
use crate::registry::expire::Expire;
use crate::registry::memory::Memory;
use crate::registry::testing::{endpoint, service};
use crate::registry::updatepath::{NoPath, UpdatePath};

type Message = Registration<NetworkServiceEndpoint>;
type Authorize = AuthorizeServer<NseRegistry>;

fn policies() -> Policies {
    Policies::choose(policy::REGISTRY_SERVER).unwrap()
}

/// Registers and stores, as `party`, guarded by `authorize`.
struct Server<'a> {
    party: &'a Party,
    component: Component,
    chain: Chain<NseRegistry>,
    probe: Arc<Probe<NseRegistry>>,
}

fn component() -> Component {
    Component::with(
        "test",
        Clock::starting_at(now()),
        rand::rngs::StdRng::seed_from_u64(1),
    )
}

fn guarded<'a>(party: &'a Party, authorize: Authorize) -> Server<'a> {
    let (component, probe) = (component(), Probe::new());
    let chain = Chain::new(vec![
        Arc::new(UpdatePath::new(&party.tokens, &party.identity())),
        Arc::new(authorize),
        Arc::new(Begin::server(&component)),
        Arc::new(Expire::new(Duration::from_secs(60))),
        Arc::new(Arc::clone(&probe)),
    ]);
    Server {
        party,
        component,
        chain,
        probe,
    }
}

fn nsmgr(party: &Party) -> Server<'_> {
    guarded(party, Authorize::remembering(&policies(), &party.identity()))
}

impl Server<'_> {
    fn ctx(&self, peer: Peer) -> Ctx {
        Ctx::new(
            &self.component,
            peer,
            Some(Instant::now() + Duration::from_secs(10)),
        )
    }

    async fn register(&self, caller: &Party, message: &mut Message) -> Result<()> {
        self.chain
            .request(&self.ctx(caller.calls(self.party)), message)
            .await
    }

    async fn unregister(&self, caller: &Party, message: &Message) -> Result<()> {
        self.chain
            .close(&self.ctx(caller.calls(self.party)), &mut message.clone())
            .await
    }

    async fn registers(&self, caller: &Party, name: &str) -> Result<()> {
        self.register(caller, &mut endpoint(name, &["s"])).await
    }

    async fn unregisters(&self, caller: &Party, name: &str) -> Result<()> {
        self.unregister(caller, &endpoint(name, &["s"])).await
    }
}

fn assert_denied(done: Result<()>, reason: &str) {
    let error = done.expect_err("is denied");
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::PermissionDenied, reason),
        "{error}"
    );
    assert!(
        error
            .text()
            .ends_with("PermissionDenied desc = no sufficient privileges"),
        "{error}"
    );
}

/// What a hop sends that speaks for the issuer of `first`, at index 1.
fn through(first: CallToken, path_ids: &[&str]) -> Message {
    let mut message = endpoint("nse", &["s"]);
    message.path = Path {
        index: 1,
        path_segments: vec![segment("", first), PathSegment::default()],
    };
    message.entry.path_ids = path_ids.iter().map(ToString::to_string).collect();
    message
}

#[tokio::test]
async fn passes_the_standard_cases_of_both_registries() {
    let [us] = parties([NSMGR]);
    standard_cases::<NseRegistry, _>(
        || AuthorizeServer::remembering(&policies(), &us.identity()),
        endpoint("nse", &["s"]),
    )
    .await;
    standard_cases::<NsRegistry, _>(
        || AuthorizeServer::stored(&policies(), &us.identity()),
        service("s", "IP"),
    )
    .await;
    standard_cases::<NseRegistry, _>(|| AuthorizeClient::new(&policies()), endpoint("nse", &["s"])).await;
}

#[tokio::test(start_paused = true)]
async fn c74_a_call_without_a_path_is_denied_unless_there_are_no_policies() {
    let [us, nse] = parties([NSMGR, NSE]);
    let open = guarded(&us, Authorize::remembering(&Policies::default(), &us.identity()));
    for (server, is_open) in [(nsmgr(&us), false), (open, true)] {
        let ctx = server.ctx(nse.calls(&us));
        ctx.call().insert(NoPath);
        let done = server.chain.request(&ctx, &mut endpoint("nse", &["s"])).await;
        assert_eq!(done.is_ok(), is_open);
        if !is_open {
            assert_denied(done, "policy");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c76_a_wrong_signature_on_the_callers_token_is_denied() {
    let [us, nse, again] = parties([NSMGR, NSE, NSE]);
    let server = nsmgr(&us);
    let peer = Peer {
        token: Some(again.token(&us)),
        ..nse.calls(&us)
    };
    assert_denied(
        server
            .chain
            .request(&server.ctx(peer), &mut endpoint("nse", &["s"]))
            .await,
        "policy",
    );
    server.registers(&nse, "nse").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c77_an_expired_token_is_denied_in_the_checked_part_only() {
    let [registry, hop, nse] = parties([REGISTRY, NSMGR, NSE]);
    let server = guarded(&registry, Authorize::stored(&policies(), &registry.identity()));
    let mut stale = through(nse.token(&hop), &[nse.id()]);
    stale.path.path_segments.push(PathSegment::default());
    stale.path.path_segments.push(segment("", nse.expired(&hop)));
    server.register(&hop, &mut stale).await.unwrap();
    assert_denied(
        server
            .register(&hop, &mut through(nse.expired(&hop), &[nse.id()]))
            .await,
        "policy",
    );
    assert_denied(
        server
            .unregister(&hop, &through(nse.expired(&hop), &[nse.id()]))
            .await,
        "policy",
    );
}

#[tokio::test(start_paused = true)]
async fn c78_a_broken_chain_is_denied() {
    let [registry, hop, nse, other] = parties([REGISTRY, NSMGR, NSE, OTHER]);
    let server = guarded(&registry, Authorize::stored(&policies(), &registry.identity()));
    assert_denied(
        server
            .register(&hop, &mut through(nse.token(&other), &[nse.id()]))
            .await,
        "policy",
    );
}

#[tokio::test(start_paused = true)]
async fn c79_an_audience_that_is_no_array_is_denied() {
    use base64::Engine as _;
    let [registry, hop, nse] = parties([REGISTRY, NSMGR, NSE]);
    let server = guarded(&registry, Authorize::stored(&policies(), &registry.identity()));
    let with_audience = |audience: String| {
        let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let claims = format!(r#"{{"sub":"{}","aud":{audience},"exp":4000000000}}"#, nse.id());
        let token = format!("{}.{}.AA", part(r#"{"alg":"ES256"}"#), part(&claims));
        through(
            CallToken {
                token,
                expires: now(),
            },
            &[nse.id()],
        )
    };
    let us = hop.id();
    assert_denied(
        server.register(&hop, &mut with_audience(format!("{us:?}"))).await,
        "policy",
    );
    server
        .register(&hop, &mut with_audience(format!("[{us:?}]")))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn c80_a_name_is_for_its_owner_only() {
    let [us, nse, other] = parties([NSMGR, NSE, OTHER]);
    let server = nsmgr(&us);
    server.registers(&nse, "nse").await.unwrap();
    assert_denied(server.registers(&other, "nse").await, "policy");
    assert_denied(server.unregisters(&other, "nse").await, "policy");
    assert_eq!(server.probe.seen().len(), 1, "nothing of it has come through");
    server.registers(&nse, "nse").await.unwrap();
    server.registers(&other, "another").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c81_a_name_that_its_owner_has_unregistered_is_free() {
    let [us, nse, other] = parties([NSMGR, NSE, OTHER]);
    let server = nsmgr(&us);
    server.registers(&nse, "nse").await.unwrap();
    server.unregisters(&nse, "nse").await.unwrap();
    server.registers(&other, "nse").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c82_nobody_speaks_for_others_but_hops_of_the_mesh() {
    let [registry, hop, nse, other] = parties([REGISTRY, NSMGR, NSE, OTHER]);
    let forged = || {
        let mut token = nse.token(&other);
        token.token = format!("{}.AA", token.token.rsplit_once('.').unwrap().0);
        through(token, &[nse.id()])
    };
    let strict = guarded(&registry, Authorize::stored(&policies(), &registry.identity()));
    assert_denied(strict.register(&other, &mut forged()).await, "untrusted-hop");
    assert_denied(strict.unregister(&other, &forged()).await, "untrusted-hop");
    strict
        .register(&hop, &mut through(nse.token(&hop), &[nse.id()]))
        .await
        .unwrap();

    let lenient =
        Authorize::stored(&policies(), &registry.identity()).trusting(vec!["spiffe://k8s.nsm/".into()]);
    let as_the_reference = guarded(&registry, lenient);
    as_the_reference.register(&other, &mut forged()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c82_the_first_of_the_path_is_the_first_of_path_ids() {
    let [registry, hop, nse, other] = parties([REGISTRY, NSMGR, NSE, OTHER]);
    let server = guarded(&registry, Authorize::stored(&policies(), &registry.identity()));
    assert_denied(
        server
            .register(&hop, &mut through(nse.token(&hop), &[other.id()]))
            .await,
        "foreign-origin",
    );
    assert_denied(
        server.register(&hop, &mut through(nse.token(&hop), &[])).await,
        "foreign-origin",
    );
}

#[tokio::test(start_paused = true)]
async fn hops_of_another_domain_speak_for_their_own_only() {
    let [registry] = parties([REGISTRY]);
    let element = Authorize::stored(&policies(), &registry.identity());
    let ctx = Connection::new().first();
    let hop = "spiffe://remote/ns/nsm-system/pod/registry-proxy";
    for (speaker, origin, may) in [
        (hop, "spiffe://remote/ns/default/pod/nse", true),
        (hop, "spiffe://k8s.nsm/ns/default/pod/nse", false),
        (hop, "spiffe://third/ns/default/pod/nse", false),
        (
            "spiffe://remote/ns/default/pod/other",
            "spiffe://remote/ns/default/pod/nse",
            false,
        ),
        (
            "spiffe://k8s.nsm/nsmgr",
            "spiffe://k8s.nsm/ns/default/pod/nse",
            false,
        ),
        (
            "spiffe://k8s.nsm/ns/nsm-system/sa/nsmgr",
            "spiffe://remote/ns/default/pod/nse",
            true,
        ),
    ] {
        assert_eq!(
            element.may_speak(&ctx, speaker, origin),
            may,
            "{speaker} for {origin}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn c83_a_name_whose_registration_has_ended_is_free() {
    let [us, nse, other] = parties([NSMGR, NSE, OTHER]);
    let server = nsmgr(&us);
    server.registers(&nse, "nse").await.unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_denied(server.registers(&other, "nse").await, "policy");
    tokio::time::advance(Duration::from_secs(2)).await;
    server.registers(&other, "nse").await.unwrap();
    assert_denied(server.registers(&nse, "nse").await, "policy");
}

#[tokio::test(start_paused = true)]
async fn c89_whoever_has_an_identity_finds_without_a_token() {
    let [us, nse] = parties([NSMGR, NSE]);
    let server = nsmgr(&us);
    Probe::find(
        &server.probe,
        vec![NseRegistry::found(endpoint("nse", &["s"]).entry, false)],
    );
    let peer = Peer {
        token: None,
        ..nse.calls(&us)
    };
    let found = server
        .chain
        .find(&server.ctx(peer), NseRegistry::by_name("nse", false))
        .await
        .unwrap();
    assert_eq!(found.count().await, 1);
}

/// The elements behind a replica: what it registers and finds is in a store that all replicas share.
struct Shared(Arc<Memory<NseRegistry>>);

#[async_trait]
impl Element<NseRegistry> for Shared {
    fn name(&self) -> &'static str {
        "shared"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Message, next: Next<'_, NseRegistry>) -> Result<()> {
        self.0.request(ctx, message, next).await
    }
    async fn close(&self, ctx: &Ctx, message: &mut Message, next: Next<'_, NseRegistry>) -> Result<()> {
        self.0.close(ctx, message, next).await
    }
    async fn find(
        &self,
        ctx: &Ctx,
        query: nsm_api::registry::NetworkServiceEndpointQuery,
        next: Next<'_, NseRegistry>,
    ) -> Result<crate::core::Found<NseRegistry>> {
        self.0.find(ctx, query, next).await
    }
}

#[tokio::test(start_paused = true)]
async fn c84_another_replica_and_a_restarted_one_know_the_owner() {
    let [registry, nse, other] = parties([REGISTRY, NSE, OTHER]);
    let component = component();
    let memory = Arc::new(Memory::new(crate::registry::memory::Limits::default()));
    let replica = || {
        let chain = Chain::new(vec![
            Arc::new(UpdatePath::new(&registry.tokens, &registry.identity())),
            Arc::new(Authorize::stored(&policies(), &registry.identity())),
            Arc::new(Begin::server(&component)),
            Arc::new(Expire::new(Duration::from_secs(60))),
            Arc::new(Shared(Arc::clone(&memory))),
        ]);
        Server {
            party: &registry,
            component: component.clone(),
            chain,
            probe: Probe::new(),
        }
    };
    replica().registers(&nse, "nse").await.unwrap();
    assert_denied(replica().registers(&other, "nse").await, "policy");
    assert_denied(replica().unregisters(&other, "nse").await, "policy");
    let (server, mut again) = (replica(), endpoint("nse", &["s"]));
    let ctx = server.ctx(nse.calls(&registry));
    server.chain.request(&ctx, &mut again).await.unwrap();
    assert_eq!(
        ctx.call().get(),
        Some(Judged(Some(nse.id().to_string()))),
        "who stores is told by whom the call was judged"
    );
    tokio::time::advance(Duration::from_secs(61)).await;
    replica().registers(&other, "nse").await.unwrap();
    replica().unregisters(&other, "nse").await.unwrap();
    replica().registers(&nse, "nse").await.unwrap();
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_first_registration_fails_is_free_and_one_that_is_refreshed_is_not() {
    let [us, nse, other] = parties([NSMGR, NSE, OTHER]);
    let server = nsmgr(&us);
    server
        .probe
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    assert!(server.registers(&nse, "nse").await.is_err());
    server.probe.answer(|_| Ok(()));
    server.registers(&other, "nse").await.unwrap();
    server
        .probe
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    assert!(server.registers(&other, "nse").await.is_err());
    assert_denied(server.registers(&nse, "nse").await, "policy");
}

#[tokio::test(start_paused = true)]
async fn two_who_want_a_free_name_at_once_do_not_both_get_it() {
    let [us, nse, other] = parties([NSMGR, NSE, OTHER]);
    let server = nsmgr(&us);
    let go_on = server.probe.hold();
    let first = server.registers(&nse, "nse");
    let second = async {
        while server.probe.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        let denied = server.registers(&other, "nse").await;
        go_on.cancel();
        denied
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert_denied(second, "policy");
}

#[test]
fn the_names_kept_are_bounded_and_those_whose_time_is_over_make_room() {
    let owners = Owners::default();
    let (start, second) = (now(), Duration::from_secs(1));
    let claim = |name: &str, at| owners.claim(name, "nse", at, at + second);
    for n in 0..owners::MAX_NAMES {
        claim(&n.to_string(), start)
            .unwrap()
            .keep(&n.to_string(), Some(start + second));
    }
    assert_eq!(claim("more", start).err().unwrap().reason(), "too-many-names");
    drop(claim("more", start + second).unwrap());
    assert_eq!(owners.count(), 0);
    claim("same", start).unwrap().keep("same", Some(start + second));
    assert_eq!(
        owners.of("same", start),
        Some("nse".into()),
        "kept, though its time is that of the claim"
    );
    claim("asked", start).unwrap().keep("given", None);
    assert_eq!(
        (owners.of("asked", start), owners.of("given", start)),
        (None, Some("nse".into()))
    );
}
