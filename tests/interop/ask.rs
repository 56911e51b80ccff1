// SPDX-License-Identifier: Apache-2.0
//! The same random questions to the Go SDK and to us: equal answers, or a difference that is listed.
//!
//! A subject's questions come from a seed, each with a seed of its own that follows from it. A failure names the seed
//! of its question; `NSM_ASK_SEED` begins with the question of that seed.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use libtest_mimic::Trial;
use tokio::time::Instant;

mod draw;
mod matching;
mod path;
mod policies;
mod theirs;

use crate::Bench;
use draw::Draw;
use theirs::{Answer, Theirs};

/// The seed of the first question.
const SEED: &str = "NSM_ASK_SEED";

/// How many questions a subject has at most.
const QUESTIONS: u64 = 3000;

/// When a subject's last question is asked at the latest.
const LATEST: Duration = Duration::from_secs(2);

/// How many questions there must be, for the answers to mean something.
const LEAST: u64 = 100;

/// A question, and what ours is to be compared with.
struct Case {
    question: serde_json::Value,
    compare: Compare,
}

/// Says in which way our answer differs from theirs.
type Compare = Box<dyn FnOnce(&Answer) -> Result<(), String> + Send>;

/// What makes the next question of a subject.
type Subject = fn(&mut Draw) -> Case;

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let subjects: [(&'static str, Subject); 11] = [
        ("labels_are_had_as_the_sdk_says", matching::labels),
        (
            "matches_choose_the_endpoints_that_the_sdk_chooses",
            matching::choice,
        ),
        ("services_are_found_as_by_the_sdk", matching::service),
        ("endpoints_are_found_as_by_the_sdk", matching::endpoint),
        ("monitors_are_told_of_what_the_sdk_tells", matching::monitor),
        ("a_hop_changes_the_path_as_the_sdk_does", path::update),
        ("tokens_are_valid_as_by_the_sdk", policies::valid_or_expired),
        ("tokens_are_chained_as_by_the_sdk", policies::chained),
        ("tokens_are_signed_as_by_the_sdk", policies::signed_by_neighbours),
        ("names_have_the_owners_of_the_sdk", policies::owner),
        ("connections_are_ones_own_as_by_the_sdk", policies::monitor),
    ];
    let trial = |(name, subject)| bench.trial(name, async move |_| ask(subject));
    subjects.map(trial).into()
}

/// Asks until it is enough.
fn ask(subject: Subject) -> Result<()> {
    let first: u64 = match std::env::var(SEED) {
        Ok(seed) => seed.parse().with_context(|| format!("{SEED} is no number"))?,
        Err(_) => rand::random(),
    };
    eprintln!("{SEED}={first}");
    let mut theirs = Theirs::start()?;
    let until = Instant::now() + LATEST;
    let mut asked = 0;
    while asked < QUESTIONS && (asked < LEAST || Instant::now() < until) {
        let seed = first.wrapping_add(asked);
        let case = subject(&mut Draw::new(seed));
        let answer = theirs.ask(&case.question)?;
        if let Err(difference) = (case.compare)(&answer) {
            bail!(
                "{SEED}={seed}: {difference}\nto {}\nthey say {answer:?}",
                case.question
            );
        }
        asked += 1;
    }
    theirs.end()
}

/// Says how two answers differ.
fn same<T: PartialEq + std::fmt::Debug>(ours: &T, theirs: &T) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    Err(format!("ours is {ours:?}, theirs {theirs:?}"))
}
