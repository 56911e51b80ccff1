// SPDX-License-Identifier: Apache-2.0
//! The life of connections: shared, replaced, refused, ended.

use std::io::ErrorKind;

use futures::StreamExt;
use nsm_api::connection::MonitorScopeSelector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::*;
use crate::core::{Found, Next, Result};
use async_trait::async_trait;

/// Finds one event, and then nothing for ever.
pub(super) struct Monitored;

#[async_trait]
impl Element<NetworkService> for Monitored {
    fn name(&self) -> &'static str {
        "monitored"
    }

    async fn find(
        &self,
        _: &Ctx,
        _: MonitorScopeSelector,
        _: Next<'_, NetworkService>,
    ) -> Result<Found<NetworkService>> {
        let first = futures::stream::iter([Ok(Default::default())]);
        Ok(first.chain(futures::stream::pending()).boxed())
    }
}

pub(super) async fn monitor(
    remote: &Arc<dyn Remote<NetworkService>>,
    from: &Program,
) -> Found<NetworkService> {
    let mut found = remote
        .find(&from.ctx(), MonitorScopeSelector::default())
        .await
        .unwrap();
    found.next().await.unwrap().unwrap();
    found
}

fn same(one: &Arc<dyn Remote<NetworkService>>, other: &Arc<dyn Remote<NetworkService>>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

#[tokio::test]
async fn everyone_who_dials_a_target_shares_one_connection() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let alias = machine.directory.path().join("alias");
    std::os::unix::fs::symlink(machine.directory.path().join("s.sock"), &alias).unwrap();
    let alias = format!("unix://{}", alias.display());
    let pool = client.pool();
    let remotes =
        futures::future::join_all((0..50).map(|n| dial(&pool, if n % 2 == 0 { &url } else { &alias }))).await;
    assert!(remotes.iter().all(|remote| same(remote, &remotes[0])));
    assert_eq!(pool.connections(), 1);
    assert!(same(&remotes[0], &dial(&pool, &url).await));
}

#[tokio::test]
async fn r88_a_rotated_svid_gets_a_connection_of_its_own_and_the_old_one_works_until_it_is_dropped() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let pool = client.pool();
    let old = dial(&pool, &url).await;
    machine.rotate(&client);
    let new = dial(&pool, &url).await;
    assert!(!same(&old, &new));
    assert!(same(&new, &dial(&pool, &url).await));
    let current = client.identity.current().svid;
    assert!(Arc::ptr_eq(new.peer().local.as_ref().unwrap(), &current));
    assert!(!Arc::ptr_eq(old.peer().local.as_ref().unwrap(), &current));
    assert_eq!(call(&old, &client).await.id(), "server");
    assert_eq!(call(&new, &client).await.id(), "server");
    assert_eq!(pool.connections(), 1);
    let tasks = client.component.tasks();
    drop(old);
    until("the old connection ends", || {
        client.component.tasks() == tasks - 1
    })
    .await;
}

#[tokio::test]
async fn the_same_svid_told_again_changes_nothing() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let pool = client.pool();
    let before = dial(&pool, &url).await;
    client
        .source
        .send_modify(|credentials| credentials.bundles = Arc::new((*credentials.bundles).clone()));
    assert!(same(&before, &dial(&pool, &url).await));
}

#[tokio::test]
async fn when_the_servers_svid_is_replaced_clients_move_on_without_losing_a_call_or_stream() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), Monitored).await;
    let pool = client.pool();
    let old = dial(&pool, &url).await;
    let mut stream = monitor(&old, &client).await;
    machine.rotate(&server);
    let moved = async {
        loop {
            let remote = dial(&pool, &url).await;
            if !same(&old, &remote) {
                return remote;
            }
            tokio::task::yield_now().await;
        }
    };
    let new = tokio::time::timeout(Duration::from_secs(10), moved)
        .await
        .expect("the server tells clients to go");
    let certificate = |remote: &Arc<dyn Remote<NetworkService>>| {
        remote.peer().identity.clone().unwrap().certificate.clone()
    };
    assert_eq!(
        certificate(&new),
        server.identity.current().svid.certificates[0].to_vec()
    );
    assert_ne!(certificate(&old), certificate(&new));
    call(&new, &client).await;
    let error = old.request(&client.ctx(), &request()).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.retry()),
        ("connection-gone", crate::core::Retry::Now)
    );
    let quiet = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
    assert!(quiet.is_err(), "the stream goes on");
}

