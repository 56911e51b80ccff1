// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::chain;
use crate::core::testing::{Connection, Probe, standard_cases};
use crate::core::{Chain, Component, Error, Peer};
use crate::elements::begin::Begin;
use crate::registry::memory::{Limits, Memory};
use crate::registry::queries::Registry;
use crate::registry::sendfd::SendFd;
use crate::registry::sockets::open;
use crate::registry::sockets::testing::{Listening, Pipe, listen, open_files};
use crate::registry::testing::{before, component, endpoint};

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NseRegistry, _>(RecvFd::client, endpoint("nse", &["s"])).await;
    standard_cases::<NseRegistry, _>(RecvFd::server, endpoint("nse", &["s"])).await;
}

fn at(url: impl ToString) -> Registration<NetworkServiceEndpoint> {
    let mut message = endpoint("nse", &["s"]);
    message.entry.url = url.to_string();
    message
}

/// Passes the socket over the pipe.
fn pass(pipe: &Pipe, socket: &Listening) {
    let path = socket.url.strip_prefix("unix://").expect("a path");
    let (file, _) = open(path.as_ref()).expect("opens");
    pipe.send(file).expect("sends");
}

fn manager(component: &Component, probe: &Arc<Probe<NseRegistry>>) -> Chain<NseRegistry> {
    chain![Begin::server(component), RecvFd::server(), Arc::clone(probe)]
}

fn by(pipe: &Arc<Pipe>, component: &Component, secs: u64) -> Ctx {
    Ctx::new(
        component,
        pipe.peer(),
        Some(Instant::now() + Duration::from_secs(secs)),
    )
}

