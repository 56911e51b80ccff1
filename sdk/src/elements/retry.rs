// SPDX-License-Identifier: Apache-2.0
//! Makes a call again and again until it succeeds or its time has run out.
//!
//! **Guarantees**: each attempt has a part of the time, a close half of what is left, and begins with the message as it
//! came; between attempts it waits, at first 200 ms, then longer, but never long for somebody who is to listen on a
//! socket of this machine: who ends there is back soon, and looking costs next to nothing. An error that no repetition
//! mends is answered at once.
//! **Placement**: first in a client chain.
//! **On failure**: answers the last error, and how often it was tried.
//! **Cost**: one copy of the message an attempt.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;
use tracing::debug;

use super::dial::NobodyThere;
use crate::core::meters::{Family, Kind};
use crate::core::{Api, Backoff, Ctx, Element, Error, Found, Next, Result, Retry as Advice};

/// What was tried again.
pub static RETRIES: Family = Family {
    name: "nsm_retries_total",
    help: "Calls that were made again, by the reason code of the error before.",
    kind: Kind::Counter,
    labels: &["reason"],
};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(15);

/// The wait after the first attempt.
const WAIT: Duration = Duration::from_millis(200);

/// The longest wait between attempts.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// The longest wait when there was nobody at a socket of this machine.
const LOCAL_WAIT: Duration = Duration::from_millis(250);

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Retry;

/// The attempts of one call.
pub(crate) struct Attempts {
    backoff: Backoff,
    count: u32,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        Self {
            backoff: Backoff::new(WAIT, MAX_WAIT),
            count: 0,
        }
    }

    /// Waits after the `error` of `attempt`, or tells that it is the last one.
    pub(crate) async fn after(&mut self, ctx: &Ctx, attempt: &Ctx, error: Error) -> Result<()> {
        self.count += 1;
        let mut wait = self.backoff.next(ctx.component());
        if attempt.call().has::<NobodyThere>() {
            wait = wait.min(LOCAL_WAIT);
        }
        if error.retry() == Advice::Never {
            return Err(error);
        }
        let give_up = |count| error.clone().context(format!("gave up after {count} attempts"));
        if ctx.remaining() <= wait {
            return Err(give_up(self.count));
        }
        ctx.component().meters().add(&RETRIES, &[error.reason()], 1);
        debug!(attempt = self.count, %error, ?wait, "trying again");
        let waited = ctx.bounded("try again", async {
            sleep(wait).await;
            Ok(())
        });
        waited.await.map_err(|_| give_up(self.count))
    }
}