#[tokio::test]
async fn c54_streams_end_cleanly_and_calls_finish_when_the_server_ends() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), Monitored).await;
    let probe = naming("server");
    let release = probe.hold();
    let slow = server.serve(&machine.url("slow"), Arc::clone(&probe)).await;
    let pool = client.pool();
    let mut stream = monitor(&dial(&pool, &url).await, &client).await;
    let remote = dial(&pool, &slow).await;
    let (answer, rest, ()) = tokio::join!(call(&remote, &client), stream.next(), async {
        until("the call arrives", || probe.requests().len() == 1).await;
        server.component.shutdown().cancel();
        release.cancel();
    });
    assert_eq!(answer.id(), "server");
    assert!(rest.is_none(), "trailers, neither a reset nor an error: {rest:?}");
    server.component.end().await;
    let error = pool
        .dial(&url, soon())
        .await
        .map(|_: Arc<dyn Remote<NetworkService>>| ())
        .unwrap_err();
    assert_eq!(error.reason(), "peer-unreachable");
}

#[tokio::test]
async fn a_connection_that_broke_is_dialled_anew() {
    let machine = Machine::new();
    let client = machine.program("client");
    let url = machine.url("s");
    let pool = client.pool();
    let first = machine.program("first");
    first.serve(&url, naming("first")).await;
    let old = dial(&pool, &url).await;
    assert_eq!(call(&old, &client).await.id(), "first");
    first.component.end().await;
    let second = machine.program("second");
    second.serve(&url, naming("second")).await;
    assert_eq!(call(&dial(&pool, &url).await, &client).await.id(), "second");
    let error = old.request(&client.ctx(), &request()).await.unwrap_err();
    assert!(
        ["connection-gone", "peer-unreachable"].contains(&error.reason()),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_call_fails_it_at_once() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    // The "server" shakes hands, says something, and dies with the first call.
    let url = machine.url("s");
    let listener = UnixListener::bind(machine.directory.path().join("s.sock")).unwrap();
    let acceptor = crate::transport::tls::Acceptor::new(&server.identity.current()).unwrap();
    let dying = async {
        let socket = listener.accept().await.unwrap().0;
        let (mut stream, _) = acceptor
            .accept(crate::transport::stream::Stream::unix(socket).unwrap())
            .await
            .unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        stream.write_all(&settings).await.unwrap();
        let mut seen = Vec::new();
        while !seen
            .windows(7)
            .any(|window| window == b"request" || window == b"Request")
            && seen.len() < 200
        {
            stream.read_buf(&mut seen).await.unwrap();
        }
    };
    let calling = async {
        let remote = dial(&client.pool(), &url).await;
        remote.request(&client.ctx(), &request()).await.unwrap_err()
    };
    let ((), error) = tokio::join!(dying, calling);
    assert_eq!(error.reason(), "peer-unreachable", "{error}");
    assert!(
        error.text().contains(&url) && error.text().contains("broke"),
        "{error}"
    );
}

#[tokio::test]
async fn idle_connections_are_closed_and_used_ones_are_not() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let config = Config {
        idle_timeout: Duration::from_millis(100),
        ..Config::default()
    };
    let pool = client.pool_with(config);
    let used = server.serve(&machine.url("used"), Monitored).await;
    let idle = server.serve(&machine.url("idle"), naming("server")).await;
    let stream = monitor(&dial(&pool, &used).await, &client).await;
    drop(dial(&pool, &idle).await);
    assert_eq!(pool.connections(), 2);
    until("the idle one is closed", || pool.connections() == 1).await;
    drop(stream);
    until("both are closed", || pool.connections() == 0).await;
}

