// SPDX-License-Identifier: Apache-2.0

use std::io::Write;
use std::os::fd::AsFd;

use tempfile::NamedTempFile;

use super::super::files::testing::{Pipe, Silent, kernel, naming, transport_peer};
use super::super::recvfd::RecvFd;
use nsm_api::mechanism::key::INODE_URL;

use super::*;
use crate::chain;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};
use crate::core::{Inode, Peer};

fn file() -> (NamedTempFile, String, String) {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(b"it is me").expect("it can be written");
    let inode = Inode::of(file.as_fd()).expect("stat works").to_string();
    let url = format!("file://{}", file.path().display());
    (file, url, inode)
}

fn towards(peer: Peer) -> Connection {
    let connection = Connection::new();
    connection
        .store
        .insert(Way::<NetworkService>(Arc::new(Silent(peer))));
    connection
}

fn named(request: &Request) -> String {
    request
        .connection
        .mechanism
        .as_ref()
        .expect("a mechanism")
        .parameters[INODE_URL]
        .clone()
}

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NetworkService, _>(SendFd::server, request()).await;
    standard_cases::<NetworkService, _>(SendFd::client, request()).await;
}

#[tokio::test]
async fn a_path_leaves_as_inode_with_the_file_and_comes_back_as_path() {
    let (_file, url, inode) = file();
    let (pipe, probe) = (Pipe::new(), Probe::new());
    let connection = towards(pipe.peer());
    let mut request = naming(&url);
    request.mechanism_preferences = vec![kernel(&url), kernel("inode://1/2")];
    let original = request.clone();
    before(SendFd::client(), &probe)
        .request(&connection.first(), &mut request)
        .await
        .unwrap();
    let seen = &probe.requests()[0];
    assert_eq!(named(seen), inode);
    assert_eq!(seen.mechanism_preferences[0].parameters[INODE_URL], inode);
    assert_eq!(seen.mechanism_preferences[1].parameters[INODE_URL], "inode://1/2");
    assert_eq!(request, original);
    assert_eq!(pipe.sent(), 1, "one file, named twice, is sent once");
}

#[tokio::test]
async fn every_attempt_sends_the_file_again() {
    let (_file, url, _) = file();
    let (one, two) = (Pipe::new(), Pipe::new());
    let probe = Probe::answering(|_| Err(Error::unavailable("told-so", "the first one fails")));
    let chain = before(SendFd::client(), &probe);
    let connection = towards(one.peer());
    chain
        .request(&connection.first(), &mut naming(&url))
        .await
        .expect_err("it fails");
    connection
        .store
        .insert(Way::<NetworkService>(Arc::new(Silent(two.peer()))));
    probe.answer(|_| Ok(()));
    chain
        .request(&connection.first(), &mut naming(&url))
        .await
        .unwrap();
    assert_eq!((one.sent(), two.sent()), (1, 1));
}

#[tokio::test]
async fn a_request_that_fails_has_its_paths_again() {
    let (_file, url, _) = file();
    let probe = Probe::answering(|_| Err(Error::unavailable("told-so", "told to fail")));
    let mut request = naming(&url);
    request.mechanism_preferences = vec![kernel(&url)];
    let asked = request.clone();
    before(SendFd::client(), &probe)
        .request(&towards(Pipe::new().peer()).first(), &mut request)
        .await
        .expect_err("told to fail");
    assert_eq!(request, asked);
}

#[tokio::test]
async fn a_file_that_does_not_exist_fails_the_request_but_not_the_close() {
    let (pipe, probe) = (Pipe::new(), Probe::new());
    let connection = towards(pipe.peer());
    let chain = before(SendFd::client(), &probe);
    let mut request = naming("file:///nowhere/ns");
    let error = chain
        .request(&connection.first(), &mut request)
        .await
        .unwrap_err();
    for part in [
        "failed to convert a filename /nowhere/ns to URL",
        "the file probably doesn't exist",
    ] {
        assert!(error.text().contains(part), "{error}");
    }
    assert!(probe.requests().is_empty());
    chain
        .close(&connection.again(), &mut request)
        .await
        .expect("the close goes on");
    assert_eq!(named(&probe.closes()[0]), "file:///nowhere/ns");
}

#[tokio::test]
async fn a_close_sends_the_file_for_a_peer_that_has_lost_it() {
    let (_file, url, inode) = file();
    let (pipe, probe) = (Pipe::new(), Probe::new());
    let connection = towards(pipe.peer());
    before(SendFd::client(), &probe)
        .close(&connection.again(), &mut naming(&url))
        .await
        .unwrap();
    assert_eq!((named(&probe.closes()[0]), pipe.sent()), (inode, 1));
}

#[tokio::test]
async fn a_path_that_a_peer_answers_is_refused() {
    let probe = Probe::answering(|request| {
        *request = naming("file:///proc/self/ns/net");
        Ok(())
    });
    let connection = towards(transport_peer());
    let chain = before(SendFd::client(), &probe);
    let error = chain
        .request(&connection.first(), &mut request())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "foreign-path");
    assert_eq!(probe.closes().len(), 1, "what the peer made is closed");
}

#[tokio::test]
async fn an_endpoint_passes_its_own_file_to_the_caller() {
    let (_file, url, inode) = file();
    let answer = url.clone();
    let probe = Probe::answering(move |request| {
        *request = naming(&answer);
        Ok(())
    });
    let (pipe, connection) = (Pipe::new(), Connection::new());
    let chain = before(SendFd::server(), &probe);
    let mut answered = request();
    chain
        .request(&connection.ctx_from(pipe.peer(), false), &mut answered)
        .await
        .unwrap();
    assert_eq!((named(&answered), pipe.sent()), (inode, 1));

    let mut untouched = request();
    chain
        .request(&connection.ctx_from(transport_peer(), true), &mut untouched)
        .await
        .unwrap();
    assert_eq!(named(&untouched), url, "a peer that takes no files is left alone");
}

#[tokio::test]
async fn c80_a_caller_gets_its_own_inode_back_and_no_file() {
    let (file, _, inode) = file();
    let pipe = Pipe::new();
    pipe.send(file.as_file().try_clone().unwrap().into()).unwrap();
    let connection = Connection::new();
    let chain = chain![RecvFd::server(), SendFd::server(), Probe::new()];
    let mut request = naming(&inode);
    chain
        .request(&connection.ctx_from(pipe.peer(), false), &mut request)
        .await
        .unwrap();
    assert_eq!((named(&request), pipe.sent()), (inode, 1));
}
