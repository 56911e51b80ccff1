// SPDX-License-Identifier: Apache-2.0
//! What one call carries, there and back.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt;
use nsm_api::connection::{ConnectionEvent, Mechanism, MonitorScopeSelector, Path, PathSegment};
use nsm_api::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse, NetworkServiceQuery,
    NetworkServiceResponse,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Code;

use super::*;
use crate::core::{Error, Found, Inode, Next, Peer, Registration, Request, Result};
use crate::identity::jwt::{Claims, verify_es256};
use crate::transport::{Address, health, link::Link, remote::origin, tls::Connector};

/// What an element sees of calls.
#[derive(Default)]
struct Witness {
    peers: Mutex<Vec<Peer>>,
    budgets: Mutex<Vec<Duration>>,
}

#[async_trait]
impl Element<NetworkService> for Arc<Witness> {
    fn name(&self) -> &'static str {
        "witness"
    }

    async fn request(&self, ctx: &Ctx, _: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        self.peers.lock().push(ctx.peer().clone());
        self.budgets.lock().push(ctx.budget());
        Ok(())
    }
}

#[tokio::test]
async fn c13_a_call_carries_a_token_for_the_server_signed_with_the_key_of_its_connection() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let witness = Arc::<Witness>::default();
    let url = server.serve(&machine.url("s"), Arc::clone(&witness)).await;
    let remote = dial(&client.pool(), &url).await;
    assert_eq!(remote.peer().spiffe_id(), Some("spiffe://a.org/server"));
    call(&remote, &client).await;

    let peer = witness.peers.lock()[0].clone();
    let identity = peer.identity.unwrap();
    assert_eq!(identity.spiffe_id, "spiffe://a.org/client");
    assert_eq!(peer.local.unwrap().spiffe_id, "spiffe://a.org/server");
    let token = peer.token.unwrap();
    assert!(token.expires > SystemTime::UNIX_EPOCH);
    let claims = Claims::of(&token.token).unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.aud),
        ("spiffe://a.org/client", vec!["spiffe://a.org/server".into()])
    );
    assert!(verify_es256(&token.token, &identity.certificate));
    let budget = witness.budgets.lock()[0];
    assert!(
        budget > Duration::from_secs(9) && budget <= Duration::from_secs(10),
        "{budget:?}"
    );
}

#[tokio::test]
async fn the_answer_is_the_peers_and_keeps_the_preferences() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let mut message = request();
    message.mechanism_preferences.push(Mechanism {
        r#type: "KERNEL".into(),
        ..Mechanism::default()
    });
    let remote = dial(&client.pool(), &url).await;
    let answer = remote.request(&client.ctx(), &message).await.unwrap();
    assert_eq!(answer.connection.id, "server");
    assert_eq!(
        answer.connection.network_service,
        message.connection.network_service
    );
    assert_eq!(answer.mechanism_preferences, message.mechanism_preferences);
    remote.close(&client.ctx(), &answer).await.unwrap();
}

#[tokio::test]
async fn code_and_reason_of_an_error_survive_the_wire() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let probe = Probe::answering(|_| Err(Error::exhausted("pool-empty", "no address left")));
    let url = server.serve(&machine.url("s"), probe).await;
    let remote = dial(&client.pool(), &url).await;
    let error = remote.request(&client.ctx(), &request()).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::ResourceExhausted, "pool-empty")
    );
    assert_eq!(error.text(), "server/probe: no address left");
}

/// Takes the file that the request names, and sends one of its own.
struct Exchange(Inode, Duration);

#[async_trait]
impl Element<NetworkService> for Exchange {
    fn name(&self) -> &'static str {
        "exchange"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        let files = ctx
            .peer()
            .files
            .clone()
            .ok_or_else(|| Error::invalid("no-files", "not a unix socket"))?;
        let deadline = ctx.deadline().min(Instant::now() + self.1);
        let file = files.receive(self.0, deadline).await?;
        let content = std::io::read_to_string(std::fs::File::from(file)).unwrap();
        let answer = content_file(&content.to_uppercase());
        message.set_id(files.send(answer).unwrap().to_string());
        Ok(())
    }
}

fn content_file(content: &str) -> OwnedFd {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}

#[tokio::test]
async fn files_pass_both_ways_beside_a_call() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let file = content_file("hello");
    let exchange = Exchange(Inode::of(&file).unwrap(), Duration::from_secs(10));
    let url = server.serve(&machine.url("s"), exchange).await;
    let remote = dial(&client.pool(), &url).await;
    let files = remote.peer().files.clone().unwrap();
    files.send(file).unwrap();
    let answer = call(&remote, &client).await;
    let file = files.receive(answer.id().parse().unwrap(), soon()).await.unwrap();
    assert_eq!(
        std::io::read_to_string(std::fs::File::from(file)).unwrap(),
        "HELLO"
    );
}