#[tokio::test]
async fn the_pool_is_bounded_by_what_is_in_use() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let pool = client.pool_with(Config {
        max_connections: 2,
        ..Config::default()
    });
    let mut urls = Vec::new();
    for n in 0..4 {
        urls.push(server.serve(&machine.url(&n.to_string()), naming("server")).await);
    }
    drop(dial(&pool, &urls[0]).await);
    let _one = dial(&pool, &urls[1]).await;
    let _two = dial(&pool, &urls[2]).await;
    assert_eq!(pool.connections(), 2, "the unused one made room");
    let full: Result<Arc<dyn Remote<NetworkService>>> = pool.dial(&urls[3], soon()).await;
    assert_eq!(full.map(drop).unwrap_err().reason(), "too-many-connections");
}

#[tokio::test]
async fn why_a_target_cannot_be_reached_is_told() {
    let machine = Machine::new();
    let (client, server) = (machine.program("client"), machine.program("server"));
    let stranger = Machine::new();
    let (foreign, path) = (stranger.program("foreign"), machine.directory.path());
    drop(std::os::unix::net::UnixListener::bind(path.join("left.sock")).unwrap());
    std::fs::write(path.join("file.sock"), "").unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let foreign_url = foreign.serve(&machine.url("foreign"), naming("foreign")).await;
    server.serve(&machine.url("server"), naming("server")).await;
    let pool = client.pool();
    for (url, what) in [
        (machine.url("none"), "there is no such socket"),
        (machine.url("left"), "nobody listens on the socket"),
        (machine.url("file"), "nobody listens on the socket"),
        (format!("127.0.0.1:{port}"), "connection refused"),
        (foreign_url, "not proven by the bundle of its trust domain"),
    ] {
        let error = pool
            .dial(&url, soon())
            .await
            .map(|_: Arc<dyn Remote<NetworkService>>| ())
            .unwrap_err();
        assert_eq!(error.reason(), "peer-unreachable", "{error}");
        assert!(
            error.text().contains(what) && error.text().contains(url.trim_start_matches("tcp://")),
            "{error}"
        );
    }
    assert_eq!(pool.connections(), 0, "failed attempts leave nothing");
    let bad: Result<Arc<dyn Remote<NetworkService>>> = pool.dial("http://x", soon()).await;
    assert_eq!(bad.map(drop).unwrap_err().reason(), "bad-url");
}

#[tokio::test]
async fn a_server_that_does_not_know_our_trust_domain_refuses_us_while_dialling() {
    let machine = Machine::new();
    let server = machine.program("server");
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let b = Issuer::new(&Component::new("issuer"), "b.org").unwrap();
    let mut credentials = b.issue("/client").unwrap();
    let mut bundles = (*b.bundles()).clone();
    bundles.extend((*machine.issuer.bundles()).clone());
    credentials.bundles = Arc::new(bundles);
    let component = Component::new("client");
    let (_source, identity) = watch::channel(credentials);
    let pool = Pool::new(
        &component,
        Identity::new(identity),
        Tokens::new(Duration::from_secs(60)),
    );
    let refused: Result<Arc<dyn Remote<NetworkService>>> = pool.dial(&url, soon()).await;
    let error = refused.map(drop).unwrap_err();
    assert_eq!(error.reason(), "peer-unreachable");
    assert!(
        error
            .text()
            .contains("the peer refuses the certificate of spiffe://b.org/client"),
        "{error}"
    );
}

#[tokio::test]
async fn a_plain_text_client_is_dropped_and_disturbs_nobody() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let mut plain = UnixStream::connect(machine.directory.path().join("s.sock"))
        .await
        .unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    match plain.read_to_end(&mut rest).await {
        Ok(_) => assert!(rest.len() < 16, "an alert at most: {rest:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert_eq!(
        call(&dial(&client.pool(), &url).await, &client).await.id(),
        "server"
    );
}

