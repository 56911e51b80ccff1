// SPDX-License-Identifier: Apache-2.0

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::super::files::MAX_FILES;
use super::super::files::testing::{Pipe, Silent, kernel, naming, transport_peer};
use nsm_api::mechanism::key::INODE_URL;

use super::*;
use crate::core::Error;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};

fn file() -> (OwnedFd, Inode) {
    let file: OwnedFd = tempfile::tempfile().expect("a temporary file").into();
    let inode = Inode::of(&file).expect("stat works");
    (file, inode)
}

/// The inode of the file at the path of a URL that an element wrote.
fn inode_at(url: &str) -> Inode {
    let path = super::super::files::path(url).expect("a file URL");
    Inode::of(std::fs::File::open(path).expect("it can be opened anew").as_fd()).expect("stat works")
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
    standard_cases::<NetworkService, _>(RecvFd::server, request()).await;
    standard_cases::<NetworkService, _>(RecvFd::client, request()).await;
}

#[tokio::test]
async fn c73_a_passed_file_is_a_path_behind_and_an_inode_again_before() {
    let (pipe, probe, connection) = (Pipe::new(), Probe::new(), Connection::new());
    let (file, inode) = file();
    pipe.send(file).unwrap();
    let mut request = naming(&inode.to_string());
    request.mechanism_preferences = vec![kernel(&inode.to_string())];
    let original = request.clone();
    let chain = before(RecvFd::server(), &probe);
    chain
        .request(&connection.ctx_from(pipe.peer(), false), &mut request)
        .await
        .unwrap();
    let seen = &probe.requests()[0];
    assert!(named(seen).starts_with(&format!("file:///proc/{}/fd/", std::process::id())));
    assert_eq!(inode_at(&named(seen)), inode);
    assert_eq!(seen.mechanism_preferences[0].parameters[INODE_URL], named(seen));
    assert_eq!(request, original);
}

#[tokio::test]
async fn c76_refreshes_do_not_collect_descriptors() {
    let (pipe, probe, connection) = (Pipe::new(), Probe::new(), Connection::new());
    let (file, inode) = file();
    let chain = before(RecvFd::server(), &probe);
    for at in 0..10_000 {
        pipe.send(file.try_clone().unwrap()).unwrap();
        let mut request = naming(&inode.to_string());
        let ctx = connection.ctx_from(pipe.peer(), at > 0);
        chain.request(&ctx, &mut request).await.unwrap();
    }
    let seen = probe.requests();
    assert!(
        seen.iter().all(|request| named(request) == named(&seen[0])),
        "it is always the same one"
    );
}

#[tokio::test]
async fn c78_every_attempt_behind_gets_the_file() {
    let (pipe, connection) = (Pipe::new(), Connection::new());
    let (file, inode) = file();
    pipe.send(file).unwrap();
    let probe = Probe::answering(|_| Err(Error::unavailable("told-so", "the first forwarder fails")));
    let chain = before(RecvFd::server(), &probe);
    let ctx = connection.ctx_from(pipe.peer(), false);
    chain
        .request(&ctx, &mut naming(&inode.to_string()))
        .await
        .expect_err("the first attempt fails");
    probe.answer(|_| Ok(()));
    chain
        .request(&ctx, &mut naming(&inode.to_string()))
        .await
        .expect("the second succeeds");
    assert_eq!(inode_at(&named(&probe.requests()[1])), inode);
}

#[tokio::test(start_paused = true)]
async fn c79_a_file_that_never_arrives_fails_the_request_before_its_deadline() {
    let (pipe, probe, connection) = (Pipe::new(), Probe::new(), Connection::new());
    let (here, inode) = file();
    pipe.send(here).unwrap();
    let mut request = naming(&inode.to_string());
    request.mechanism_preferences = vec![kernel("inode://4/123")];
    let ctx = connection.ctx_from(pipe.peer(), true);
    let error = before(RecvFd::server(), &probe)
        .request(&ctx, &mut request)
        .await
        .unwrap_err();
    assert!(
        error
            .text()
            .contains("timeout in recvfd waiting for inode://4/123"),
        "{error}"
    );
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::DeadlineExceeded, "fd-timeout")
    );
    assert!(
        tokio::time::Instant::now() < ctx.deadline(),
        "in time for the answer"
    );
    let held = connection
        .store
        .with(|held: &Received| held.0.url(inode))
        .flatten();
    assert_eq!(held, None, "what the failed refresh received is closed");
    assert!(probe.requests().is_empty());
}

#[tokio::test]
async fn a_failed_refresh_keeps_the_file_that_the_connection_uses() {
    let (pipe, probe, connection) = (Pipe::new(), Probe::new(), Connection::new());
    let ((one, used), (two, other)) = (file(), file());
    pipe.send(one).unwrap();
    pipe.send(two).unwrap();
    let chain = before(RecvFd::server(), &probe);
    chain
        .request(
            &connection.ctx_from(pipe.peer(), false),
            &mut naming(&used.to_string()),
        )
        .await
        .unwrap();
    probe.answer(|_| Err(Error::unavailable("told-so", "the refresh fails")));
    let again = connection.ctx_from(pipe.peer(), true);
    chain
        .request(&again, &mut naming(&other.to_string()))
        .await
        .expect_err("the refresh fails");
    let url = |inode| {
        connection
            .store
            .with(|held: &Received| held.0.url(inode))
            .flatten()
    };
    assert!(url(used).is_some() && url(other).is_none());
    probe.answer(|_| Ok(()));
    chain
        .request(&again, &mut naming(&other.to_string()))
        .await
        .unwrap();
    assert!(
        url(used).is_none() && url(other).is_some(),
        "only what is selected is held"
    );
}

