// SPDX-License-Identifier: Apache-2.0
//! The cases that every element must pass.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Connection, Probe};
use crate::core::{Api, Chain, Ctx, Element, Error, Message, Next, Result};

/// The cases that any element of any API must pass with a message that suits it:
/// - it calls `next` once, bears repetition, and closes what is behind it once;
/// - it keeps an error of `next` with its code and reason, of a first request, of a refresh and of a close, and closes
///   nothing by itself then;
/// - the runner can undo it when somebody before it fails, and what is behind it is closed once;
/// - it ends, and leaves nothing behind it when it fails, although its caller is gone or the deadline has passed;
/// - after each of these, and after a call that was cut while `next` was at work, another try succeeds.
pub(crate) async fn standard_cases<A: Api, E: Element<A>>(element: impl Fn() -> E, message: A::Message)
where
    A::Message: PartialEq,
{
    passes_on(&mut Bed::of(element()), &message).await;
    keeps_errors(&mut Bed::of(element()), &message).await;
    keeps_errors_when_established(&mut Bed::of(element()), &message).await;
    is_undone(&mut Bed::of(element()), &message).await;
    let gone = |ctx: &Ctx| {
        ctx.cancelled().cancel();
        ctx.clone()
    };
    ends_in_time(&mut Bed::of(element()), &message, gone).await;
    let late = |ctx: &Ctx| ctx.within(Duration::ZERO);
    ends_in_time(&mut Bed::of(element()), &message, late).await;
    is_cut(&mut Bed::of(element()), &message).await;
}

/// One element before a [`Probe`], and a connection that passes it.
struct Bed<A: Api> {
    element: Arc<dyn Element<A>>,
    probe: Arc<Probe<A>>,
    connection: Connection,
}

impl<A: Api> Bed<A> {
    fn of(element: impl Element<A>) -> Self {
        Self {
            element: Arc::new(element),
            probe: Probe::new(),
            connection: Connection::new(),
        }
    }

    fn chain(&self) -> Chain<A> {
        Chain::new(vec![Arc::clone(&self.element), Arc::new(Arc::clone(&self.probe))])
    }

    /// Forgets what is kept for the connection, as `begin` does when a first request fails, and tries again.
    async fn retries(&mut self, message: &A::Message) {
        self.connection.store.clear();
        self.probe = Probe::new();
        let mut retried = message.clone();
        let done = self.chain().request(&self.connection.first(), &mut retried).await;
        done.expect("another try succeeds");
        assert_eq!(self.probe.requests().len(), 1, "another try calls next once");
        let closed = self.chain().close(&self.connection.again(), &mut retried).await;
        closed.expect("another try is closed");
    }
}

fn told_so() -> Error {
    Error::exhausted("told-so", "the probe was told to fail")
}

/// An error of `next` has come through.
fn is_kept<T: std::fmt::Debug>(done: Result<T>) {
    let error = done.expect_err("keeps an error of next");
    let (told, kept) = (told_so(), (error.code(), error.reason()));
    assert_eq!(
        kept,
        (told.code(), told.reason()),
        "keeps code and reason of next: {error}"
    );
}

async fn passes_on<A: Api>(bed: &mut Bed<A>, message: &A::Message)
where
    A::Message: PartialEq,
{
    let chain = bed.chain();
    let mut first = message.clone();
    let done = chain.request(&bed.connection.first(), &mut first).await;
    done.expect("passes a request");
    assert_eq!(bed.probe.requests().len(), 1, "calls next once");
    let mut again = first.clone();
    let done = chain.request(&bed.connection.again(), &mut again).await;
    done.expect("passes a refresh");
    assert_eq!(
        again.path(),
        first.path(),
        "a refresh changes nothing in the path"
    );
    assert_eq!(again.id(), first.id());
    let done = chain.close(&bed.connection.again(), &mut again).await;
    done.expect("passes a close");
    assert_eq!(bed.probe.closes().len(), 1, "closes what is behind it once");
    bed.retries(message).await;
}

