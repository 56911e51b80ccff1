// SPDX-License-Identifier: Apache-2.0
//! One attach, interrupted at every point.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use nsm_sdk::sandbox::Program;
use tokio::time::sleep;

use crate::seeds::{on_virtual_time, turn_by_turn};
use crate::wire::{How, Wire};
use crate::world::{Size, World};

/// One endpoint, one client, one wire.
const SMALL: Size = Size {
    endpoints: 1,
    clients: 1,
    wires: 1,
};

/// More interruptions than an attach has points.
const MANY: usize = 500;

/// After this nothing is on its way any more.
const SETTLED: Duration = Duration::from_secs(10);

fn wire(world: &World) -> &Wire {
    &world.wires()[0]
}

/// Connects and closes, and expects that both work and nothing is left.
async fn works(world: &World, when: &str) {
    if !wire(world).ask(world, How::default()).await {
        world.fail(format!("{when}: no new wire"));
    }
    if !wire(world).close(world, How::default().within).await {
        world.fail(format!("{when}: no close"));
    }
    if world.has_objects(&wire(world).id) {
        world.fail(format!("{when}: something is left after the close"));
    }
}

/// Asks for the wire and drops the call when `gone` ends; answers whether the answer came first.
async fn dropped_when(world: &World, gone: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = gone => false,
        done = wire(world).ask(world, How::default()) => done,
    }
}

/// Nothing is left of a call that its caller has dropped, all of one that was answered is there, and what comes after
/// it works.
async fn settles(world: &World, answered: bool, when: &str) {
    sleep(SETTLED).await;
    match (answered, world.has_objects(&wire(world).id)) {
        (true, false) => world.fail(format!("{when}: the wire is not there although it was answered")),
        (false, true) => world.fail(format!("{when}: something is left of the call")),
        _ => {}
    }
    works(world, when).await;
}

/// Waits for one turn of whoever else can go on.
async fn a_turn() {
    let mut is_over = false;
    poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::replace(&mut is_over, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Drops the call after ever more turns, while messages take no time.
async fn cancel_after_turns(world: &World) -> usize {
    world.node().network().set_delay(Duration::ZERO);
    for count in 0..MANY {
        let turns = async {
            for _ in 0..count {
                a_turn().await;
            }
        };
        let answered = dropped_when(world, turns).await;
        settles(world, answered, &format!("dropped after {count} turns")).await;
        if answered {
            return count;
        }
    }
    MANY
}

/// Drops the call at ever later steps of messages, which take their time.
async fn cancel_after_steps(world: &World) -> usize {
    world.node().network().set_delay(Duration::from_millis(5));
    world
        .node()
        .kernel()
        .set_times(Duration::from_millis(5), Duration::from_millis(5));
    for count in 1..MANY {
        let trap = world.trap(count, |_| {});
        let answered = dropped_when(world, trap).await;
        settles(world, answered, &format!("dropped after {count} steps")).await;
        if answered {
            return count;
        }
    }
    MANY
}

#[test]
fn cancel_at_every_await_point() {
    turn_by_turn(async {
        let world = World::begin(1, SMALL).await;
        let idle = world.idle_tasks().await;
        let turns = cancel_after_turns(&world).await;
        let steps = cancel_after_steps(&world).await;
        println!("dropped after up to {turns} turns and {steps} steps");
        assert!(
            (5..MANY).contains(&turns) && (10..MANY).contains(&steps),
            "{turns} {steps}"
        );
        world.expire().await;
        world.ends_as_it_began(&idle).await;
        world
            .history()
            .verdict()
            .unwrap_or_else(|broken| panic!("{broken}"));
    });
}

/// What the application does when a program has died under its call and is there again.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// It asks until it has its wire.
    AskAgain,
    /// It closes what it has, if it has anything.
    GiveUp,
}

/// Lets `program` die at a step of an attach, and come back; answers whether the attach was over before.
async fn crash(program: Program, step: usize, then: Then) -> bool {
    let world = World::begin(1, SMALL).await;
    let idle = world.idle_tasks().await;
    let when = format!("{program:?} died at step {step}, {then:?}");
    drop(world.trap(step, move |world| world.kill(program)));
    let asked = wire(&world).ask(&world, How::default()).await;
    let is_over = world.node().is_up(program);
    world.disarm();
    sleep(SETTLED).await;
    world.start(program);
    match then {
        Then::AskAgain => {
            asks_until_it_is_there(&world, &when).await;
            works(&world, &when).await;
        }
        Then::GiveUp if wire(&world).answer().is_some() => {
            // What it cannot close expires.
            wire(&world).close(&world, How::default().within).await;
        }
        Then::GiveUp => {}
    }
    world.expire().await;
    world.ends_as_it_began(&idle).await;
    world
        .history()
        .verdict()
        .unwrap_or_else(|broken| panic!("{when}\n{broken}"));
    is_over && asked
}

async fn asks_until_it_is_there(world: &World, when: &str) {
    for _ in 0..20 {
        if wire(world).ask(world, How::default()).await {
            return;
        }
        sleep(SETTLED).await;
    }
    world.fail(format!("I8: {when}: no wire after 20 attempts"));
}

fn crash_everywhere(program: Program) {
    for then in [Then::AskAgain, Then::GiveUp] {
        let over = (1..MANY).find(|step| on_virtual_time(crash(program, *step, then)));
        println!("{program:?} died at each step before {over:?}, {then:?}");
        assert!(over.is_some_and(|steps| steps > 10), "{program:?}: {over:?}");
    }
}

#[test]
fn crash_at_every_step_of_the_registry() {
    crash_everywhere(Program::Registry);
}

#[test]
fn crash_at_every_step_of_the_manager() {
    crash_everywhere(Program::Manager);
}

#[test]
fn crash_at_every_step_of_the_forwarder() {
    crash_everywhere(Program::Forwarder);
}

#[test]
fn crash_at_every_step_of_the_endpoint() {
    crash_everywhere(Program::Endpoint(0));
}

#[test]
fn crash_at_every_step_of_the_client() {
    crash_everywhere(Program::Client(0));
}