#[tokio::test]
async fn c79_a_file_that_was_named_but_not_sent_fails_the_call_at_the_deadline() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let exchange = Exchange(Inode { dev: 1, ino: 2 }, Duration::from_millis(50));
    let url = server.serve(&machine.url("s"), exchange).await;
    let remote = dial(&client.pool(), &url).await;
    let error = remote.request(&client.ctx(), &request()).await.unwrap_err();
    assert_eq!(error.reason(), "fd-timeout");
    assert!(
        error.text().contains("timeout in recvfd waiting for inode://1/2"),
        "{error}"
    );
}

#[tokio::test]
async fn tcp_passes_no_files_and_needs_no_scheme() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve("127.0.0.1:0", naming("server")).await;
    for url in [url.as_str(), url.strip_prefix("tcp://").unwrap()] {
        let remote = dial(&client.pool(), url).await;
        assert!(remote.peer().files.is_none());
        assert_eq!(call(&remote, &client).await.id(), "server");
    }
}

#[tokio::test]
async fn a_message_of_more_than_4_mib_is_refused_and_the_connection_goes_on() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let remote = dial(&client.pool(), &url).await;
    let mut large = request();
    large.connection.network_service = "x".repeat(5 << 20);
    let error = remote.request(&client.ctx(), &large).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    assert_eq!(call(&remote, &client).await.id(), "server");
}

#[tokio::test]
async fn a_hundred_calls_run_side_by_side_on_one_connection() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let probe = naming("server");
    let release = probe.hold();
    let url = server.serve(&machine.url("s"), Arc::clone(&probe)).await;
    let remote = dial(&client.pool(), &url).await;
    let calls = futures::future::join_all((0..100).map(|_| call(&remote, &client)));
    let (answers, ()) = tokio::join!(calls, async {
        until("all calls arrive", || probe.requests().len() == 100).await;
        release.cancel();
    });
    assert!(answers.iter().all(|answer| answer.id() == "server"));
}

/// Waits until its call is cancelled, and tells.
struct Patient(mpsc::UnboundedSender<&'static str>);

#[async_trait]
impl Element<NetworkService> for Patient {
    fn name(&self) -> &'static str {
        "patient"
    }

    async fn request(&self, ctx: &Ctx, _: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        self.tell("arrived", ctx);
        std::future::pending().await
    }

    async fn find(
        &self,
        ctx: &Ctx,
        _: MonitorScopeSelector,
        _: Next<'_, NetworkService>,
    ) -> Result<Found<NetworkService>> {
        self.tell("arrived", ctx);
        Ok(futures::stream::pending().boxed())
    }
}

impl Patient {
    fn tell(&self, arrived: &'static str, ctx: &Ctx) {
        let (told, gone) = (self.0.clone(), ctx.cancelled().clone());
        told.send(arrived).unwrap();
        ctx.component().spawn_detached("watch", async move {
            gone.cancelled().await;
            told.send("cancelled").unwrap();
        });
    }
}

#[tokio::test]
async fn the_chain_learns_that_its_caller_has_gone() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let (told, mut events) = mpsc::unbounded_channel();
    let url = server.serve(&machine.url("s"), Patient(told)).await;
    let remote = dial(&client.pool(), &url).await;

    let ctx = client.ctx();
    let message = request();
    let (cancelled, ()) = tokio::join!(remote.request(&ctx, &message), async {
        assert_eq!(events.recv().await, Some("arrived"));
        ctx.cancelled().cancel();
    });
    assert_eq!(cancelled.unwrap_err().reason(), "cancelled");
    assert_eq!(events.recv().await, Some("cancelled"));

    let short = Ctx::own(&client.component, Duration::from_millis(50));
    let error = remote.request(&short, &request()).await.unwrap_err();
    assert_eq!(error.reason(), "deadline");
    assert!(error.text().contains(&url), "{error}");
    assert_eq!(
        (events.recv().await, events.recv().await),
        (Some("arrived"), Some("cancelled"))
    );

    let stream = remote
        .find(&client.ctx(), MonitorScopeSelector::default())
        .await
        .unwrap();
    assert_eq!(events.recv().await, Some("arrived"));
    drop(stream);
    assert_eq!(events.recv().await, Some("cancelled"));
}

