// SPDX-License-Identifier: Apache-2.0
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::*;
use crate::core::testing::{Connection, Probe, Wire, request, standard_cases};
use crate::core::{Chain, NetworkService, NseRegistry, Peer, PeerIdentity, Registration, Remote, Request};
use crate::elements::connect::Connect;

const A: &str = "unix:///a";
const B: &str = "unix:///b";

/// A client before two peers.
struct Client {
    chain: Chain<NetworkService>,
    wire: Arc<Wire<NetworkService>>,
    a: Arc<Probe<NetworkService>>,
    b: Arc<Probe<NetworkService>>,
    connection: Connection,
}

fn client() -> Client {
    let (a, b) = (Probe::new(), Probe::new());
    let wire = Wire::new([
        (A, crate::chain![Arc::clone(&a)]),
        (B, crate::chain![Arc::clone(&b)]),
    ]);
    let dial = Dial::new(Arc::clone(&wire) as _, Duration::ZERO);
    Client {
        chain: crate::chain![dial, Connect],
        wire,
        a,
        b,
        connection: Connection::new(),
    }
}

impl Client {
    async fn ask(&self, url: &str, established: bool) -> Result<()> {
        let ctx = if established {
            self.connection.again()
        } else {
            self.connection.first()
        };
        ctx.call().insert(NextUrl(url.into()));
        self.chain.request(&ctx, &mut request()).await
    }

    fn is_open(&self) -> bool {
        self.connection.store.has::<Way<NetworkService>>()
    }
}

#[tokio::test]
async fn passes_the_standard_cases() {
    let dial = || Dial::new(Wire::new([]) as _, Duration::ZERO);
    standard_cases::<NetworkService, _>(dial, request()).await;
    let dial = || Dial::new(Wire::new([]) as _, Duration::ZERO);
    standard_cases::<NseRegistry, _>(dial, Registration::default()).await;
}

#[tokio::test]
async fn a_close_goes_where_the_request_went() {
    let client = client();
    client.ask(A, false).await.expect("sent");
    client
        .chain
        .close(&client.connection.again(), &mut request())
        .await
        .expect("sent");
    assert_eq!((client.a.seen().len(), client.b.seen().len()), (2, 0));
    assert_eq!(client.wire.dialed(), [A, A]);
    assert!(!client.is_open());
}

#[tokio::test]
async fn c100_a_connection_that_moves_is_closed_at_the_old_url_first() {
    let client = client();
    client.ask(A, false).await.expect("sent");
    client.ask(B, true).await.expect("sent");
    assert_eq!((client.a.requests().len(), client.a.closes().len()), (1, 1));
    assert_eq!((client.b.requests().len(), client.b.closes().len()), (1, 0));
}

#[tokio::test]
async fn c100_an_old_url_that_cannot_be_reached_is_an_error_once() {
    let client = client();
    client.ask(A, false).await.expect("sent");
    client.wire.cut(A);
    let error = client.ask(B, true).await.expect_err("nobody at the old one");
    assert!(error.text().starts_with("failed to dial unix:///a"), "{error}");
    client.ask(B, true).await.expect("sent");
    assert_eq!(client.b.requests().len(), 1);
}

#[tokio::test]
async fn who_listened_on_a_socket_that_is_gone_is_not_told_to_close_nor_whoever_has_its_number_now() {
    for is_replaced in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let old = format!("unix://{}", path.display());
        let _before = UnixListener::bind(&path).expect("a socket");
        let (left, new) = (Probe::<NetworkService>::new(), Probe::new());
        let wire = Wire::new([
            (&*old, crate::chain![Arc::clone(&left)]),
            (B, crate::chain![Arc::clone(&new)]),
        ]);
        let chain = crate::chain![Dial::new(wire as _, Duration::ZERO), Connect];
        let connection = Connection::new();
        let ask = async |ctx: Ctx, url: &str| {
            ctx.call().insert(NextUrl(url.into()));
            chain.request(&ctx, &mut request()).await
        };
        ask(connection.first(), &old).await.expect("sent");
        std::fs::remove_file(&path).expect("removed");
        let _now = is_replaced.then(|| UnixListener::bind(&path).expect("another socket"));
        ask(connection.again(), B).await.expect("nobody is missed");
        assert_eq!((left.closes().len(), new.requests().len()), (0, 1));
    }
}

