// SPDX-License-Identifier: Apache-2.0
//! What a server has at the same time at most: who is beyond waits, and is served when there is room.

use std::pin::pin;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::connections::{Monitored, monitor};
use super::*;
use crate::transport::server::{LIMITS, Limits};

/// Nothing of what has to wait happens meanwhile.
const MEANWHILE: Duration = Duration::from_millis(50);

/// Serves within `limits`.
async fn serve(machine: &Machine, server: &Program, limits: Limits) -> String {
    let chain = Chain::new(vec![Arc::new(Monitored) as Arc<dyn Element<NetworkService>>]);
    let mut server = Server::new(&server.component, server.identity.clone()).network_service(chain);
    server.limits = limits;
    server.listen(&[machine.url("s")]).await.unwrap().remove(0)
}

/// Waits for what has to wait until `makes_room` has ended.
async fn waits<T>(what: impl Future<Output = T>, makes_room: impl AsyncFnOnce()) -> T {
    let mut what = pin!(what);
    let early = timeout(MEANWHILE, &mut what).await;
    assert!(early.is_err(), "it did not wait");
    makes_room().await;
    timeout(Duration::from_secs(10), what)
        .await
        .expect("it is served when there is room")
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_until_another_ends() {
    let machine = Machine::new();
    let [server, one, two, late] = ["server", "one", "two", "late"].map(|name| machine.program(name));
    let limits = Limits {
        connections: 2,
        ..LIMITS
    };
    let url = serve(&machine, &server, limits).await;
    let (first, second, third) = (one.pool(), two.pool(), late.pool());
    let (first, second) = (dial(&first, &url).await, dial(&second, &url).await);
    call(&first, &one).await;
    let remote = waits(dial(&third, &url), async || {
        call(&second, &two).await;
        drop(first);
        one.component.end().await;
    });
    call(&remote.await, &late).await;
}

#[tokio::test]
async fn a_handshake_beyond_the_limit_waits_until_another_ends() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let limits = Limits {
        handshakes: 2,
        ..LIMITS
    };
    let url = serve(&machine, &server, limits).await;
    let path = machine.directory.path().join("s.sock");
    let silent = UnixStream::connect(&path).await.unwrap();
    let pool = client.pool();
    // One silent client keeps nobody from the other place.
    call(&dial(&pool, &url).await, &client).await;
    let _another = UnixStream::connect(&path).await.unwrap();
    let late = machine.program("late");
    let pool = late.pool();
    let remote = waits(dial(&pool, &url), async || drop(silent));
    call(&remote.await, &late).await;
}

#[tokio::test]
async fn a_call_beyond_the_limit_of_its_connection_waits_until_another_ends() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let limits = Limits { calls: 2, ..LIMITS };
    let url = serve(&machine, &server, limits).await;
    let remote = dial(&client.pool(), &url).await;
    let (first, _second) = (monitor(&remote, &client).await, monitor(&remote, &client).await);
    let third = waits(call(&remote, &client), async || drop(first));
    third.await;
}
