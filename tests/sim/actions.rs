// SPDX-License-Identifier: Apache-2.0
//! What happens in a world, as its seed decides.

use std::time::Duration;

use nsm_sdk::core::Error;
use nsm_sdk::sandbox::Program;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::wire::{Change, How};
use crate::world::World;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// An application asks for a wire.
    Ask(usize, How),
    /// An application closes a wire, maybe twice at once.
    Close(usize, bool),
    /// An application asks, and closes before it has its answer.
    AskAndClose(usize),
    /// A program dies, and comes back after a while.
    Kill(Program, Duration),
    /// An endpoint takes itself out of the registry, or comes back.
    Announce(usize, bool),
    /// From now on messages take up to this long.
    Delay(Duration),
    /// From now on the kernel refuses one of so many wires; none when that is zero.
    Refuse(u32),
    /// From now on the kernel takes so long to make and to remove.
    Kernel(Duration, Duration),
}

fn millis(random: &mut StdRng, most: u64) -> Duration {
    Duration::from_millis(random.random_range(0..=most))
}

fn change(random: &mut StdRng, endpoints: usize) -> Change {
    match random.random_range(0..10) {
        0..6 => Change::Nothing,
        6 => Change::Color(if random.random() { "red" } else { "blue" }),
        7 | 8 => Change::Endpoint(random.random_range(0..endpoints)),
        _ => Change::Fresh,
    }
}

impl Action {
    /// What happens next.
    pub(crate) fn draw(world: &World) -> Self {
        let (size, programs, wires) = (world.size(), world.programs(), world.wires().len());
        world.draw(|random| {
            let wire = random.random_range(0..wires);
            match random.random_range(0..100) {
                0..30 => {
                    let change = change(random, size.endpoints);
                    Self::Ask(
                        wire,
                        How {
                            change,
                            ..How::default()
                        },
                    )
                }
                30..40 => {
                    let (change, patience) = (change(random, size.endpoints), Some(millis(random, 400)));
                    Self::Ask(
                        wire,
                        How {
                            change,
                            patience,
                            ..How::default()
                        },
                    )
                }
                40..48 => {
                    let (change, within) = (change(random, size.endpoints), millis(random, 300));
                    Self::Ask(
                        wire,
                        How {
                            change,
                            within,
                            ..How::default()
                        },
                    )
                }
                48..60 => Self::Close(wire, random.random_bool(0.3)),
                60..65 => Self::AskAndClose(wire),
                65..83 => Self::Kill(
                    programs[random.random_range(0..programs.len())],
                    millis(random, 4000),
                ),
                83..87 => Self::Announce(random.random_range(0..size.endpoints), random.random()),
                87..92 => Self::Delay(Duration::from_millis(
                    [0, 1, 10, 50, 200, 2000][random.random_range(0..6)],
                )),
                92..96 => Self::Refuse(random.random_range(0..4)),
                _ => Self::Kernel(millis(random, 100), millis(random, 500)),
            }
        })
    }

    /// Lets it happen, beside whatever happens already.
    pub(crate) fn happen(self, world: &World) {
        world.note(format!("{self:?}"));
        let there = world.clone();
        match self {
            Self::Ask(wire, how) => world.spawn(async move {
                there.wires()[wire].ask(&there, how).await;
            }),
            Self::Close(wire, twice) => {
                for _ in 0..=usize::from(twice) {
                    let there = there.clone();
                    world.spawn(async move {
                        there.wires()[wire].close(&there, How::default().within).await;
                    });
                }
            }
            Self::AskAndClose(wire) => {
                let how = How {
                    change: Change::Fresh,
                    ..How::default()
                };
                Self::Ask(wire, how).happen(world);
                Self::Close(wire, false).happen(world);
            }
            Self::Kill(program, pause) => {
                world.kill(program);
                world.spawn(async move {
                    sleep(pause).await;
                    there.start(program);
                });
            }
            Self::Announce(endpoint, is_there) => world.node().announce(endpoint, is_there),
            Self::Delay(most) => world.node().network().set_delay(most),
            Self::Refuse(one_of) => {
                let mut count = 0;
                world.node().kernel().set_fault(move |_| {
                    count += 1;
                    let refused = one_of > 0 && count % one_of == 0;
                    refused.then(|| Error::internal("kernel", "the kernel refuses"))
                });
            }
            Self::Kernel(connect, removal) => world.node().kernel().set_times(connect, removal),
        }
    }
}