#[tokio::test]
async fn a_new_way_that_fails_is_forgotten_for_the_next_candidate() {
    let client = client();
    client
        .a
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    client.ask(A, false).await.expect_err("told to fail");
    assert!(!client.is_open());
    client.ask(B, false).await.expect("sent");
    assert_eq!(client.wire.dialed(), [A, B]);
    assert!(client.a.closes().is_empty());
}

#[tokio::test]
async fn who_has_refused_an_established_connection_hears_that_it_closes_or_goes_on() {
    let client = client();
    let refuse = |_: &mut Request| Err(Error::unavailable("told-so", "told to fail"));
    client.ask(A, false).await.expect("sent");
    client.b.answer(refuse);
    client.ask(B, true).await.expect_err("told to fail");
    client.ask(A, true).await.expect("sent");
    assert_eq!(client.b.closes().len(), 1);
    client.ask(B, true).await.expect_err("told to fail");
    client
        .chain
        .close(&client.connection.again(), &mut request())
        .await
        .expect("sent");
    assert_eq!(client.b.closes().len(), 2);
    assert!(!client.is_open());
}

#[tokio::test]
async fn what_no_answer_was_heard_of_is_closed_unless_it_was_there_before() {
    let client = client();
    for (error, closes) in [
        (Error::deadline("told to be late"), 1),
        (Error::unavailable("peer-unreachable", "told to be gone"), 2),
        (Error::unavailable("told-so", "told to refuse"), 2),
    ] {
        client.a.answer(move |_| Err(error.clone()));
        client.ask(A, false).await.expect_err("told to fail");
        assert_eq!(client.a.closes().len(), closes);
    }
    client.a.answer(|_| Ok(()));
    client.ask(A, false).await.expect("sent");
    client.a.answer(|_| Err(Error::deadline("told to be late")));
    client.ask(A, true).await.expect_err("told to fail");
    assert_eq!(client.a.closes().len(), 2);
}

/// Refuses the ids that are taken, and remembers what was suggested.
#[derive(Default)]
struct Taken(Mutex<Vec<String>>, AtomicUsize);

#[async_trait]
impl Element<NetworkService> for Arc<Taken> {
    fn name(&self) -> &'static str {
        "taken"
    }
    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.0.lock().extend(ctx.call().get().map(|SegmentId(id)| id));
        let left = self.1.load(Ordering::Relaxed);
        if left > 0 {
            self.1.store(left - 1, Ordering::Relaxed);
            return Err(Error::denied(NOT_THE_OWNER, "told to be somebody else's"));
        }
        next.request(ctx, message).await
    }
}

#[tokio::test]
async fn an_id_that_somebody_else_has_is_replaced_by_a_random_one_and_only_once() {
    let (taken, probe) = (Arc::<Taken>::default(), Probe::new());
    let wire = Wire::new([(A, crate::chain![Arc::clone(&probe)])]);
    let dial = Dial::new(wire as _, Duration::ZERO);
    let chain: Chain<NetworkService> = crate::chain![dial, Arc::clone(&taken), Connect];
    let ask = async || {
        let ctx = Connection::new().first();
        ctx.call().insert(NextUrl(A.into()));
        chain.request(&ctx, &mut request()).await
    };
    taken.1.store(1, Ordering::Relaxed);
    ask().await.expect("under the second id");
    let ids = std::mem::take(&mut *taken.0.lock());
    assert_eq!((ids.len(), probe.requests().len()), (2, 1));
    assert_ne!(ids[0], ids[1]);
    taken.1.store(2, Ordering::Relaxed);
    let error = ask().await.expect_err("both are taken");
    assert_eq!((error.reason(), taken.0.lock().len()), ("peer", 2));
}