#[tokio::test]
async fn a_silent_server_is_given_up_by_each_caller_at_its_own_deadline() {
    let machine = Machine::new();
    let client = machine.program("client");
    let _listener = UnixListener::bind(machine.directory.path().join("s.sock")).unwrap();
    let pool = client.pool_with(Config {
        dial_timeout: Duration::from_millis(200),
        ..Config::default()
    });
    let url = machine.url("s");
    let hasty: Result<Arc<dyn Remote<NetworkService>>> =
        pool.dial(&url, Instant::now() + Duration::from_millis(20)).await;
    assert_eq!(hasty.map(drop).unwrap_err().reason(), "deadline");
    let patient: Result<Arc<dyn Remote<NetworkService>>> = pool.dial(&url, soon()).await;
    let error = patient.map(drop).unwrap_err();
    assert_eq!(error.reason(), "peer-unreachable");
    assert!(error.text().contains("no answer within"), "{error}");
}

#[tokio::test]
async fn a_program_ends_at_once_when_nobody_uses_its_connections() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let pool = client.pool();
    call(&dial(&pool, &url).await, &client).await;
    let ends = async {
        client.component.end().await;
        server.component.end().await;
    };
    tokio::time::timeout(Duration::from_secs(3), ends)
        .await
        .expect("well below the grace");
    assert!(!machine.directory.path().join("s.sock").exists());
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_fails_the_start() {
    let machine = Machine::new();
    let server = machine.program("server");
    server.serve(&machine.url("s"), naming("server")).await;
    for (urls, reason) in [
        (vec![machine.url("t"), machine.url("s")], "address-in-use"),
        (vec![machine.url("t"), "http://x".into()], "bad-url"),
        (vec![], "bad-url"),
    ] {
        let start = Server::new(&server.component, server.identity.clone())
            .listen(&urls)
            .await;
        assert_eq!(start.unwrap_err().reason(), reason);
        assert!(
            !machine.directory.path().join("t.sock").exists(),
            "what was bound before is given back"
        );
    }
}

#[tokio::test]
async fn c83_a_target_is_its_socket_whatever_its_path_is_or_was() {
    use rustix::fs::{Mode, OFlags, open};
    let machine = Machine::new();
    let (one, two, client) = (
        machine.program("one"),
        machine.program("two"),
        machine.program("client"),
    );
    let (url, other) = (machine.url("one"), machine.url("two"));
    one.serve(&url, naming("one")).await;
    two.serve(&other, naming("two")).await;
    let socket = |url: &str| {
        open(
            url.trim_start_matches("unix://"),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap()
    };
    let mut file = socket(&url);
    let passed = format!(
        "unix:///proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&file)
    );
    let pool = client.pool();
    let by_path = dial(&pool, &url).await;
    assert!(same(&by_path, &dial(&pool, &passed).await));

    std::fs::remove_file(url.trim_start_matches("unix://")).unwrap();
    drop(by_path);
    let fresh = client.pool();
    assert_eq!(
        call(&dial(&fresh, &passed).await, &client).await.id(),
        "one",
        "its path is gone"
    );

    rustix::io::dup2(socket(&other), &mut file).unwrap();
    assert_eq!(
        call(&dial(&pool, &passed).await, &client).await.id(),
        "two",
        "the number is another file's"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_shake_hands_is_dropped() {
    let machine = Machine::new();
    let server = machine.program("server");
    server.serve(&machine.url("s"), naming("server")).await;
    let start = Instant::now();
    let mut silent = UnixStream::connect(machine.directory.path().join("s.sock"))
        .await
        .unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn p15_a_call_that_outlives_the_grace_ends_with_its_connection_and_is_not_cancelled() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let probe = naming("server");
    let _held = probe.hold();
    let url = server.serve(&machine.url("s"), Arc::clone(&probe)).await;
    let remote = dial(&client.pool(), &url).await;
    let ctx = client.ctx();
    let message = request();
    let (answer, ()) = tokio::join!(remote.request(&ctx, &message), async {
        until("the call arrives", || probe.requests().len() == 1).await;
        server.component.end().await;
    });
    let error = answer.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::Unavailable, "peer-unreachable"),
        "{error}"
    );
}