async fn keeps_errors<A: Api>(bed: &mut Bed<A>, message: &A::Message) {
    bed.probe.answer(|_| Err(told_so()));
    let done = bed.chain();
    let done = done.request(&bed.connection.first(), &mut message.clone()).await;
    is_kept(done);
    assert!(bed.probe.closes().is_empty(), "next has undone itself already");
    bed.retries(message).await;
}

async fn keeps_errors_when_established<A: Api>(bed: &mut Bed<A>, message: &A::Message) {
    let chain = bed.chain();
    let mut there = message.clone();
    let done = chain.request(&bed.connection.first(), &mut there).await;
    done.expect("passes a request");
    bed.probe.answer(|_| Err(told_so()));
    is_kept(chain.request(&bed.connection.again(), &mut there.clone()).await);
    assert!(
        bed.probe.closes().is_empty(),
        "a failed refresh leaves what was there"
    );
    bed.probe.answer(|_| Ok(()));
    let done = chain.request(&bed.connection.again(), &mut there).await;
    done.expect("passes a refresh after one that failed");
    bed.probe.fail_closes(Some(told_so()));
    is_kept(chain.close(&bed.connection.again(), &mut there).await);
    // An element may try it again.
    assert!(
        !bed.probe.closes().is_empty(),
        "a close that fails has called next"
    );
    bed.retries(message).await;
}

/// Fails after `next` has succeeded, and maybe closes what is behind it by itself.
pub(crate) struct Fails {
    pub(crate) closes: bool,
}

#[async_trait]
impl<A: Api> Element<A> for Fails {
    fn name(&self) -> &'static str {
        "fails"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        next.request(ctx, message).await?;
        if self.closes {
            next.close(ctx, message).await?;
        }
        Err(told_so())
    }
}

async fn is_undone<A: Api>(bed: &mut Bed<A>, message: &A::Message) {
    let chain = Chain::new(vec![Arc::new(Fails { closes: false }) as Arc<dyn Element<A>>]).then(&bed.chain());
    let done = chain.request(&bed.connection.first(), &mut message.clone()).await;
    is_kept(done);
    assert_eq!(
        bed.probe.closes().len(),
        1,
        "undoing it closes what is behind it once"
    );
    bed.retries(message).await;
}

/// How long an element may take that nobody waits for: long enough for the undoing of what is behind it.
const SOON: Duration = Duration::from_secs(5);

/// A request in circumstances under which an element may succeed or fail, but not wait.
async fn ends_in_time<A: Api>(bed: &mut Bed<A>, message: &A::Message, of: impl FnOnce(&Ctx) -> Ctx) {
    let (chain, ctx) = (bed.chain(), of(&bed.connection.first()));
    let mut asked = message.clone();
    let done = tokio::time::timeout(SOON, chain.request(&ctx, &mut asked)).await;
    let done = done.expect("it does not wait when nobody waits for it");
    if done.is_ok() {
        let closed = chain.close(&bed.connection.again(), &mut asked).await;
        closed.expect("what is there is closed");
    }
    let (requests, closes) = (bed.probe.requests().len(), bed.probe.closes().len());
    assert_eq!(requests, closes, "everything behind it is closed: {done:?}");
    bed.retries(message).await;
}

/// What overruns its deadline is cut and closed.
async fn is_cut<A: Api>(bed: &mut Bed<A>, message: &A::Message) {
    let _never = bed.probe.hold();
    let (chain, ctx) = (bed.chain(), bed.connection.first());
    let mut asked = message.clone();
    tokio::select! {
        biased;
        done = chain.request(&ctx, &mut asked) => panic!("it did not wait for next: {done:?}"),
        () = bed.probe.arrived(1) => {}
    }
    let closed = chain.close(&ctx.postponed(), &mut asked).await;
    closed.expect("what was cut is closed");
    bed.retries(message).await;
}