#[tokio::test]
async fn a_refresh_suggests_the_same_id_to_whoever_may_be_there_by_now() {
    let (taken, probe) = (Arc::<Taken>::default(), Probe::new());
    let wire = Wire::new([(A, crate::chain![Arc::clone(&probe)])]);
    let dial = Dial::new(wire as _, Duration::ZERO);
    let chain: Chain<NetworkService> = crate::chain![dial, Arc::clone(&taken), Connect];
    let connection = Connection::new();
    for ctx in [connection.first(), connection.again()] {
        ctx.call().insert(NextUrl(A.into()));
        chain.request(&ctx, &mut request()).await.expect("sent");
        assert!(!ctx.call().has::<SegmentId>(), "it is of one call");
    }
    let ids = taken.0.lock();
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_call_that_was_not_sent_is_sent_over_a_new_connection() {
    let client = client();
    let fails_once = |probe: &Arc<Probe<NetworkService>>| {
        let failed = std::sync::atomic::AtomicBool::new(false);
        probe.answer(move |_| match failed.swap(true, Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Error::new(Code::Aborted, GONE, "the connection has ended")),
        });
    };
    fails_once(&client.a);
    client.ask(A, false).await.expect("sent the second time");
    fails_once(&client.a);
    client.ask(A, true).await.expect("sent the second time");
    assert_eq!((client.a.requests().len(), client.a.closes().len()), (4, 0));
    assert_eq!(client.wire.dialed(), [A, A, A, A]);
}

#[tokio::test]
async fn a_failed_refresh_keeps_the_way() {
    let client = client();
    client.ask(A, false).await.expect("sent");
    client
        .a
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    client.ask(A, true).await.expect_err("told to fail");
    client.wire.cut(A);
    let error = client.ask(A, true).await.expect_err("unreachable");
    assert_eq!(error.reason(), "peer-unreachable");
    assert!(client.is_open());
}

#[tokio::test]
async fn a_close_that_fails_keeps_the_way_for_another_one() {
    let client = client();
    client.ask(A, false).await.expect("sent");
    client.a.fail_closes(Some(Error::deadline("told to fail")));
    let again = client.connection.again();
    client
        .chain
        .close(&again, &mut request())
        .await
        .expect_err("told to fail");
    client.a.fail_closes(None);
    client.chain.close(&again, &mut request()).await.expect("sent");
    assert_eq!(client.a.closes().len(), 2);
}

/// One URL that leads to another peer each time, and who was closed.
#[derive(Default)]
struct Moving {
    dialed: AtomicUsize,
    closed: Mutex<Vec<String>>,
}

struct There(Peer, Arc<Moving>);

#[async_trait]
impl<A: Api> Dialer<A> for Arc<Moving> {
    async fn dial(&self, _: &str, _: Instant) -> Result<Arc<dyn Remote<A>>> {
        let identity = PeerIdentity {
            spiffe_id: format!("spiffe://test/{}", self.dialed.fetch_add(1, Ordering::Relaxed)),
            certificate: Vec::new(),
            not_after: std::time::SystemTime::UNIX_EPOCH,
        };
        let peer = Peer {
            identity: Some(Arc::new(identity)),
            ..Peer::default()
        };
        Ok(Arc::new(There(peer, Arc::clone(self))))
    }
}

#[async_trait]
impl<A: Api> Remote<A> for There {
    fn peer(&self) -> &Peer {
        &self.0
    }
    async fn request(&self, _: &Ctx, message: &A::Message) -> Result<A::Message> {
        Ok(message.clone())
    }
    async fn close(&self, _: &Ctx, _: &A::Message) -> Result<()> {
        let who = self.0.spiffe_id().unwrap_or_default().to_string();
        self.1.closed.lock().push(who);
        Ok(())
    }
    async fn find(&self, _: &Ctx, _: A::Query) -> Result<Found<A>> {
        Ok(Box::pin(futures::stream::empty()))
    }
}

