// SPDX-License-Identifier: Apache-2.0
//! The queue of what is to be removed.
//!
//! **Guarantees**: what shares a namespace is handed out together. There is at most one entry for every wire that was
//! ever noted and every interface that was found, and those are bounded.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

use crate::doomed::Doomed;
use crate::netlink::MAX_BATCH;
use crate::netns::NetnsId;

/// What waits to be removed.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Doomed>,
    is_closed: bool,
}

impl Reaper {
    /// Adds to what is to be removed.
    pub(crate) fn push(&self, doomed: Doomed) {
        self.queue.lock().waiting.push_back(doomed);
        self.wake.notify_one();
    }

    /// Lets the threads end when nothing is left.
    pub(crate) fn close(&self) {
        self.queue.lock().is_closed = true;
        self.wake.notify_all();
    }

    /// The next to go, together with what goes with it: what is in the namespace that most of them share.
    pub(crate) fn next(&self) -> Option<(NetnsId, Vec<Doomed>)> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(first) = queue.waiting.front() {
                let share =
                    |netns: &NetnsId| queue.waiting.iter().filter(|doomed| doomed.is_in(*netns)).count();
                let netns = first.ends.iter().map(|end| end.place.netns).max_by_key(share)?;
                let (mut together, mut rest) = (Vec::new(), VecDeque::new());
                for doomed in queue.waiting.drain(..) {
                    if together.len() < MAX_BATCH && doomed.is_in(netns) {
                        together.push(doomed);
                    } else {
                        rest.push_back(doomed);
                    }
                }
                queue.waiting = rest;
                return Some((netns, together));
            }
            if queue.is_closed {
                return None;
            }
            self.wake.wait(&mut queue);
        }
    }
}
