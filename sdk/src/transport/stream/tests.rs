// SPDX-License-Identifier: Apache-2.0
//! Files on a pair of unix sockets.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_getfd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::*;
use crate::core::{FilePassing, Inode};
use crate::transport::files::{HOLD, MAX_HELD, MAX_QUEUED};

struct End {
    stream: Stream,
    files: Arc<Files>,
}

fn pair() -> (End, End) {
    let (one, two) = UnixStream::pair().unwrap();
    let end = |socket| {
        let stream = Stream::unix(socket).unwrap();
        let files = stream.files().unwrap();
        End { stream, files }
    };
    (end(one), end(two))
}

fn file() -> OwnedFd {
    memfd_create("file", MemfdFlags::CLOEXEC).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn read(end: &mut End, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    end.stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// What a peer of the reference does: one byte and one file a message, in the middle of other bytes.
fn send_raw(end: &End, bytes: &[u8], files: &[OwnedFd]) {
    let Stream::Unix(socket, _) = &end.stream else {
        panic!("a unix stream")
    };
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    if !files.is_empty() {
        assert!(beside.push(SendAncillaryMessage::ScmRights(&files)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::DONTWAIT).unwrap();
    assert_eq!(sent, bytes.len());
}

#[tokio::test]
async fn c74_bytes_before_and_after_a_file_stay_in_order() {
    let (one, mut two) = pair();
    let (b, c) = (file(), file());
    let inodes = [Inode::of(&b).unwrap(), Inode::of(&c).unwrap()];
    send_raw(&one, b"AAAA", &[]);
    send_raw(&one, b"B", &[b]);
    send_raw(&one, b"C", &[c]);
    send_raw(&one, b"DDDD", &[]);
    assert_eq!(read(&mut two, 10).await, b"AAAABCDDDD");
    for inode in inodes {
        let received = two.files.receive(inode, soon()).await.unwrap();
        assert_eq!(Inode::of(&received).unwrap(), inode);
        assert!(fcntl_getfd(&received).unwrap().contains(FdFlags::CLOEXEC));
    }
}

#[tokio::test]
async fn c75_three_files_leave_with_one_write_and_sixty_five_with_two() {
    for (files, writes) in [(3, 1), (64, 1), (65, 2), (200, 4)] {
        let (mut one, mut two) = pair();
        let inodes: Vec<_> = (0..files).map(|_| one.files.send(file()).unwrap()).collect();
        let message = [7; 100];
        let (mut sent, mut calls) = (0, 0);
        while sent < message.len() {
            sent += one.stream.write(&message[sent..]).await.unwrap();
            calls += 1;
        }
        assert_eq!(calls, writes, "{files} files");
        assert_eq!(read(&mut two, 100).await, message);
        for inode in inodes {
            two.files.receive(inode, soon()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn c76_the_same_file_ten_thousand_times_takes_one_descriptor() {
    let (mut one, mut two) = pair();
    let file = file();
    for _ in 0..10_000 {
        let inode = one.files.send(file.try_clone().unwrap()).unwrap();
        one.stream.write_all(b"x").await.unwrap();
        read(&mut two, 1).await;
        two.files.receive(inode, soon()).await.unwrap();
        assert_eq!(two.files.held(), 1);
    }
}

#[tokio::test]
async fn a_file_serves_every_consumer_and_is_waited_for() {
    let (mut one, mut two) = pair();
    let file = file();
    let inode = Inode::of(&file).unwrap();
    let files = Arc::clone(&two.files);
    let consumers = futures::future::join_all((0..3).map(|_| files.receive(inode, soon())));
    let sender = async {
        one.files.send(file).unwrap();
        one.stream.write_all(b"x").await.unwrap();
        read(&mut two, 1).await
    };
    let (received, _) = tokio::join!(consumers, sender);
    for received in received {
        assert_eq!(Inode::of(received.unwrap()).unwrap(), inode);
    }
    assert!(
        files.receive(inode, soon()).await.is_ok(),
        "a later attempt finds it as well"
    );
}

#[tokio::test]
async fn a_file_opened_by_path_only_travels() {
    let (mut one, mut two) = pair();
    let path = rustix::fs::open(
        "/proc/self/ns/net",
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let inode = one.files.send(path).unwrap();
    one.stream.write_all(b"x").await.unwrap();
    read(&mut two, 1).await;
    let received = two.files.receive(inode, soon()).await.unwrap();
    assert_eq!(Inode::of(received).unwrap(), inode);
}

#[tokio::test(start_paused = true)]
async fn c79_a_file_that_never_arrives_ends_the_wait_at_the_deadline() {
    let (_one, two) = pair();
    let start = Instant::now();
    let inode = Inode { dev: 4, ino: 77 };
    let error = two
        .files
        .receive(inode, start + Duration::from_secs(3))
        .await
        .unwrap_err();
    assert_eq!(
        (error.reason(), start.elapsed()),
        ("fd-timeout", Duration::from_secs(3))
    );
    assert!(
        error
            .text()
            .starts_with("timeout in recvfd waiting for inode://4/77"),
        "{error}"
    );
}

#[tokio::test]
async fn c82_the_end_of_the_connection_closes_its_files_and_ends_waits() {
    let (mut one, mut two) = pair();
    let (mut reader, writer) = tokio::net::unix::pipe::pipe().map(|(w, r)| (r, w)).unwrap();
    let inode = one.files.send(writer.into_blocking_fd().unwrap()).unwrap();
    let (mut unsent, never) = tokio::net::unix::pipe::pipe().map(|(w, r)| (r, w)).unwrap();
    one.stream.write_all(b"x").await.unwrap();
    one.files.send(never.into_blocking_fd().unwrap()).unwrap();
    read(&mut two, 1).await;
    drop(two.files.receive(inode, soon()).await.unwrap());
    let files = Arc::clone(&two.files);
    let wait = files.receive(Inode { dev: 1, ino: 1 }, soon());
    let end = async {
        tokio::task::yield_now().await;
        drop(two);
        drop(one.stream);
    };
    let (error, ()) = tokio::join!(wait, end);
    assert_eq!(error.unwrap_err().reason(), "fd-lost");
    assert_eq!(
        reader.read(&mut [0]).await.unwrap(),
        0,
        "the received file is closed"
    );
    assert_eq!(
        unsent.read(&mut [0]).await.unwrap(),
        0,
        "the queued file is closed"
    );
    assert_eq!(
        files.receive(inode, soon()).await.unwrap_err().reason(),
        "fd-lost"
    );
    assert!(
        one.files.send(file()).is_err(),
        "nothing is queued for a peer that is gone"
    );
}

#[tokio::test]
async fn files_that_the_kernel_dropped_are_reported_not_waited_for() {
    let (one, mut two) = pair();
    let files: Vec<_> = (0..100).map(|_| file()).collect();
    let inodes: Vec<_> = files.iter().map(|file| Inode::of(file).unwrap()).collect();
    send_raw(&one, b"x", &files);
    read(&mut two, 1).await;
    assert!(two.files.receive(inodes[0], soon()).await.is_ok());
    let error = two.files.receive(inodes[99], soon()).await.unwrap_err();
    assert_eq!(error.reason(), "fd-lost");
    assert!(error.text().contains("RLIMIT_NOFILE"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_cannot_make_us_hold_more_than_the_limit() {
    let (one, mut two) = pair();
    let mut inodes = Vec::new();
    for _ in 0..MAX_HELD + 10 {
        let file = file();
        inodes.push(Inode::of(&file).unwrap());
        send_raw(&one, b"x", &[file]);
        read(&mut two, 1).await;
        tokio::time::advance(Duration::from_millis(1)).await;
        two.files.receive(inodes[0], soon()).await.unwrap();
    }
    assert_eq!(two.files.held(), MAX_HELD);
    assert!(
        two.files.receive(inodes[0], soon()).await.is_ok(),
        "what is in use stays"
    );
    let error = two.files.receive(inodes[1], soon()).await.unwrap_err();
    assert_eq!(error.reason(), "fd-timeout", "what nobody asked for went first");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_nobody_needs_is_closed_after_a_while() {
    let (mut one, mut two) = pair();
    let inode = one.files.send(file()).unwrap();
    one.stream.write_all(b"x").await.unwrap();
    read(&mut two, 1).await;
    tokio::time::advance(HOLD - Duration::from_secs(1)).await;
    two.files.receive(inode, soon()).await.unwrap();
    tokio::time::advance(HOLD - Duration::from_secs(1)).await;
    one.stream.write_all(b"x").await.unwrap();
    read(&mut two, 1).await;
    assert_eq!(two.files.held(), 1, "it was asked for meanwhile");
    tokio::time::advance(HOLD).await;
    one.stream.write_all(b"x").await.unwrap();
    read(&mut two, 1).await;
    assert_eq!(two.files.held(), 0);
}

#[tokio::test]
async fn the_queue_of_files_is_bounded() {
    let (one, _two) = pair();
    let first = file();
    one.files.send(first.try_clone().unwrap()).unwrap();
    for _ in 1..MAX_QUEUED {
        one.files.send(file()).unwrap();
    }
    assert_eq!(
        one.files.send(file()).unwrap_err().kind(),
        io::ErrorKind::QuotaExceeded
    );
    assert!(
        one.files.send(first).is_ok(),
        "one that is queued already takes no place"
    );
}