#[tokio::test]
async fn whoever_has_the_url_by_now_is_not_closed_in_place_of_who_was_requested() {
    let moving = Arc::new(Moving::default());
    let dial = Dial::new(Arc::new(Arc::clone(&moving)) as _, Duration::ZERO);
    let chain: Chain<NetworkService> = crate::chain![dial, Connect];
    let connection = Connection::new();
    let ask = async |url: &str, ctx: Ctx| {
        ctx.call().insert(NextUrl(url.into()));
        chain.request(&ctx, &mut request()).await
    };
    ask(A, connection.first()).await.expect("requested of 0");
    let error = ask(B, connection.again()).await.expect_err("1 is at A now");
    assert_eq!(error.reason(), "peer-unreachable");
    ask(B, connection.again()).await.expect("requested of 2");
    chain
        .close(&connection.again(), &mut request())
        .await
        .expect("closed");
    assert_eq!(*moving.closed.lock(), ["spiffe://test/2"]);
}

#[tokio::test]
async fn what_one_replica_has_registered_another_one_unregisters() {
    let moving = Arc::new(Moving::default());
    let dial = Dial::new(Arc::new(Arc::clone(&moving)) as _, Duration::ZERO);
    let chain: Chain<NseRegistry> = crate::chain![dial, Connect];
    let (connection, mut entry) = (Connection::new(), Registration::default());
    let ctx = connection.first();
    ctx.call().insert(NextUrl(A.into()));
    chain.request(&ctx, &mut entry).await.expect("registered by 0");
    chain
        .close(&connection.again(), &mut entry)
        .await
        .expect("unregistered");
    assert_eq!(*moving.closed.lock(), ["spiffe://test/1"]);
}

#[tokio::test]
async fn an_entry_that_we_do_not_know_is_unregistered_by_whoever_is_next() {
    let registry = Probe::<NseRegistry>::new();
    let wire = Wire::new([(A, crate::chain![Arc::clone(&registry)])]);
    let dial = Dial::new(Arc::clone(&wire) as _, Duration::ZERO);
    let chain: Chain<NseRegistry> = crate::chain![dial, Connect];
    let close = async || {
        let ctx = Connection::new().again();
        ctx.call().insert(NextUrl(A.into()));
        chain.close(&ctx, &mut Registration::default()).await
    };
    close().await.expect("sent");
    assert_eq!(registry.closes().len(), 1);
    wire.cut(A);
    let error = close().await.expect_err("it has to be tried again");
    assert_eq!(error.reason(), "peer-unreachable");
}

#[tokio::test]
async fn a_connection_that_we_do_not_know_is_closed_without_telling_anybody() {
    let client = client();
    let ctx = client.connection.again();
    ctx.call().insert(NextUrl(A.into()));
    client
        .chain
        .close(&ctx, &mut request())
        .await
        .expect("nothing to close");
    assert!(client.wire.dialed().is_empty());
}

#[tokio::test]
async fn the_way_of_somebody_else_is_left_alone() {
    let client = client();
    let way = crate::core::testing::end(crate::chain![Arc::clone(&client.b)]);
    client.connection.store.insert(way);
    client.ask(A, false).await.expect("sent");
    assert_eq!((client.b.requests().len(), client.wire.dialed().len()), (1, 0));
}

#[tokio::test]
async fn a_find_uses_a_way_of_its_own() {
    let client = client();
    let ctx = client.connection.first();
    ctx.call().insert(NextUrl(A.into()));
    drop(client.chain.find(&ctx, Default::default()).await.expect("found"));
    assert!(!client.is_open() && client.wire.dialed() == [A]);
}