#[async_trait]
impl<A: Api> Element<A> for Retry {
    fn name(&self) -> &'static str {
        "retry"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let mut attempts = Attempts::new();
        loop {
            let (attempt, mut asked) = (ctx.within(ATTEMPT).attempt(), message.clone());
            match next.request(&attempt, &mut asked).await {
                Ok(()) => {
                    *message = asked;
                    return Ok(());
                }
                Err(error) => attempts.after(ctx, &attempt, error).await?,
            }
        }
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let mut attempts = Attempts::new();
        loop {
            // Whoever closes has little time, and may have met somebody who is about to end.
            let attempt = ctx.within(ATTEMPT.min(ctx.remaining() / 2)).attempt();
            match next.close(&attempt, &mut message.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => attempts.after(ctx, &attempt, error).await?,
            }
        }
    }

    /// Opens the stream again, but does not mend one that breaks.
    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        let mut attempts = Attempts::new();
        loop {
            let attempt = ctx.within(ATTEMPT).attempt();
            match next.find(&attempt, query.clone()).await {
                Ok(found) => return Ok(found),
                Err(error) => attempts.after(ctx, &attempt, error).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;
    use crate::core::testing::{Connection, Probe, Wire, before, request, standard_cases};
    use crate::core::{Component, NetworkService, NseRegistry, Registration, Request};
    use crate::elements::clienturl::ClientUrl;
    use crate::elements::connect::Connect;
    use crate::elements::dial::Dial;

    /// Fails the first calls.
    fn failing(times: u32) -> Arc<Probe<NetworkService>> {
        let left = AtomicU32::new(times);
        Probe::answering(move |request: &mut Request| {
            request.connection.payload.push('x');
            match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
                Ok(_) => Err(Error::unavailable("told-so", "told to fail")),
                Err(_) => Ok(()),
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| Retry, request()).await;
        standard_cases::<NseRegistry, _>(|| Retry, Registration::default()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_attempt_begins_with_the_message_as_it_came() {
        let (probe, start) = (failing(2), Instant::now());
        let mut message = request();
        before(Retry, &probe)
            .request(&Connection::new().first(), &mut message)
            .await
            .expect("the third attempt");
        assert_eq!(
            (probe.requests().len(), message.connection.payload.as_str()),
            (3, "x")
        );
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(500) && waited <= Duration::from_millis(600));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_is_answered_in_time() {
        let (probe, start) = (failing(u32::MAX), Instant::now());
        let error = before(Retry, &probe)
            .request(&Connection::new().first(), &mut request())
            .await
            .expect_err("never");
        assert_eq!(error.reason(), "told-so");
        assert!(error.text().starts_with("gave up after "), "{error}");
        assert!(start.elapsed() <= Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_who_is_to_listen_on_this_machine() {
        for (url, least, most) in [("unix:///gone", 35, 50), ("tcp://127.0.0.1:1", 4, 10)] {
            let wire = Wire::<NetworkService>::new([]);
            let chain = crate::chain![
                Retry,
                ClientUrl::new(url),
                Dial::new(Arc::clone(&wire) as _, Duration::ZERO),
                Connect
            ];
            let ctx = Connection::new().first().within(Duration::from_secs(10));
            chain
                .request(&ctx, &mut request())
                .await
                .expect_err("nobody there");
            assert!(
                (least..=most).contains(&wire.dialed().len()),
                "{url}: {}",
                wire.dialed().len()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_ends_the_attempts() {
        let (probe, ctx) = (failing(u32::MAX), Connection::new().first());
        let (chain, cancel) = (before(Retry, &probe), ctx.cancelled().clone());
        let mut message = request();
        let (done, ()) = tokio::join!(chain.request(&ctx, &mut message), async {
            probe.arrived(2).await;
            cancel.cancel();
        });
        assert_eq!(done.expect_err("left").reason(), "told-so");
        assert_eq!(probe.requests().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_repetition_mends_is_answered_at_once() {
        let probe = Probe::answering(|_| Err(Error::denied("told-so", "told to fail")));
        let error = before(Retry, &probe)
            .request(&Connection::new().first(), &mut request())
            .await
            .expect_err("denied");
        assert_eq!((error.text(), probe.requests().len()), ("told to fail", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_does_not_use_up_all_the_time() {
        let probe = Probe::<NetworkService>::new();
        let hold = probe.hold();
        let ctx = Ctx::own(&Component::new("test"), Duration::from_secs(60));
        let chain: crate::core::Chain<NetworkService> = crate::chain![Retry, Patient, Arc::clone(&probe)];
        let mut message = request();
        let (done, ()) = tokio::join!(chain.request(&ctx, &mut message), async {
            probe.arrived(2).await;
            hold.cancel();
        });
        done.expect("the second attempt");
    }

    /// Waits for what is behind it until the deadline.
    struct Patient;

    #[async_trait]
    impl Element<NetworkService> for Patient {
        fn name(&self) -> &'static str {
            "patient"
        }
        async fn request(
            &self,
            ctx: &Ctx,
            message: &mut Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            ctx.bounded("wait", next.request(ctx, message)).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_is_repeated_too() {
        let (probe, connection) = (failing(0), Connection::new());
        probe.fail_closes(Some(Error::unavailable("told-so", "told to fail")));
        let chain = before(Retry, &probe);
        let (ctx, mut message) = (connection.again(), request());
        let (done, ()) = tokio::join!(chain.close(&ctx, &mut message), async {
            probe.arrived(2).await;
            probe.fail_closes(None);
        });
        done.expect("the third attempt");
        assert_eq!(probe.closes().len(), 3);
    }

    /// The first close of each meets silence.
    #[derive(Default)]
    struct Draining(AtomicU32);

    #[async_trait]
    impl Element<NetworkService> for Draining {
        fn name(&self) -> &'static str {
            "draining"
        }
        async fn close(
            &self,
            ctx: &Ctx,
            message: &mut Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return ctx.bounded("wait", std::future::pending()).await;
            }
            next.close(ctx, message).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_that_meets_silence_has_time_for_another() {
        let probe = Probe::<NetworkService>::new();
        let ctx = Ctx::own(&Component::new("test"), Duration::from_secs(5));
        let chain: crate::core::Chain<NetworkService> =
            crate::chain![Retry, Draining::default(), Arc::clone(&probe)];
        chain
            .close(&ctx, &mut request())
            .await
            .expect("the second attempt");
        assert_eq!(probe.closes().len(), 1);
    }
}
