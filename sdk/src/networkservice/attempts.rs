// SPDX-License-Identifier: Apache-2.0
//! Trying several ways in one call: how much time each one gets, and what is told when all fail.

use std::fmt::Write;

use crate::core::{Ctx, Error, Retry};

/// How much text about failed attempts an error carries, bytes: it travels in the header of an answer.
const MAX_TEXT: usize = 4096;

/// The failures of the attempts so far.
#[derive(Default)]
pub(super) struct Failures {
    text: String,
    untold: usize,
    best: Option<Error>,
}

impl Failures {
    /// Notes that an attempt failed; `told` is what the final text says about it.
    pub(super) fn add(&mut self, told: impl std::fmt::Display, error: Error) {
        let told = format!("{told}: ");
        if self.text.len() + told.len() <= MAX_TEXT {
            self.text.push_str(&told);
        } else {
            self.untold += 1;
        }
        let hope = |error: &Error| match error.retry() {
            Retry::Now => 2,
            Retry::Later => 1,
            Retry::Never => 0,
        };
        if self.best.as_ref().is_none_or(|best| hope(best) <= hope(&error)) {
            self.best = Some(error);
        }
    }

    /// All failures as one, ending with `end`: code, reason and place are those of the failure after which trying
    /// again is most promising, of equal ones the last. `None` when there was none.
    pub(super) fn into_error(mut self, end: &str) -> Option<Error> {
        let best = self.best?;
        if self.untold > 0 {
            let _strings_take_everything = write!(self.text, "and {} more: ", self.untold);
        }
        Some(best.with_text(self.text + end))
    }
}

/// The circumstances of one attempt with `more` to come if it fails: half of the time that is left, so that one that
/// hangs leaves time for the next; all of it for the last one. `None` when there is no time left, or nobody who
/// waits for the answer.
pub(super) fn share(ctx: &Ctx, more: usize) -> Option<Ctx> {
    let left = ctx.remaining();
    if left.is_zero() || ctx.cancelled().is_cancelled() {
        return None;
    }
    Some(if more == 0 {
        ctx.clone()
    } else {
        ctx.within(left / 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::Connection;

    #[test]
    fn the_most_promising_failure_gives_its_code_and_the_texts_are_all_told() {
        let mut failures = Failures::default();
        failures.add("0. denied", Error::denied("denied", "no"));
        failures.add("1. away", Error::unavailable("away", "not here").at("connect"));
        failures.add("2. wrong", Error::invalid("wrong", "no"));
        let error = failures.into_error("all have failed").unwrap();
        assert_eq!((error.reason(), error.place()), ("away", Some("connect")));
        assert_eq!(error.text(), "0. denied: 1. away: 2. wrong: all have failed");
        assert!(Failures::default().into_error("all have failed").is_none());
    }

    #[test]
    fn the_text_is_bounded() {
        let mut failures = Failures::default();
        for at in 0..100 {
            failures.add(
                format!("{at}. {}", "x".repeat(100)),
                Error::denied("denied", "no"),
            );
        }
        let error = failures.into_error("all have failed").unwrap();
        assert!(error.text().len() < MAX_TEXT + 100);
        assert!(error.text().ends_with("more: all have failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_leaves_half_of_the_time() {
        let ctx = Connection::new().first();
        let first = share(&ctx, 1).unwrap();
        tokio::time::sleep_until(first.deadline()).await;
        assert_eq!(ctx.remaining(), std::time::Duration::from_secs(5));
        let last = share(&ctx, 0).unwrap();
        assert_eq!(last.deadline(), ctx.deadline());
        tokio::time::sleep_until(last.deadline()).await;
        assert!(share(&ctx, 0).is_none());
    }
}