#[tokio::test]
async fn c63_a_registered_socket_is_reachable_until_it_is_unregistered() {
    let (component, probe, socket, pipe) = (component(), Probe::new(), listen(), Pipe::new());
    let chain = manager(&component, &probe);
    pass(&pipe, &socket);
    let mut message = at(socket.inode);
    chain
        .request(&by(&pipe, &component, 10), &mut message)
        .await
        .expect("registers");
    let here = probe.requests()[0].entry.url.clone();
    assert!(socket.is_reached_by(&here), "{here}");
    assert_eq!(
        message.entry.url,
        socket.inode.to_string(),
        "the caller gets back what it sent"
    );
    pipe.clear();
    chain
        .request(&by(&pipe, &component, 10), &mut at(socket.inode))
        .await
        .expect("refreshes");
    assert_eq!(
        probe.requests()[1].entry.url,
        here,
        "a held socket need not be passed again"
    );
    chain
        .close(&by(&pipe, &component, 10), &mut message)
        .await
        .expect("unregisters");
    assert_eq!(probe.closes()[0].entry.url, here);
    assert!(!socket.is_reached_by(&here));
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn c63_a_socket_that_does_not_come_is_an_error_at_the_deadline() {
    let (component, probe, pipe) = (component(), Probe::new(), Pipe::new());
    let chain = manager(&component, &probe);
    let begun = Instant::now();
    let missing = chain
        .request(&by(&pipe, &component, 3), &mut at("inode://1/2"))
        .await;
    let missing = missing.expect_err("times out");
    assert_eq!(missing.reason(), "fd-timeout");
    assert!(
        missing
            .text()
            .contains("timeout in recvfd waiting for inode://1/2"),
        "{missing}"
    );
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert!(probe.seen().is_empty());
    component.end().await;
}

#[tokio::test]
async fn a_failed_first_registration_closes_the_socket_and_a_failed_refresh_does_not() {
    let (component, probe, pipe) = (component(), Probe::new(), Pipe::new());
    let (first, second) = (listen(), listen());
    let chain = manager(&component, &probe);
    let fail = || probe.answer(|_| Err(Error::unavailable("told-so", "no")));
    pass(&pipe, &first);
    pass(&pipe, &second);
    fail();
    let failed = chain
        .request(&by(&pipe, &component, 10), &mut at(first.inode))
        .await;
    failed.expect_err("fails");
    assert!(!first.is_reached_by(&probe.requests()[0].entry.url));
    probe.answer(|_| Ok(()));
    chain
        .request(&by(&pipe, &component, 10), &mut at(first.inode))
        .await
        .expect("registers");
    fail();
    for socket in [&first, &second] {
        let failed = chain
            .request(&by(&pipe, &component, 10), &mut at(socket.inode))
            .await;
        failed.expect_err("fails");
    }
    let seen = probe.requests();
    assert!(first.is_reached_by(&seen[1].entry.url), "what was there stays");
    assert!(!second.is_reached_by(&seen[3].entry.url));
    component.end().await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_refused() {
    let (component, probe, pipe) = (component(), Probe::new(), Pipe::new());
    let file = std::fs::File::open("/etc/hostname").expect("opens");
    let inode = pipe.send(file.into()).expect("sends");
    let refused = manager(&component, &probe)
        .request(&by(&pipe, &component, 1), &mut at(inode))
        .await;
    assert_eq!(refused.expect_err("is refused").reason(), "not-a-socket");
    component.end().await;
}

/// Finds through the client half, with `connection` as who asks.
async fn found(
    recvfd: &RecvFd,
    probe: &Arc<Probe<NseRegistry>>,
    connection: &Connection,
    watch: bool,
) -> Found<NseRegistry> {
    let chain = before(recvfd.clone(), probe);
    let query = NseRegistry::query(Default::default(), watch);
    chain.find(&connection.first(), query).await.expect("finds")
}

async fn next_url(found: &mut Found<NseRegistry>) -> String {
    let answer = found.next().await.expect("goes on").expect("an answer");
    NseRegistry::told(&answer).expect("an entry").0.url.clone()
}

#[tokio::test]
async fn what_a_caller_finds_stays_open_until_it_has_asked_several_times_more() {
    let (socket, pipe, probe, recvfd) = (listen(), Pipe::new(), Probe::new(), RecvFd::client());
    let connection = Connection::new();
    connection.store.insert(pipe.way());
    pass(&pipe, &socket);
    Probe::find(&probe, vec![NseRegistry::found(at(socket.inode).entry, false)]);
    let url = next_url(&mut found(&recvfd, &probe, &connection, false).await).await;
    assert!(socket.is_reached_by(&url), "{url}");
    let again = next_url(&mut found(&recvfd, &probe, &connection, false).await).await;
    assert_eq!(again, url, "the same socket has the same url");
    Probe::find(&probe, vec![]);
    for _ in 0..KEPT_QUERIES {
        assert!(socket.is_reached_by(&url));
        assert!(
            found(&recvfd, &probe, &connection, false)
                .await
                .next()
                .await
                .is_none()
        );
    }
    assert!(
        !socket.is_reached_by(&url),
        "it is closed when it is not found any more"
    );
}

#[tokio::test]
async fn what_a_watch_tells_stays_open_until_it_tells_otherwise() {
    let (old, new, pipe, probe) = (listen(), listen(), Pipe::new(), Probe::new());
    let connection = Connection::new();
    connection.store.insert(pipe.way());
    pass(&pipe, &old);
    pass(&pipe, &new);
    Probe::find(
        &probe,
        vec![
            NseRegistry::found(at(old.inode).entry, false),
            NseRegistry::found(at(new.inode).entry, false),
            NseRegistry::found(at(new.inode).entry, true),
            NseRegistry::found(at("tcp://10.0.0.1:5001").entry, false),
        ],
    );
    let mut found = found(&RecvFd::client(), &probe, &connection, true).await;
    let first = next_url(&mut found).await;
    assert!(old.is_reached_by(&first));
    let second = next_url(&mut found).await;
    assert!(old.is_reached_by(&first), "until the reader asks for more");
    next_url(&mut found).await;
    assert!(!old.is_reached_by(&first) && new.is_reached_by(&second));
    assert_eq!(next_url(&mut found).await, "tcp://10.0.0.1:5001");
    assert!(!new.is_reached_by(&second));
}

/// The order of a cache between two of the same: what the inner one holds, the outer one keeps for who asks.
#[tokio::test]
async fn the_outer_one_keeps_open_what_the_inner_one_holds() {
    let (socket, pipe, probe, recvfd) = (listen(), Pipe::new(), Probe::new(), RecvFd::client());
    let (cache, asking) = (Connection::new(), Connection::new());
    cache.store.insert(pipe.way());
    pass(&pipe, &socket);
    Probe::find(&probe, vec![NseRegistry::found(at(socket.inode).entry, false)]);
    let mut inner = found(&recvfd, &probe, &cache, true).await;
    let url = next_url(&mut inner).await;
    Probe::find(&probe, vec![NseRegistry::found(at(&url).entry, false)]);
    assert_eq!(
        next_url(&mut found(&recvfd, &probe, &asking, false).await).await,
        url
    );
    drop((inner, cache));
    assert!(socket.is_reached_by(&url));
    drop(asking);
    let stale = found(&recvfd, &probe, &Connection::new(), false)
        .await
        .next()
        .await;
    assert!(stale.is_none(), "a closed socket is not found");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_socket_does_not_come_is_left_out() {
    let (pipe, probe, connection) = (Pipe::new(), Probe::new(), Connection::new());
    connection.store.insert(pipe.way());
    let missing = NseRegistry::found(at("inode://1/2").entry, false);
    let there = NseRegistry::found(at("tcp://10.0.0.1:5001").entry, false);
    Probe::find(&probe, vec![missing, there]);
    let mut found = found(&RecvFd::client(), &probe, &connection, false).await;
    assert_eq!(next_url(&mut found).await, "tcp://10.0.0.1:5001");
}

/// An endpoint, the manager and a forwarder, each with its half: the whole way of a socket.
#[tokio::test]
async fn c63_a_thousand_rounds_leave_no_descriptor() {
    let (component, socket) = (component(), listen());
    let chain: Chain<NseRegistry> = chain![
        Begin::server(&component),
        RecvFd::server(),
        SendFd::server(),
        Memory::new(Limits::default())
    ];
    let recvfd = RecvFd::client();
    for _ in 0..1000 {
        let (from_endpoint, to_forwarder) = (Pipe::new(), Pipe::new());
        pass(&from_endpoint, &socket);
        let registered = chain
            .request(&by(&from_endpoint, &component, 10), &mut at(socket.inode))
            .await;
        registered.expect("registers");
        let answer = chain
            .find(&by(&to_forwarder, &component, 10), Default::default())
            .await
            .expect("finds");
        let answer: Vec<_> = answer.map(|item| item.expect("an answer")).collect().await;
        let (probe, forwarder) = (Probe::new(), Connection::new());
        forwarder.store.insert(to_forwarder.way());
        Probe::find(&probe, answer);
        let url = next_url(&mut found(&recvfd, &probe, &forwarder, false).await).await;
        assert!(socket.is_reached_by(&url));
        let closed = chain
            .close(&Ctx::new(&component, Peer::default(), None), &mut at(""))
            .await;
        closed.expect("unregisters");
    }
    assert_eq!(open_files(&socket), 0);
    component.end().await;
}
