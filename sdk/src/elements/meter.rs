// SPDX-License-Identifier: Apache-2.0
//! Counts the calls of a chain: how many, how they ended, how long they took, and what is kept of them.
//!
//! **Guarantees**: every call that passes is counted once, by its API and by `ok` or the reason of its error; and what
//! was requested and not closed since is counted as held.
//! **Placement**: right behind `begin`, so that what a program does for itself (refresh, heal, timeouts) counts as well.
//! **Cost**: where nothing is counted, one look; otherwise two readings of the clock and three short locks.

use async_trait::async_trait;
use tokio::time::Instant;

use crate::core::meters::{Family, Held, Kind};
use crate::core::{Api, Ctx, Element, Error, Found, Next, Result};

/// How calls have ended.
pub static CALLS: Family = Family {
    name: "nsm_calls_total",
    help: "Calls by how they ended: ok, or the reason code of the error.",
    kind: Kind::Counter,
    labels: &["api", "call", "reason"],
};

/// How long calls took.
pub static SECONDS: Family = Family {
    name: "nsm_call_duration_seconds",
    help: "How long calls took, with everything behind this program; of find, until the answer begins.",
    kind: Kind::Histogram,
    labels: &["api", "call", "outcome"],
};

/// What is there.
pub static HELD: Family = Family {
    name: "nsm_held",
    help: "Connections, or registrations of endpoints and services, that are established here.",
    kind: Kind::Gauge,
    labels: &["api"],
};

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter;

/// What counts for as long as its connection is there.
struct Kept(#[expect(dead_code, reason = "it counts until it is dropped")] Held);

impl Meter {
    fn count<A: Api, T>(ctx: &Ctx, call: &str, began: Instant, done: &Result<T>) {
        let reason = done.as_ref().map_or_else(Error::reason, |_| "ok");
        let meters = ctx.component().meters();
        meters.add(&CALLS, &[A::NAME, call, reason], 1);
        let outcome = if done.is_ok() { "ok" } else { "refused" };
        meters.took(&SECONDS, &[A::NAME, call, outcome], began.elapsed());
    }
}

#[async_trait]
impl<A: Api> Element<A> for Meter {
    fn name(&self) -> &'static str {
        "meter"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        if !ctx.component().meters().is_on() {
            return next.request(ctx, message).await;
        }
        let began = Instant::now();
        let done = next.request(ctx, message).await;
        Self::count::<A, _>(ctx, "request", began, &done);
        if done.is_ok() && !ctx.store().has::<Kept>() {
            let held = ctx.component().meters().hold(&HELD, &[A::NAME]);
            held.map(|held| ctx.store().insert(Kept(held)));
        }
        done
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        if !ctx.component().meters().is_on() {
            return next.close(ctx, message).await;
        }
        let began = Instant::now();
        let done = next.close(ctx, message).await;
        Self::count::<A, _>(ctx, "close", began, &done);
        drop(ctx.store().take::<Kept>());
        done
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        if !ctx.component().meters().is_on() {
            return next.find(ctx, query).await;
        }
        let began = Instant::now();
        let done = next.find(ctx, query).await;
        Self::count::<A, _>(ctx, "find", began, &done);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};
    use crate::core::{NetworkService, Request};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| Meter, request()).await;
    }

    #[tokio::test]
    async fn calls_are_counted_by_how_they_end_and_connections_while_they_last() {
        let probe = Probe::answering(|request: &mut Request| match &*request.connection.id {
            "full" => Err(Error::exhausted("pool-empty", "no address left")),
            _ => Ok(()),
        });
        let (chain, connection) = (before(Meter, &probe), Connection::new());
        let ctx = connection.first();
        let meters = ctx.component().meters().clone();
        meters.switch_on();
        let told = |line: &str| meters.text().lines().any(|told| told == line);
        let mut asked = request();
        chain.request(&ctx, &mut asked).await.expect("the probe answers");
        chain
            .request(&connection.again(), &mut asked.clone())
            .await
            .expect("the probe answers");
        assert!(told(
            "nsm_calls_total{api=\"networkservice\",call=\"request\",reason=\"ok\"} 2"
        ));
        assert!(told("nsm_held{api=\"networkservice\"} 1"), "{}", meters.text());
        assert!(told(
            "nsm_call_duration_seconds_count{api=\"networkservice\",call=\"request\",outcome=\"ok\"} 2"
        ));
        chain
            .close(&connection.again(), &mut asked)
            .await
            .expect("it closes");
        assert!(told("nsm_held{api=\"networkservice\"} 0"));
        let mut full = request();
        full.connection.id = "full".into();
        chain
            .request(&ctx, &mut full)
            .await
            .expect_err("the probe refuses");
        assert!(told(
            "nsm_calls_total{api=\"networkservice\",call=\"request\",reason=\"pool-empty\"} 1"
        ));
        assert!(told("nsm_held{api=\"networkservice\"} 0"));
    }
}
