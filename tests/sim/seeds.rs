// SPDX-License-Identifier: Apache-2.0
//! Runs of many seeds.

use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use tokio::runtime::Builder;
use tokio::time::sleep;

use crate::actions::Action;
use crate::history::History;
use crate::world::{Size, World};

/// How many seeds are run unless told otherwise.
const SEEDS: u64 = 200;

/// One of so many seeds is run twice.
const TWICE: u64 = 10;

/// Runs `story` in a world of its own time.
pub(crate) fn on_virtual_time<T>(story: impl Future<Output = T>) -> T {
    on_scheduler(Builder::new_current_thread(), story)
}

/// As [`on_virtual_time`], and `story` itself has a turn after each turn of anybody else.
pub(crate) fn turn_by_turn<T>(story: impl Future<Output = T>) -> T {
    let mut builder = Builder::new_current_thread();
    builder.event_interval(1);
    on_scheduler(builder, story)
}

/// Held by the world that lives. Worlds of one process share its descriptors, and URLs tell their numbers: one would
/// find the sockets of another.
static ALONE: Mutex<()> = Mutex::new(());

fn on_scheduler<T>(mut builder: Builder, story: impl Future<Output = T>) -> T {
    let _alone = ALONE.lock();
    let runtime = builder.enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(story)
}

/// What happens in the world of one seed.
async fn run(seed: u64) -> History {
    let size = Size {
        endpoints: 1 + usize::try_from(seed % 3).unwrap_or_default(),
        clients: 1 + usize::try_from(seed / 3 % 5).unwrap_or_default(),
        wires: 1 + usize::try_from(seed / 15 % 2).unwrap_or_default(),
    };
    let world = World::begin(seed, size).await;
    let idle = world.idle_tasks().await;
    let count = world.draw(|random| random.random_range(10..40));
    for _ in 0..count {
        Action::draw(&world).happen(&world);
        let pause = world.draw(|random| match random.random_range(0..4) {
            0 => 0,
            1 => random.random_range(0..20),
            2 => random.random_range(0..500),
            _ => random.random_range(0..5000),
        });
        sleep(Duration::from_millis(pause)).await;
        world.look();
    }
    world.calm(|wire| wire.id.ends_with('0')).await;
    world.expire().await;
    world.close_all().await;
    world.ends_as_it_began(&idle).await;
    world.history().clone()
}

/// Runs one seed, some of them twice.
fn judge(seed: u64) -> Result<(), String> {
    let history = on_virtual_time(run(seed));
    history.verdict()?;
    if seed.is_multiple_of(TWICE) {
        let again = on_virtual_time(run(seed));
        if again.hash() != history.hash() {
            let differs = history
                .lines()
                .iter()
                .zip(again.lines())
                .position(|(one, other)| *one != other);
            let at = differs.unwrap_or_default();
            let around = |history: &History| {
                history.lines()[at.saturating_sub(5)..]
                    .iter()
                    .take(8)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            return Err(format!(
                "two runs differ:\n{}\n\n{}",
                around(&history),
                around(&again)
            ));
        }
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs every seed from `first` to `end`, in steps of `step`; answers those that failed.
fn run_all(first: u64, end: u64, step: usize) -> Vec<u64> {
    let failed = (first..end).step_by(step).filter(|seed| {
        judge(*seed)
            .inspect_err(|broken| println!("SEED={seed}\n{broken}\nSEED={seed}"))
            .is_err()
    });
    failed.collect()
}

/// Seeds are shared among processes, and not among threads: descriptors get their numbers one after the other, and
/// URLs tell them.
fn run_in_processes(seeds: u64) -> bool {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let this = std::env::current_exe().expect("this program");
    let child = |number: usize| {
        let mut child = std::process::Command::new(&this);
        child.args([
            "--exact",
            "--nocapture",
            "seeds::whatever_happens_nothing_is_left_and_everything_works",
        ]);
        child
            .env("NSM_SIM_SHARE", format!("{number}/{count}"))
            .env("NSM_SIM_SEEDS", seeds.to_string());
        child.spawn().expect("a process")
    };
    let children: Vec<_> = (0..count).map(child).collect();
    let ends = children
        .into_iter()
        .map(|mut child| child.wait().is_ok_and(|end| end.success()));
    ends.collect::<Vec<_>>().iter().all(|good| *good)
}

#[test]
fn whatever_happens_nothing_is_left_and_everything_works() {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt().without_time().init();
    }
    let seeds = number("NSM_SIM_SEEDS").unwrap_or(SEEDS);
    let share = std::env::var("NSM_SIM_SHARE").ok();
    let share = share.as_deref().and_then(|share| share.split_once('/'));
    let failed = match (number("NSM_SIM_SEED"), share) {
        (Some(one), _) => run_all(one, one + 1, 1),
        (None, Some((first, step))) => run_all(
            first.parse().expect("a number"),
            seeds,
            step.parse().expect("a number"),
        ),
        (None, None) => {
            assert!(run_in_processes(seeds), "seeds failed, see above");
            return;
        }
    };
    assert!(
        failed.is_empty(),
        "these seeds failed: {failed:?}; run one with NSM_SIM_SEED="
    );
}