#[tokio::test]
async fn what_find_finds_arrives_in_order_and_ends() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let (monitor, nses, services) = (
        Probe::<NetworkService>::new(),
        Probe::<NseRegistry>::new(),
        Probe::<NsRegistry>::new(),
    );
    let events: Vec<_> = (0..3)
        .map(|r#type| ConnectionEvent {
            r#type,
            ..Default::default()
        })
        .collect();
    let endpoints = vec![NetworkServiceEndpointResponse {
        deleted: true,
        ..Default::default()
    }];
    (*monitor).find(events.clone());
    (*nses).find(endpoints.clone());
    (*services).find(vec![NetworkServiceResponse::default(); 2]);
    let url = server.serve(&machine.url("s"), Arc::clone(&monitor)).await;
    server.serve_registries(&machine.url("r"), &nses, &services).await;
    let pool = client.pool();

    let found = dial(&pool, &url)
        .await
        .find(&client.ctx(), MonitorScopeSelector::default())
        .await
        .unwrap();
    assert_eq!(found.map(Result::unwrap).collect::<Vec<_>>().await, events);
    let remote: Arc<dyn Remote<NseRegistry>> = pool.dial(&machine.url("r"), soon()).await.unwrap();
    let found = remote
        .find(&client.ctx(), NetworkServiceEndpointQuery::default())
        .await
        .unwrap();
    assert_eq!(found.map(Result::unwrap).collect::<Vec<_>>().await, endpoints);
    let remote: Arc<dyn Remote<NsRegistry>> = pool.dial(&machine.url("r"), soon()).await.unwrap();
    let found = remote
        .find(&client.ctx(), NetworkServiceQuery::default())
        .await
        .unwrap();
    assert_eq!(found.count().await, 2);
}

fn registration(name: &str, tokens: &[&str]) -> Registration<NetworkServiceEndpoint> {
    let segment = |token: &&str| PathSegment {
        token: (*token).into(),
        ..Default::default()
    };
    Registration {
        entry: NetworkServiceEndpoint {
            name: name.into(),
            ..Default::default()
        },
        path: Path {
            index: 0,
            path_segments: tokens.iter().map(segment).collect(),
        },
    }
}

#[tokio::test]
async fn r90_a_registration_carries_its_path_both_ways_even_a_long_one() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let (nses, services) = (Probe::<NseRegistry>::new(), Probe::<NsRegistry>::new());
    let url = machine.url("r");
    server.serve_registries(&url, &nses, &services).await;
    nses.answer(|message| {
        message
            .path
            .path_segments
            .push(registration("", &["more"]).path.path_segments.remove(0));
        Ok(())
    });
    let remote: Arc<dyn Remote<NseRegistry>> = client.pool().dial(&url, soon()).await.unwrap();
    let long = "t".repeat(1024);
    let sent = registration("nse", &[long.as_str(); 40]);
    let answer = remote.request(&client.ctx(), &sent).await.unwrap();
    assert_eq!(nses.requests(), std::slice::from_ref(&sent));
    assert_eq!(answer.path.path_segments.len(), 41);
    assert_eq!(answer.path.path_segments[40].token, "more");
    remote.close(&client.ctx(), &answer).await.unwrap();
    assert_eq!(nses.closes(), [answer]);

    let remote: Arc<dyn Remote<NsRegistry>> = client.pool().dial(&url, soon()).await.unwrap();
    let service = Registration {
        entry: nsm_api::registry::NetworkService {
            name: "ns".into(),
            ..Default::default()
        },
        path: sent.path,
    };
    assert_eq!(remote.request(&client.ctx(), &service).await.unwrap(), service);
}

/// A link to call without what our own calls add.
async fn bare(client: &Program, url: &str) -> Link {
    let address: Address = url.parse().unwrap();
    let connector = Connector::new(&client.identity.current()).unwrap();
    Link::open(&client.component, &connector, &address).await.unwrap()
}

#[tokio::test]
async fn r89_a_call_without_token_deadline_or_connection_is_served() {
    use nsm_api::networkservice::{NetworkServiceRequest, network_service_client::NetworkServiceClient};
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let witness = Arc::<Witness>::default();
    let url = server.serve(&machine.url("s"), Arc::clone(&witness)).await;
    let link = bare(&client, &url).await;
    let mut raw = NetworkServiceClient::with_origin(link.transport(), origin());
    let answer = raw
        .request(NetworkServiceRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer, nsm_api::connection::Connection::default());
    let peer = witness.peers.lock()[0].clone();
    assert!(peer.token.is_none() && peer.identity.is_some());
    assert_eq!(witness.budgets.lock()[0], Duration::ZERO);
}