#[tokio::test]
async fn c81_without_file_passing_inodes_stay_as_they_are() {
    for half in [RecvFd::server, RecvFd::client] {
        let (probe, connection) = (Probe::new(), Connection::new());
        let mut request = naming("inode://4/5");
        let ctx = connection.ctx_from(transport_peer(), false);
        before(half(), &probe).request(&ctx, &mut request).await.unwrap();
        assert_eq!(probe.requests()[0], naming("inode://4/5"));
        assert_eq!(request, naming("inode://4/5"));
    }
}

#[tokio::test]
async fn c82_a_close_uses_the_files_and_then_closes_them() {
    let (pipe, probe, connection) = (Pipe::new(), Probe::new(), Connection::new());
    let (file, inode) = file();
    pipe.send(file).unwrap();
    let chain = before(RecvFd::server(), &probe);
    let mut request = naming(&inode.to_string());
    chain
        .request(&connection.ctx_from(pipe.peer(), false), &mut request)
        .await
        .unwrap();
    chain
        .close(&connection.ctx_from(pipe.peer(), true), &mut request)
        .await
        .unwrap();
    assert_eq!(named(&probe.closes()[0]), named(&probe.requests()[0]));
    assert!(!connection.store.has::<Received>());
}

#[tokio::test]
async fn a_path_of_ours_that_a_peer_names_is_refused() {
    for peer in [transport_peer(), Pipe::new().peer()] {
        let (probe, connection) = (Probe::new(), Connection::new());
        let ctx = connection.ctx_from(peer, false);
        let mut request = naming("file:///proc/1/ns/net");
        let error = before(RecvFd::server(), &probe)
            .request(&ctx, &mut request)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "foreign-path");
        assert!(probe.requests().is_empty());
    }
}

#[tokio::test]
async fn a_connection_cannot_hold_more_files_than_the_limit() {
    let (pipe, probe, connection) = (Pipe::new(), Probe::new(), Connection::new());
    let mut request = request();
    let files: Vec<_> = (0..=MAX_FILES).map(|_| file()).collect();
    for (file, inode) in files {
        pipe.send(file).unwrap();
        request.mechanism_preferences.push(kernel(&inode.to_string()));
    }
    let ctx = connection.ctx_from(pipe.peer(), false);
    let chain = before(RecvFd::server(), &probe);
    let error = chain.request(&ctx, &mut request.clone()).await.unwrap_err();
    assert_eq!(error.reason(), "too-many-files");
    request.mechanism_preferences.pop();
    connection.store.clear();
    chain
        .request(&ctx, &mut request)
        .await
        .expect("the limit itself is allowed");
}

#[tokio::test]
async fn the_client_half_holds_the_file_of_the_answer() {
    let (pipe, connection) = (Pipe::new(), Connection::new());
    let (file, inode) = file();
    pipe.send(file).unwrap();
    connection
        .store
        .insert(Way::<NetworkService>(Arc::new(Silent(pipe.peer()))));
    let probe = Probe::answering(move |request| {
        *request = naming(&inode.to_string());
        Ok(())
    });
    let chain = before(RecvFd::client(), &probe);
    let mut answer = request();
    chain.request(&connection.first(), &mut answer).await.unwrap();
    assert_eq!(inode_at(&named(&answer)), inode);
    let mut again = request();
    chain.request(&connection.again(), &mut again).await.unwrap();
    assert_eq!(named(&again), named(&answer), "it is the same descriptor");
}

#[tokio::test]
async fn a_path_of_the_peer_that_is_left_still_leads_to_its_file_when_the_next_has_answered() {
    let (pipe, connection) = (Pipe::new(), Connection::new());
    connection
        .store
        .insert(Way::<NetworkService>(Arc::new(Silent(pipe.peer()))));
    let probe = Probe::new();
    let chain = before(RecvFd::client(), &probe);
    let mut answers = Vec::new();
    for _ in 0..3 {
        let (file, inode) = file();
        pipe.send(file).unwrap();
        probe.answer(move |request| {
            *request = naming(&inode.to_string());
            Ok(())
        });
        let mut answer = request();
        chain.request(&connection.again(), &mut answer).await.unwrap();
        answers.push((named(&answer), inode));
        chain.close(&connection.again(), &mut answer).await.unwrap();
        for (path, inode) in answers.iter().rev().take(2) {
            assert_eq!(inode_at(path), *inode);
        }
    }
    assert_eq!(
        connection
            .store
            .update(|held: &mut Returned| held.files.url(answers[0].1)),
        None
    );
}
