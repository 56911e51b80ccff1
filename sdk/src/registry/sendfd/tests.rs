// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::core::Peer;
use crate::core::testing::{Connection, Probe, standard_cases};
use crate::registry::queries::Registry;
use crate::registry::sockets::testing::{Pipe, listen, open_files};
use crate::registry::testing::{before, endpoint};

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NseRegistry, _>(SendFd::client, endpoint("nse", &["s"])).await;
    standard_cases::<NseRegistry, _>(SendFd::server, endpoint("nse", &["s"])).await;
}

fn at(url: &str) -> Registration<NetworkServiceEndpoint> {
    let mut message = endpoint("nse", &["s"]);
    message.entry.url = url.into();
    message
}

#[tokio::test]
async fn an_endpoint_registers_its_socket_and_gets_its_url_back() {
    let (socket, pipe, connection, probe) = (listen(), Pipe::new(), Connection::new(), Probe::new());
    let chain = before(SendFd::client(), &probe);
    connection.store.insert(pipe.way());
    let mut message = at(&socket.url);
    chain
        .request(&connection.first(), &mut message)
        .await
        .expect("registers");
    assert_eq!(probe.requests()[0].entry.url, socket.inode.to_string());
    assert_eq!(message.entry.url, socket.url);
    chain
        .close(&connection.again(), &mut message)
        .await
        .expect("unregisters");
    assert_eq!(probe.closes()[0].entry.url, socket.inode.to_string());
    assert_eq!(
        pipe.sent(),
        [socket.inode, socket.inode],
        "passed with every call"
    );
}

#[tokio::test]
async fn without_file_passing_the_url_stays() {
    let (socket, connection, probe) = (listen(), Connection::new(), Probe::new());
    let chain = before(SendFd::client(), &probe);
    chain
        .request(&connection.first(), &mut at(&socket.url))
        .await
        .expect("registers");
    assert_eq!(probe.requests()[0].entry.url, socket.url);
}

#[tokio::test]
async fn a_missing_socket_and_another_file_are_refused() {
    let (pipe, connection, probe) = (Pipe::new(), Connection::new(), Probe::new());
    let chain = before(SendFd::client(), &probe);
    connection.store.insert(pipe.way());
    for (url, reason) in [
        ("unix:///no/such/socket", "file-gone"),
        ("unix:///etc/hostname", "not-a-socket"),
    ] {
        let refused = chain.request(&connection.first(), &mut at(url)).await;
        assert_eq!(refused.expect_err("is refused").reason(), reason);
    }
    assert!(probe.seen().is_empty() && pipe.sent().is_empty());
}

async fn found(peer: Peer, probe: &Arc<Probe<NseRegistry>>) -> Vec<NetworkServiceEndpointResponse> {
    let chain = before(SendFd::server(), probe);
    let ctx = Connection::new().ctx_from(peer, false);
    let found = chain.find(&ctx, Default::default()).await.expect("finds");
    found.map(|item| item.expect("an answer")).collect().await
}

fn url(found: &NetworkServiceEndpointResponse) -> &str {
    &NseRegistry::told(found).expect("an entry").0.url
}

#[tokio::test]
async fn what_callers_find_comes_with_its_socket() {
    let (socket, pipe, probe) = (listen(), Pipe::new(), Probe::new());
    let (local, remote) = (at(&socket.url).entry, at("tcp://10.0.0.1:5001").entry);
    Probe::find(
        &probe,
        vec![
            NseRegistry::found(local.clone(), false),
            NseRegistry::found(remote, false),
            NseRegistry::found(local, true),
        ],
    );
    let passed = found(pipe.peer(), &probe).await;
    let urls: Vec<_> = passed.iter().map(url).collect();
    assert_eq!(
        urls,
        [
            socket.inode.to_string().as_str(),
            "tcp://10.0.0.1:5001",
            &socket.url
        ]
    );
    assert_eq!(pipe.sent(), [socket.inode], "not with what is deleted");
    let unchanged = found(Peer::default(), &probe).await;
    assert_eq!(url(&unchanged[0]), socket.url);
}

#[tokio::test]
async fn a_path_that_is_no_socket_is_not_opened_to_callers() {
    let (pipe, probe) = (Pipe::new(), Probe::new());
    Probe::find(
        &probe,
        vec![NseRegistry::found(at("unix:///etc/hostname").entry, false)],
    );
    let passed = found(pipe.peer(), &probe).await;
    assert_eq!((url(&passed[0]), pipe.sent().len()), ("unix:///etc/hostname", 0));
}

#[tokio::test]
async fn c63_a_thousand_rounds_leave_no_descriptor() {
    let (socket, pipe, connection, probe) = (listen(), Pipe::new(), Connection::new(), Probe::new());
    let chain = before(SendFd::client(), &probe);
    connection.store.insert(pipe.way());
    Probe::find(&probe, vec![NseRegistry::found(at(&socket.url).entry, false)]);
    for _ in 0..1000 {
        chain
            .request(&connection.first(), &mut at(&socket.url))
            .await
            .expect("registers");
        found(pipe.peer(), &probe).await;
        pipe.clear();
    }
    assert_eq!(open_files(&socket), 0);
}