#[tokio::test]
async fn c14_a_token_given_twice_is_no_token() {
    use nsm_api::networkservice::{NetworkServiceRequest, network_service_client::NetworkServiceClient};
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let witness = Arc::<Witness>::default();
    let url = server.serve(&machine.url("s"), Arc::clone(&witness)).await;
    let link = bare(&client, &url).await;
    let mut call = tonic::Request::new(NetworkServiceRequest::default());
    for (key, value) in [
        ("nsm-client-token", "a"),
        ("nsm-client-token", "a"),
        ("nsm-client-token-expires", "2030-01-01T00:00:00Z"),
    ] {
        call.metadata_mut().append(key, value.parse().unwrap());
    }
    NetworkServiceClient::with_origin(link.transport(), origin())
        .request(call)
        .await
        .unwrap();
    assert!(witness.peers.lock()[0].token.is_none());
}

#[tokio::test]
async fn a_service_that_is_not_served_is_unimplemented() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let remote: Arc<dyn Remote<NseRegistry>> = client.pool().dial(&url, soon()).await.unwrap();
    let error = remote
        .request(&client.ctx(), &registration("nse", &[]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(
        error.text().contains("registry.NetworkServiceEndpointRegistry"),
        "{error}"
    );
}

#[tokio::test]
async fn c108_health_is_serving_for_the_empty_name_and_every_service() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = machine.url("s");
    let all = Server::new(&server.component, server.identity.clone())
        .network_service(Chain::new(vec![]))
        .nse_registry(Chain::new(vec![]))
        .ns_registry(Chain::new(vec![]));
    all.listen(&[&url]).await.unwrap();
    for service in [
        "",
        "networkservice.NetworkService",
        "connection.MonitorConnection",
        "registry.NetworkServiceRegistry",
        "registry.NetworkServiceEndpointRegistry",
    ] {
        health::check(&client.component, &client.identity, &url, service, soon())
            .await
            .unwrap();
    }
    let error = health::check(&client.component, &client.identity, &url, "other", soon())
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::NotFound, "unknown-service")
    );
    let nobody = health::check(&client.component, &client.identity, &machine.url("x"), "", soon())
        .await
        .unwrap_err();
    assert_eq!(nobody.reason(), "peer-unreachable");
}

#[tokio::test]
async fn health_tells_what_else_a_program_has_to_tell() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = machine.url("s");
    let (sender, is_serving) = tokio::sync::watch::channel(false);
    let all = Server::new(&server.component, server.identity.clone()).health("store", is_serving);
    all.listen(&[&url]).await.unwrap();
    let asked = async || health::check(&client.component, &client.identity, &url, "store", soon()).await;
    assert_eq!(
        asked().await.unwrap_err().reason(),
        "not-serving",
        "from the first call on"
    );
    let becomes = async |wanted: bool| {
        while asked().await.is_ok() != wanted {
            tokio::task::yield_now().await;
        }
    };
    becomes(false).await;
    sender.send_replace(true);
    becomes(true).await;
    sender.send_replace(false);
    becomes(false).await;
    let error = asked().await.unwrap_err();
    assert_eq!(error.reason(), "not-serving");
}

/// Answers `find` when it is released, as a server of the reference does that has found nothing yet.
struct Late(tokio_util::sync::CancellationToken);

#[async_trait]
impl Element<NetworkService> for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    async fn find(
        &self,
        _: &Ctx,
        _: MonitorScopeSelector,
        _: Next<'_, NetworkService>,
    ) -> Result<Found<NetworkService>> {
        self.0.cancelled().await;
        Ok(futures::stream::iter([Ok(ConnectionEvent::default())]).boxed())
    }
}

#[tokio::test]
async fn a_stream_opens_though_its_server_has_nothing_to_say_yet() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let release = tokio_util::sync::CancellationToken::new();
    let url = server.serve(&machine.url("s"), Late(release.clone())).await;
    let remote = dial(&client.pool(), &url).await;
    let hasty = Ctx::own(&client.component, Duration::from_millis(20));
    let error = remote
        .find(&hasty, MonitorScopeSelector::default())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.reason(), "deadline");
    let found = remote
        .find(&client.ctx(), MonitorScopeSelector::default())
        .await
        .unwrap();
    release.cancel();
    assert_eq!(
        found.map(Result::unwrap).collect::<Vec<_>>().await,
        [ConnectionEvent::default()]
    );
}
