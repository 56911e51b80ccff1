// SPDX-License-Identifier: Apache-2.0
//! Runs of many seeds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
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
    let left = world.idle_tasks().await;
    if left != idle {
        world.fail(format!("I10: there were {idle:?} tasks, and there are {left:?}"));
    }
    world.end().await;
    let open = world.open_files();
    if open > 0 {
        world.fail(format!("I10: {open} files are still open"));
    }
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

#[test]
fn whatever_happens_nothing_is_left_and_everything_works() {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt().without_time().init();
    }
    let one = number("NSM_SIM_SEED");
    let end = one.map_or_else(|| number("NSM_SIM_SEEDS").unwrap_or(SEEDS), |one| one + 1);
    let next = AtomicU64::new(one.unwrap_or(0));
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    if let Err(broken) = judge(seed) {
                        println!("SEED={seed}\n{broken}\nSEED={seed}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 0, "seeds failed");
}
